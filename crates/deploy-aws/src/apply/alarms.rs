//! Creates and deletes alarms, at the rate that CloudWatch accepts.
//!
//! Alarms take longest of all parts of a stack, and the stack works without them. So they are created while machines boot, and
//! a call that fails does not make `up` fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use aws_sdk_cloudwatch::types::{ComparisonOperator, Dimension, Statistic};
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::aws::{Aws, Explain};
use crate::desired::{Action, CHECK, Desired, TAG, alarm_name};
use crate::errors::{Class, ignore};
use crate::plan::{AlarmTarget, Change};
use deploy::{console, interrupt};

/// The pause between two calls. CloudWatch accepts three a second for an account, and others use it as well.
const PAUSE: Duration = Duration::from_millis(400);
/// EC2 checks an instance once a minute.
const CHECK_SECONDS: i32 = 60;

/// The pace of calls; the first tick completes at once.
pub(crate) fn pace() -> Interval {
    let mut pace = interval(PAUSE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

/// Alarms that are being changed.
pub(crate) struct Alarms {
    work: JoinHandle<Vec<anyhow::Error>>,
    count: usize,
    progress: Arc<Progress>,
}

/// Shared with the task that makes the calls.
#[derive(Default)]
struct Progress {
    begun: AtomicUsize,
    is_cancelled: AtomicBool,
}

/// Makes changes of alarms.
#[derive(Clone)]
struct Changer {
    aws: Aws,
    desired: Desired,
    /// The topic's ARN.
    topic: String,
}

impl Alarms {
    /// Starts to make the changes of alarms; ignores other changes.
    pub(crate) fn begin(
        runtime: &Runtime,
        aws: &Aws,
        desired: &Desired,
        topic: &str,
        changes: Vec<Change>,
    ) -> Self {
        let changes: Vec<_> = changes.into_iter().filter(Change::is_alarm).collect();
        let (progress, count) = (Arc::<Progress>::default(), changes.len());
        let changer = Changer { aws: aws.clone(), desired: desired.clone(), topic: topic.to_owned() };
        let work = change_all(changer, changes, Arc::clone(&progress));
        Self { work: runtime.spawn(work), count, progress }
    }

    /// Waits until all are changed, and prints what failed.
    ///
    /// # Errors
    /// The user interrupted.
    pub(crate) fn finish(self, runtime: &Runtime) -> anyhow::Result<()> {
        if !self.work.is_finished() {
            let bar = console::Steps::new("changing alarms, at the rate that CloudWatch accepts", self.count);
            while !self.work.is_finished() {
                bar.set(self.progress.begun.load(Ordering::Relaxed));
                if let Err(interrupted) = interrupt::check() {
                    drop(bar);
                    self.cancel(runtime);
                    return Err(interrupted);
                }
                std::thread::sleep(PAUSE / 8);
            }
        }
        let failed = runtime.block_on(self.work).context("changing alarms")?;
        if let Some(first) = failed.first() {
            console::note(&format!(
                "the stack is up, but {} of {} calls for alarms failed, the first one because: {first:#}; another cargo xtask up \
                 tries them again",
                failed.len(),
                self.count
            ));
        }
        Ok(())
    }

    /// Starts no further call, and waits for the running ones, so that `destroy` finds their alarms.
    pub(crate) fn cancel(self, runtime: &Runtime) {
        self.progress.is_cancelled.store(true, Ordering::Relaxed);
        // Failures do not matter, since the alarms are about to be deleted.
        let _ = runtime.block_on(self.work);
    }
}

/// Makes the changes; returns what failed.
async fn change_all(changer: Changer, changes: Vec<Change>, progress: Arc<Progress>) -> Vec<anyhow::Error> {
    let mut pace = pace();
    let mut calls = JoinSet::new();
    for change in changes {
        pace.tick().await;
        if progress.is_cancelled.load(Ordering::Relaxed) {
            break;
        }
        progress.begun.fetch_add(1, Ordering::Relaxed);
        let changer = changer.clone();
        calls.spawn(async move { changer.change(&change).await });
    }
    calls.join_all().await.into_iter().filter_map(Result::err).collect()
}

impl Changer {
    async fn change(&self, change: &Change) -> anyhow::Result<()> {
        match change {
            Change::DeleteAlarms(names) => delete(&self.aws, names).await,
            Change::PutAlarm { target: AlarmTarget::Existing(instance), action, minutes, .. } => {
                self.put(instance, *action, *minutes).await
            }
            _ => bail!("{} is not a call for an alarm of an existing instance", change.call()),
        }
    }

    async fn put(&self, instance: &str, action: Action, minutes: i32) -> anyhow::Result<()> {
        let Self { aws, desired, topic } = self;
        let stack = &desired.name;
        let (description, arn) = match action {
            Action::Notify => (format!("A machine of {stack} fails EC2's checks"), topic.clone()),
            Action::Terminate => (
                format!("A machine of {stack} fails EC2's checks for {minutes} minutes, and is terminated"),
                desired.terminate_arn(),
            ),
        };
        let put = aws
            .cloudwatch
            .put_metric_alarm()
            .alarm_name(alarm_name(stack, instance, action))
            .alarm_description(description)
            .namespace("AWS/EC2")
            .metric_name(CHECK)
            .dimensions(Dimension::builder().name("InstanceId").value(instance).build())
            .statistic(Statistic::Maximum)
            .period(CHECK_SECONDS)
            .evaluation_periods(minutes * 60 / CHECK_SECONDS)
            .threshold(1.0)
            .comparison_operator(ComparisonOperator::GreaterThanOrEqualToThreshold)
            .alarm_actions(arn)
            .tags(aws_sdk_cloudwatch::types::Tag::builder().key(TAG).value(stack).build())
            .send()
            .await;
        let put = put.explain("cloudwatch:PutMetricAlarm", aws);
        put.map(drop).with_context(|| format!("creating an alarm for {instance}"))
    }
}

/// Deletes at most [`crate::plan::DELETED_AT_ONCE`] alarms.
pub(crate) async fn delete(aws: &Aws, names: &[String]) -> anyhow::Result<()> {
    let deleted = aws.cloudwatch.delete_alarms().set_alarm_names(Some(names.to_vec())).send().await;
    ignore(Class::NotFound, deleted.explain("cloudwatch:DeleteAlarms", aws).map(drop))
}
