//! `cargo xtask job`: up, run-cluster, get-results and down in one command.
//!
//! Each step is a process of its own. If a step fails, panics or is killed, this process can fetch the complete batches and take
//! the stack down. If this process is killed, the current step ends with it, and the machines terminate themselves after
//! their time to live.

mod steps;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{anyhow, bail, ensure};

use self::steps::{Failed, Limit, Step, Steps};
use crate::commands::up::NOTHING_DONE;
use crate::settings::Settings;
use deploy::input::check_inputs;
use deploy::options::refuse_unnamed_model;
use deploy::request::{Down, GetResults, Job, Partial, Provider, Request, RunCluster, RunMode, Up};
use deploy::{console, exit, interrupt};
use deploy_ssh::inventory::Inventory;

/// The second Ctrl-C skips the fetching; the third leaves the stack to its time to live.
const SKIP: usize = 2;
const LEAVE: usize = 3;
/// How long fetching the complete batches may take.
const FETCH_TIME: Duration = Duration::from_secs(600);
/// The share of the machines' remaining time that is reserved for fetching the complete batches.
const LAST_SHARE: u32 = 8;
/// How long before the end of the machines the fetching ends at the latest.
const MARGIN: Duration = Duration::from_secs(20);
/// How long a job may take to end its programs, and a fetch to pack what it has.
const END_TIME: Duration = Duration::from_secs(60);
const PACK_TIME: Duration = Duration::from_secs(30);

/// Runs all steps.
pub(crate) fn job(args: &Job) -> anyhow::Result<ExitCode> {
    let job = JobRun { steps: Steps { kill_at: LEAVE }, args };
    // Before machines cost money.
    job.check().map_err(exit::refused)?;
    interrupt::count()?;
    match job.steps.run(&job.up()) {
        Ok(()) => {
            let outcome = job.run();
            job.end(outcome)
        }
        Err(failed) if failed.is(NOTHING_DONE) => {
            let stays = job.what_stays();
            if failed.was_interrupted() {
                console::note(&format!("interrupted; nothing was made, so nothing is taken down{stays}"));
                return Ok(ExitCode::from(interrupt::EXIT_CODE));
            }
            Err(exit::refused(anyhow!(
                "nothing was made, so nothing is taken down{stays}; the reason is above"
            )))
        }
        Err(failed) => job.end(Err(failed)),
    }
}

struct JobRun<'a> {
    steps: Steps,
    args: &'a Job,
}

