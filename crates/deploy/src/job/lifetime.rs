//! When a job's machines end by themselves, held against how long the job still takes. Pure: the time is told.

use std::time::{Duration, SystemTime};

use crate::console::clock;

/// How often it is said again that the machines end too soon.
const REPEAT: Duration = Duration::from_secs(300);
/// How long before the end of the machines it is said that they end, when nothing is known of the job's.
const NOTICE: Duration = Duration::from_secs(900);
/// After so long without an estimate, there is none to come.
const ESTIMATE: Duration = Duration::from_secs(30);
/// What packing and fetching the results take after the last row, at least.
const AFTER: Duration = Duration::from_secs(60);
/// With less than this, a job hardly gets to its first row.
const START: Duration = Duration::from_secs(300);

/// When machines end by themselves.
#[derive(Debug, Clone)]
pub struct Lifetime {
    ends: SystemTime,
    /// The same, for people.
    at: String,
    /// What the user can do about it.
    advice: &'static str,
}

/// How a job stands to the end of its machines, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outlook {
    InTime,
    /// The machines end soon, and how long the job takes is not known.
    Unknown,
    /// It may end after them.
    Tight,
    /// It ends after them, however well it goes.
    TooLate,
}

fn outlook(machines: Duration, job: Option<(f64, f64)>) -> Outlook {
    let room = machines.saturating_sub(AFTER).as_secs_f64();
    match job {
        None if machines <= NOTICE => Outlook::Unknown,
        Some((least, _)) if least > room => Outlook::TooLate,
        Some((_, most)) if most > room => Outlook::Tight,
        _ => Outlook::InTime,
    }
}

impl Lifetime {
    /// Of machines that end then.
    pub fn new(ends: SystemTime, at: String, advice: &'static str) -> Self {
        Self { ends, at, advice }
    }

    fn left(&self, now: SystemTime) -> Duration {
        self.ends.duration_since(now).unwrap_or_default()
    }

    fn end(&self, now: SystemTime) -> String {
        let left = self.left(now);
        match left.is_zero() {
            true => format!("the machines were to end by themselves at {}", self.at),
            false => {
                format!("the machines end by themselves at {} (in {})", self.at, clock(left.as_secs_f64()))
            }
        }
    }

    /// What is to be said before a job is started, if its machines end too soon for any.
    pub fn at_start(&self, now: SystemTime) -> Option<String> {
        (self.left(now) < START).then(|| {
            format!(
                "{}, too soon for a job; replace them first: cargo xtask down, then cargo xtask up",
                self.end(now)
            )
        })
    }
}

/// What has been said of a lifetime while a job runs.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    begun: Option<SystemTime>,
    last: Option<(SystemTime, Outlook)>,
}

