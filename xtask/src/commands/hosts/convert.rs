//! Converts the flags of commands for hosts to requests.

use std::path::PathBuf;

use anyhow::ensure;
use deploy::options::JobOptions;
use deploy::project;
use deploy::request::{
    Down, GetResults, Hub, Job, Logs, Partial, Plan, Provider, Request, RunCluster, RunMode, Ssh,
    StackOptions, Status, Stop, Up,
};

use super::{
    ClusterJobArgs, GetResultsArgs, HostCommand, InventoryArgs, ModelName, PrepareArgs, ProviderArg,
    RunClusterArgs, SourceArgs, StackArgs,
};
use crate::commands::result_args::output;

impl HostCommand {
    /// Converts the flags to the request for the program that executes the command.
    ///
    /// # Errors
    /// If the current folder cannot be found.
    pub(super) fn request(&self) -> anyhow::Result<Request> {
        Ok(match self {
            Self::Plan(args) => Request::Plan(Plan {
                cluster_size: args.cluster_size,
                json: args.json,
                stack: args.stack.options(),
                inventory: args.inventory.path()?,
            }),
            Self::Up(args) => Request::Up(args.prepare.up(Some(&args.source))?),
            Self::Job(args) => Request::Job(Box::new(Job {
                up: args.prepare.up(None)?,
                job: args.job.options()?,
                output: output(args.output.as_ref())?,
                keep: args.keep,
                keep_on_failure: args.keep_on_failure,
            })),
            Self::RunCluster(args) => Request::RunCluster(args.run_cluster()?),
            Self::GetResults(args) => Request::GetResults(args.get_results()?),
            Self::Status(args) => {
                Request::Status(Status { json: args.json, inventory: args.inventory.path()? })
            }
            Self::Logs(args) => Request::Logs(Logs {
                host: args.host.clone(),
                follow: args.follow,
                lines: args.lines,
                inventory: args.inventory.path()?,
            }),
            Self::Ssh(args) => Request::Ssh(Ssh {
                host: args.host.clone(),
                command: args.command.clone(),
                inventory: args.inventory.path()?,
            }),
            Self::Hub(args) => Request::Hub(Hub { inventory: args.inventory.path()? }),
            Self::Stop(args) => Request::Stop(Stop { inventory: args.inventory.path()? }),
            Self::Down(args) => Request::Down(Down {
                force: args.force,
                discard_results: args.discard_results,
                provider: args.provider.map(Provider::from),
                stack: args.stack.clone(),
                own: args.own,
                settle: args.settle,
                regions: args.region.clone(),
                inventory: args.inventory.path()?,
            }),
        })
    }
}

impl HostCommand {
    /// The model given by --model.
    pub(super) fn model(&self) -> Option<&ModelName> {
        match self {
            Self::Up(up) => up.prepare.model.as_ref(),
            Self::Job(job) => job.prepare.model.as_ref(),
            Self::RunCluster(run) => run.model.as_ref(),
            _ => None,
        }
    }
}

impl InventoryArgs {
    fn path(&self) -> anyhow::Result<PathBuf> {
        self.inventory.clone().map_or_else(|| project::default_folder("inventory.toml"), Ok)
    }
}

impl StackArgs {
    fn options(&self) -> StackOptions {
        let args = self.clone();
        StackOptions {
            name: args.stack,
            regions: args.region,
            instance_types: args.instance_type,
            image: args.ami,
            subnet: args.subnet,
            ssh_from: args.ssh_from,
            ssh_user: args.ssh_user,
            spot: args.spot,
            time_to_live: args.ttl,
            disk_gib: args.disk_gib,
            on_call: args.oncall,
            boot_time: args.boot_time,
            settle: args.settle,
        }
    }
}

impl PrepareArgs {
    fn up(&self, source: Option<&SourceArgs>) -> anyhow::Result<Up> {
        Ok(Up {
            cluster_size: self.cluster_size,
            provider: source.and_then(|source| source.provider).map(Provider::from),
            hosts: source.and_then(|source| source.hosts.clone()),
            ssh_config: source.and_then(|source| source.ssh_config.clone()),
            model: self.model.as_ref().map(|model| model.name.clone()),
            requirements: self.requirements.clone(),
            include: self.include.clone(),
            stack: self.stack.options(),
            inventory: self.inventory.path()?,
        })
    }
}

impl From<ProviderArg> for Provider {
    fn from(arg: ProviderArg) -> Self {
        match arg {
            ProviderArg::Ssh => Self::Ssh,
            ProviderArg::Aws => Self::Aws,
        }
    }
}

impl ClusterJobArgs {
    fn options(&self) -> anyhow::Result<JobOptions> {
        let options = self.rows.job(&self.model_args, &self.results, self.workers)?;
        ensure!(
            options.results.form.is_none() || options.results.upload.is_some(),
            "--format is for what a job on hosts uploads; give --upload s3://BUCKET/FOLDER/, too"
        );
        Ok(options)
    }
}

impl RunClusterArgs {
    fn run_cluster(&self) -> anyhow::Result<RunCluster> {
        Ok(RunCluster {
            mode: match (self.attach, self.resume) {
                (true, _) => RunMode::Attach,
                (false, true) => RunMode::Resume,
                (false, false) => RunMode::New,
            },
            model: self.model.as_ref().map(|model| model.name.clone()),
            job: self.job.options()?,
            inventory: self.inventory.path()?,
        })
    }
}

impl GetResultsArgs {
    fn get_results(&self) -> anyhow::Result<GetResults> {
        Ok(GetResults {
            output: output(self.output.as_ref())?,
            partial: self.partial.then(|| Partial { within: self.within, ..Partial::default() }),
            inventory: self.inventory.path()?,
        })
    }
}