impl JobRun<'_> {
    /// The option by which the stack stays; `None` if it is taken down.
    fn keeps(&self, fails: bool) -> Option<&'static str> {
        match (self.args.keep, self.args.keep_on_failure) {
            (true, _) => Some("--keep"),
            (_, true) if fails => Some("--keep-on-failure"),
            _ => None,
        }
    }

    /// Checks what can be checked before anything is created.
    fn check(&self) -> anyhow::Result<()> {
        let rows = &self.args.job.rows;
        ensure!(
            rows.paths().iter().all(|path| path != Path::new("-")),
            "standard input cannot be shipped to the hosts; give a file"
        );
        check_inputs(rows.paths())?;
        let before = self.inventory().is_some_and(|inventory| inventory.has_named_model());
        refuse_unnamed_model(rows, self.args.up.model.is_some() || before)
    }

    fn step(&self, name: &'static str, request: Request) -> Step {
        Step::new(name, request, self.keeps(true).is_none())
    }

    /// When it is interrupted, it undoes what it has made, as this job would.
    fn up(&self) -> Step {
        let up = Up { provider: Some(Provider::Aws), ..self.args.up.clone() };
        self.step("up", Request::Up(up)).asked_at(1..SKIP, Duration::MAX)
    }

    fn run_cluster(&self) -> Step {
        let run = RunCluster {
            mode: RunMode::New,
            // That of up.
            model: None,
            job: self.args.job.clone(),
            inventory: self.inventory_path(),
        };
        self.step("run-cluster", Request::RunCluster(run)).asked_at(1..LEAVE, END_TIME)
    }

    fn get_results(&self, partial: Option<Partial>) -> Step {
        let get = GetResults { output: self.args.output.clone(), partial, inventory: self.inventory_path() };
        self.step("get-results", Request::GetResults(get))
    }

    /// It never takes down another person's stack of the same name, whatever became of `up`.
    fn down(&self) -> Step {
        let down = Down {
            force: false,
            discard_results: true,
            provider: Some(Provider::Aws),
            stack: self.args.up.stack.name.clone(),
            own: true,
            settle: self.args.up.stack.settle,
            regions: self.args.up.stack.regions.clone(),
            inventory: self.inventory_path(),
        };
        self.step("down", Request::Down(down))
    }

    fn inventory_path(&self) -> PathBuf {
        self.args.up.inventory.clone()
    }

    /// Runs the job and fetches its results, or its complete batches.
    fn run(&self) -> Result<(), Failed> {
        if interrupt::is_wanted() {
            return Err(Failed::interrupted("run-cluster"));
        }
        let mut step = self.run_cluster();
        if self.keeps(true).is_none()
            && let Some(ends) = self.inventory().and_then(|inventory| inventory.ends())
        {
            let last_call = last_call(ends.duration_since(SystemTime::now()).unwrap_or_default());
            step = step.until(Limit {
                at: ends - last_call,
                reason: format!(
                    "its machines end by themselves at {}",
                    humantime::format_rfc3339_seconds(ends)
                ),
            });
        }
        if let Err(failed) = self.steps.run(&step) {
            // If the stack stays, the user can fetch later. Another job is left alone.
            if self.keeps(true).is_none() && !failed.met_another_job() {
                // The error is printed, and why the job failed matters more.
                let _ = self.fetch(&failed);
            }
            return Err(failed);
        }
        // If fetching fails, the fallback fetches the complete batches.
        let fetched = match interrupt::is_wanted() {
            true => Err(Failed::interrupted("get-results")),
            false => self.steps.run(&self.get_results(None).asked_at(1..LEAVE, PACK_TIME)),
        };
        fetched.or_else(|failed| self.fetch(&failed))
    }

    /// A remark about a stack that existed before and stays as it was.
    fn what_stays(&self) -> String {
        match self.inventory() {
            Some(_) => {
                format!(
                    " (a stack that existed before stays; {}; cargo xtask down destroys it)",
                    self.machines_end()
                )
            }
            None => String::new(),
        }
    }

    /// Fetches the complete batches of a job that failed.
    fn fetch(&self, failed: &Failed) -> Result<(), Failed> {
        // Another interruption skips this.
        let times = interrupt::times();
        if times >= SKIP {
            return Err(Failed::interrupted("get-results"));
        }
        let now = SystemTime::now();
        let ends = self.inventory().and_then(|inventory| inventory.ends());
        let left = ends.map(|ends| ends.duration_since(now).unwrap_or_default().saturating_sub(MARGIN));
        let time = left.map_or(FETCH_TIME, |left| left.min(FETCH_TIME));
        console::note(&format!(
            "fetching the complete batches, for at most {} (Ctrl-C skips that)",
            console::clock(time.as_secs_f64())
        ));
        let why = if failed.was_interrupted() { "interrupted".to_owned() } else { failed.to_string() };
        let partial =
            Partial { within: Some(Duration::from_secs(time.as_secs())), end_job: true, because: Some(why) };
        let step = self
            .get_results(Some(partial))
            .since(times)
            .asked_at(times + 1..LEAVE, PACK_TIME)
            .until(Limit { at: now + time + PACK_TIME, reason: "its time is over".to_owned() });
        self.steps.run(&step).inspect_err(|failed| {
            console::note(&format!("nothing was fetched: {failed}"));
        })
    }

    /// Takes the stack down unless it stays, and reports the outcome of the job.
    fn end(&self, outcome: Result<(), Failed>) -> anyhow::Result<ExitCode> {
        if let Err(failed) = outcome.as_ref()
            && failed.met_another_job()
        {
            console::note(&format!(
                "another job or command uses the stack, which is left as it is; {}",
                self.machines_end()
            ));
            return outcome.map(|()| ExitCode::SUCCESS).map_err(Failed::into_error);
        }
        match self.keeps(outcome.is_err()) {
            Some(option) => self.keep(option, outcome),
            None => self.take_down(outcome),
        }
    }

    fn keep(&self, option: &str, outcome: Result<(), Failed>) -> anyhow::Result<ExitCode> {
        let is_up = !outcome.as_ref().is_err_and(|failed| failed.step() == "up");
        let stack = if is_up { "the stack is left up" } else { "what up has made of the stack is left up" };
        console::note(&format!(
            "{stack}, as {option} asks; {}; take it down with: cargo xtask down",
            self.machines_end()
        ));
        if is_up && outcome.is_err() {
            console::note(
                "cargo xtask get-results --partial fetches the complete batches, and cargo xtask run-cluster --resume continues",
            );
        }
        match outcome {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(failed) if failed.was_interrupted() => Ok(ExitCode::from(interrupt::EXIT_CODE)),
            Err(failed) => Err(failed.into_error()),
        }
    }

    fn take_down(&self, outcome: Result<(), Failed>) -> anyhow::Result<ExitCode> {
        if interrupt::times() == SKIP {
            console::note(
                "interrupted twice: the stack is taken down (once more: it is left to its time to live)",
            );
        }
        let down = (interrupt::times() < LEAVE).then(|| self.steps.run(&self.down()));
        match (outcome, down) {
            (_, None) => Ok(self.leave()),
            (_, Some(Err(_))) if interrupt::times() >= LEAVE => Ok(self.leave()),
            (Ok(()), Some(Ok(()))) => Ok(ExitCode::SUCCESS),
            (Err(failed), Some(Ok(()))) if failed.was_interrupted() => {
                console::note("interrupted; the stack is down");
                Ok(ExitCode::from(interrupt::EXIT_CODE))
            }
            (Err(failed), Some(Ok(()))) => {
                Err(failed.into_error().context("the job has failed, and the stack is down"))
            }
            (Ok(()), Some(Err(down))) => {
                bail!("the job is done, but the stack is not down: {down}; {}", self.machines_end())
            }
            (Err(failed), Some(Err(down))) => {
                bail!("{failed}\n\nbesides, the stack is not down: {down}; {}", self.machines_end())
            }
        }
    }

    /// Leaves the stack to its time to live, since the user does not want to wait.
    fn leave(&self) -> ExitCode {
        console::note(&format!(
            "interrupted three times: the stack is left as it is; {}, and cost money until then; end them now with: cargo xtask \
             down",
            self.machines_end()
        ));
        ExitCode::from(interrupt::EXIT_CODE)
    }

    /// A text with the time at which the last machine terminates itself.
    fn machines_end(&self) -> String {
        let known =
            self.inventory().and_then(|inventory| inventory.hosts.iter().filter_map(|host| host.ends).max());
        if let Some(ends) = known {
            return format!("its machines end by themselves {}", moment(ends));
        }
        // `up` did not get far enough to know its machines, so their time to live has begun only recently.
        let settings = Settings::load(&Settings::path(&self.args.up.inventory)).ok().flatten();
        match settings {
            Some(settings) => {
                let ends = SystemTime::now() + Duration::from_secs(60 * settings.time_to_live_minutes);
                format!("its machines, if there are any, end by themselves {} at the latest", moment(ends))
            }
            None => {
                "its machines, if there are any, end by themselves when their time to live is over".to_owned()
            }
        }
    }

    /// The stack's inventory, if `up` got that far.
    fn inventory(&self) -> Option<Inventory> {
        // The steps report an inventory that cannot be read.
        Inventory::load_if_there(&self.args.up.inventory)
            .ok()
            .flatten()
            .filter(|inventory| inventory.stack.is_some())
    }
}

/// How long before the end of its machines a job is ended, to leave time for fetching the complete batches.
fn last_call(left: Duration) -> Duration {
    (left / LAST_SHARE).min(FETCH_TIME)
}

/// A point in time, and the time until then.
fn moment(at: SystemTime) -> String {
    let left = at.duration_since(SystemTime::now()).unwrap_or_default().as_secs_f64();
    format!("at {} (in {})", humantime::format_rfc3339_seconds(at), console::clock(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_ends_early_enough_to_fetch_its_complete_batches() {
        assert_eq!(last_call(Duration::from_secs(4 * 3600)), FETCH_TIME);
        assert_eq!(last_call(Duration::from_secs(600)), Duration::from_secs(75));
    }
}