impl Warnings {
    /// What is to be said now of a job that still takes between so many seconds and so many: at once when the outlook
    /// becomes worse, and every few minutes as long as it is bad.
    pub(crate) fn next(
        &mut self,
        lifetime: &Lifetime,
        now: SystemTime,
        job: Option<(f64, f64)>,
    ) -> Option<String> {
        let outlook = outlook(lifetime.left(now), job);
        let begun = *self.begun.get_or_insert(now);
        let is_early =
            outlook == Outlook::Unknown && now.duration_since(begun).is_ok_and(|age| age < ESTIMATE);
        let is_news = self.last.is_none_or(|(said, before)| {
            outlook > before || now.duration_since(said).is_ok_and(|since| since >= REPEAT)
        });
        if outlook == Outlook::InTime || is_early || !is_news {
            return None;
        }
        self.last = Some((now, outlook));
        let (least, most) = job.map_or((String::new(), String::new()), |(a, b)| (clock(a), clock(b)));
        let job = match outlook {
            Outlook::TooLate if least == most => format!("the job still takes {most}"),
            Outlook::TooLate => format!("the job still takes {least} to {most}"),
            Outlook::Tight => format!("the job may still take {most}"),
            _ => "how long the job still takes is not known".to_owned(),
        };
        Some(format!("{}, and {job}; {}", lifetime.end(now), lifetime.advice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: f64 = 60.0;

    fn at(minutes: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs_f64(minutes * MINUTE)
    }

    /// Machines that end an hour after the beginning.
    fn an_hour() -> Lifetime {
        Lifetime::new(at(60.0), "one o'clock".into(), "do something")
    }

    /// In which minutes something is said of a job that is asked about each second, and what at first.
    fn said(job: impl Fn(f64) -> Option<(f64, f64)>) -> (Vec<u32>, Option<String>) {
        let (mut warnings, lifetime) = (Warnings::default(), an_hour());
        let (mut minutes, mut first) = (Vec::new(), None);
        for second in 0..3600 {
            let minute = f64::from(second) / MINUTE;
            let left = job(minute).map(|(a, b)| (a * MINUTE, b * MINUTE));
            if let Some(words) = warnings.next(&lifetime, at(minute), left) {
                minutes.push(second / 60);
                first.get_or_insert(words);
            }
        }
        (minutes, first)
    }

    #[test]
    fn a_job_that_ends_before_its_machines_is_not_talked_about() {
        assert_eq!(said(|minute| Some((50.0 - minute, 58.9 - minute))), (vec![], None));
    }

    #[test]
    fn a_job_that_ends_after_its_machines_is_told_of_at_once_and_every_five_minutes() {
        let (minutes, first) = said(|minute| Some((90.0 - minute, 100.0 - minute)));
        assert_eq!(minutes, (0..60).step_by(5).collect::<Vec<_>>());
        let words = "the machines end by themselves at one o'clock (in 1 h 00 min), and the job still takes 1 h 30 min to \
                     1 h 40 min; do something";
        assert_eq!(first.as_deref(), Some(words));
    }

    #[test]
    fn an_estimate_that_becomes_worse_is_told_of_at_once() {
        let (minutes, first) = said(|minute| match minute {
            ..10.0 => Some((10.0, 20.0)),
            10.0..12.0 => Some((45.0, 55.0)),
            12.0..14.0 => Some((90.0, 90.0)),
            _ => Some((0.0, 0.0)),
        });
        // Packing and fetching take their time, too: 50 minutes are left, of these 49 for the rows.
        assert_eq!(minutes, [10, 12]);
        assert!(first.is_some_and(|words| {
            words.contains("(in 50 min 00 s), and the job may still take 55 min 00 s;")
        }));
    }

    #[test]
    fn of_a_job_of_unknown_length_the_last_quarter_of_an_hour_is_told() {
        let (minutes, first) = said(|_| None);
        assert_eq!(minutes, [45, 50, 55]);
        assert!(first.is_some_and(|words| words.contains("how long the job still takes is not known")));
    }

    #[test]
    fn a_job_that_has_just_begun_has_time_to_be_estimated() {
        let (mut warnings, lifetime) = (Warnings::default(), an_hour());
        let mut said = |second: f64, left: Option<(f64, f64)>| {
            let now = at(55.0) + Duration::from_secs_f64(second);
            warnings.next(&lifetime, now, left).is_some()
        };
        assert!(!said(0.0, None) && !said(10.0, Some((5.0, 6.0))) && !said(29.0, None));
        assert!(said(31.0, None));
    }

    #[test]
    fn machines_that_end_before_a_job_can_start_are_told_of_before() {
        assert_eq!(an_hour().at_start(at(54.9)), None);
        let words = an_hour().at_start(at(56.0)).unwrap();
        assert_eq!(
            words,
            "the machines end by themselves at one o'clock (in 4 min 00 s), too soon for a job; replace them first: cargo \
             xtask down, then cargo xtask up"
        );
        let words = an_hour().at_start(at(61.0)).unwrap();
        assert!(
            words.starts_with("the machines were to end by themselves at one o'clock, too soon"),
            "{words}"
        );
    }
}
