//! Alarms, at the pace at which CloudWatch takes them.
//!
//! A stack works without its alarms, and they take longest of all that it consists of: they are made while machines boot, and
//! none that fails makes `up` fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use aws_sdk_cloudwatch::types::{ComparisonOperator, Dimension, Statistic};
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::aws::{Aws, Explain};
use super::desired::{Action, CHECK, Desired, TAG, alarm_name};
use super::errors::{Class, unless};
use super::plan::{Change, Of};
use deploy::{console, interrupt};

/// The time from one call to the next. CloudWatch takes three a second of an account, and others may make some, too.
const PAUSE: Duration = Duration::from_millis(400);
/// What EC2 checks, it checks once a minute.
const CHECK_SECONDS: i32 = 60;

/// The pace of calls, the first of which may be made at once.
pub(super) fn pace() -> Interval {
    let mut pace = interval(PAUSE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

/// Alarms that are being changed.
pub(super) struct Alarms {
    work: JoinHandle<Vec<anyhow::Error>>,
    count: usize,
    begun: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
}

impl Alarms {
    /// Begins with those of the changes that are about alarms.
    pub(super) fn begin(
        runtime: &Runtime,
        aws: &Aws,
        desired: &Desired,
        topic: &str,
        changes: Vec<Change>,
    ) -> Self {
        let changes: Vec<_> = changes.into_iter().filter(Change::is_alarm).collect();
        let (begun, is_over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let count = changes.len();
        let work =
            change((aws.clone(), desired.clone(), topic.to_owned()), changes, begun.clone(), is_over.clone());
        Self { work: runtime.spawn(work), count, begun, is_over }
    }

    /// Waits until all are changed, and says what failed.
    ///
    /// # Errors
    /// Somebody has interrupted.
    pub(super) fn finish(self, runtime: &Runtime) -> anyhow::Result<()> {
        if !self.work.is_finished() {
            let bar =
                console::Steps::new("changing alarms, as many a second as CloudWatch takes", self.count);
            while !self.work.is_finished() {
                bar.set(self.begun.load(Ordering::Relaxed));
                if let Err(interrupted) = interrupt::check() {
                    drop(bar);
                    self.give_up(runtime);
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

    /// Begins no further call, and waits for those that were begun: their alarms are to be found by whoever undoes the stack.
    pub(super) fn give_up(self, runtime: &Runtime) {
        self.is_over.store(true, Ordering::Relaxed);
        // What failed makes no difference any more.
        let _ = runtime.block_on(self.work);
    }
}

/// Makes the changes; gives what failed.
async fn change(
    of: (Aws, Desired, String),
    changes: Vec<Change>,
    begun: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
) -> Vec<anyhow::Error> {
    let mut pace = pace();
    let mut calls = JoinSet::new();
    for change in changes {
        pace.tick().await;
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        begun.fetch_add(1, Ordering::Relaxed);
        let (aws, desired, topic) = of.clone();
        calls.spawn(async move { one(&aws, &desired, topic, &change).await });
    }
    calls.join_all().await.into_iter().filter_map(Result::err).collect()
}

async fn one(aws: &Aws, desired: &Desired, topic: String, change: &Change) -> anyhow::Result<()> {
    match change {
        Change::DeleteAlarms(names) => delete(aws, names).await,
        Change::PutAlarm { of: Of::Id(instance), action, minutes, .. } => {
            let does = match action {
                Action::Notify => topic,
                Action::Terminate => desired.terminate_arn(),
            };
            put(aws, desired, instance, *action, *minutes, does).await
        }
        _ => bail!("{} is about no alarm of an instance that is there", change.call()),
    }
}

/// Deletes alarms, as many as one call takes.
pub(super) async fn delete(aws: &Aws, names: &[String]) -> anyhow::Result<()> {
    let gone = aws.cloudwatch.delete_alarms().set_alarm_names(Some(names.to_vec())).send().await;
    unless(Class::NotFound, gone.explain("cloudwatch:DeleteAlarms", aws).map(drop))
}

async fn put(
    aws: &Aws,
    desired: &Desired,
    instance: &str,
    action: Action,
    minutes: i32,
    does: String,
) -> anyhow::Result<()> {
    let stack = &desired.name;
    let what = match action {
        Action::Notify => format!("A machine of {stack} fails the checks of EC2"),
        Action::Terminate => {
            format!("A machine of {stack} fails the checks of EC2 for {minutes} minutes, and is ended")
        }
    };
    let put = aws
        .cloudwatch
        .put_metric_alarm()
        .alarm_name(alarm_name(stack, instance, action))
        .alarm_description(what)
        .namespace("AWS/EC2")
        .metric_name(CHECK)
        .dimensions(Dimension::builder().name("InstanceId").value(instance).build())
        .statistic(Statistic::Maximum)
        .period(CHECK_SECONDS)
        .evaluation_periods(minutes * 60 / CHECK_SECONDS)
        .threshold(1.0)
        .comparison_operator(ComparisonOperator::GreaterThanOrEqualToThreshold)
        .alarm_actions(does)
        .tags(aws_sdk_cloudwatch::types::Tag::builder().key(TAG).value(stack).build())
        .send()
        .await;
    let put = put.explain("cloudwatch:PutMetricAlarm", aws);
    put.map(drop).with_context(|| format!("making an alarm for {instance}"))
}
