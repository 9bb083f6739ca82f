//! Runs a local job whose folder is there, and publishes its results.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use files::remove_if_there;
use protocol::result_files::ARCHIVE;

use super::objects::Objects;
use super::shown::{describe, show, show_model_logs};
use super::{HubMode, LocalJob, Progress, before};
use crate::console;
use crate::host::Host;
use crate::host::local::Local;
use crate::job::{self, Export, Hosts, Hub, Input, Job, Times, WhileRunning};
use crate::objects::{Signatures, UPLOADS};
use crate::options::{self, threads_each};
use crate::output::{JobFolder, Jobs, State};

/// A job that is ready to run on this machine.
pub(super) struct Prepared {
    pub(super) programs: PathBuf,
    pub(super) host: Local,
    pub(super) input: Input,
    pub(super) types: Option<String>,
    pub(super) export: Option<Export>,
    pub(super) objects: Option<Objects>,
    pub(super) folder: JobFolder,
    pub(super) logs: PathBuf,
    pub(super) run_folder: PathBuf,
    /// In each process.
    pub(super) threads: usize,
    pub(super) processes: usize,
}

impl Prepared {
    /// Runs it until its results are published. Returns the exit code.
    ///
    /// # Errors
    /// Those of [`job::run`]; or the results cannot be published.
    pub(super) fn run(
        self,
        args: &LocalJob,
        start: Instant,
        jobs: &Jobs,
        progress: &Progress,
    ) -> anyhow::Result<u8> {
        let Self { programs, host, input, types, export, mut objects, mut folder, .. } = self;
        let Self { logs, run_folder, threads, processes, .. } = self;
        objects.iter_mut().try_for_each(|objects| objects.begin_uploads(args, &folder))?;
        let files = folder.files()?;
        let archive = args.pack.then(|| folder.path.join(ARCHIVE));

        console::note(&format!(
            "{} on {}{}, through {}",
            describe(&input),
            match processes {
                1 => format!("{threads} workers"),
                _ => format!("{} workers ({processes} processes of {threads})", processes * threads),
            },
            threads_each(args.model(), &args.model_args()),
            args.model()
        ));
        console::note(&format!("logs       {}", logs.display()));
        let token_file = run_folder.join("token");
        let token = job::make_token()?;
        token.save(&token_file)?;
        let (input_words, output_words) = (describe(&input), args.output.display().to_string());
        let description = options::describe(
            args.model(),
            &args.model_args(),
            input_words,
            output_words,
            threads * processes,
        );
        let job = Job {
            input,
            types,
            model_args: args.model_args(),
            workers: threads,
            environment: args.job.environment.clone(),
            results: files.results.clone(),
            archive: archive.clone(),
            export,
            run_folder,
            token,
            token_file: token_file.clone(),
            max_rejects: args.job.max_rejects,
            lifetime: None,
            description,
        };
        let hosts = Hosts { metrics: &host, classifiers: vec![&host as &dyn Host; processes] };
        let hub = if args.hub == HubMode::None { None } else { Hub::start(&job, &host, &folder.path)? };
        let when_begun = || {
            progress.begun.set(true);
            Ok(())
        };
        let signer = objects.as_ref().and_then(Objects::signer);
        let signatures = signer.map(|signer| Signatures::new(signer, signer.until(), None));
        let outcome = match folder.state()? {
            State::Done(_) => {
                let packed = job::pack(&job, &host, signatures);
                packed.map(|packing| Times { forming: Duration::ZERO, packing })
            }
            _ => job::run(
                &job,
                &hosts,
                hub.as_ref(),
                WhileRunning { when_begun: Some(&when_begun), signatures },
            ),
        };
        drop(objects);
        if progress.begun.get() {
            let changes =
                before::note_changes(args, &mut folder, &job.input, job.types.as_deref(), &programs);
            if let Err(error) = changes {
                console::note(&format!("{error:#}"));
            }
        }
        // Only restarted programs read the token again; the hub that stays does not need it.
        let removed = std::fs::remove_file(&token_file);
        let summary = outcome.and_then(|times| {
            removed.with_context(|| format!("removing the job token {}", token_file.display()))?;
            let State::Done(summary) = folder.state()? else {
                return Err(anyhow!(
                    "the job's programs have ended, but {} is not complete",
                    folder.path.display()
                ));
            };
            folder.note_export()?;
            jobs.publish(&folder, hub.is_some())?;
            remove_if_there(&folder.path.join(UPLOADS))?;
            let code = show(args, &folder, &summary, start.elapsed())?;
            *progress.summary.borrow_mut() = Some(summary);
            if archive.is_some() {
                let (seconds, path) = (times.packing.as_secs_f64(), args.output.join(ARCHIVE));
                console::data(&format!(
                    "packed     {seconds:.2} s after the last results, to {}",
                    path.display()
                ));
            }
            // The job is done, whatever comes of this.
            if let Err(error) = show_model_logs(&host, processes) {
                console::note(&format!("{error:#}"));
            }
            Ok(code)
        });
        if args.hub == HubMode::Keep {
            *progress.hub.borrow_mut() = hub.map(|hub| (hub, host));
        }
        summary
    }
}
