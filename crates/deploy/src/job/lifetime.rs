//! Compares the moment at which something ends that a job needs, its machines or signatures for S3, with the job's estimated end.
//! Pure: the caller passes the time.

use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;

use crate::console::clock;

/// The pause between two warnings with the same outlook.
const REPEAT: Duration = Duration::from_secs(300);
/// How long before the machines end to warn if there is no estimate of the job's end.
const NOTICE: Duration = Duration::from_secs(900);
/// How long to wait for an estimate before the job's length counts as unknown.
const ESTIMATE: Duration = Duration::from_secs(30);
/// The least time that packing and fetching the results take after the last row.
const AFTER: Duration = Duration::from_secs(60);
/// With less time than this, a job hardly gets to its first row.
const START: Duration = Duration::from_secs(300);

/// When something ends that a job needs.
#[derive(Debug, Clone)]
pub struct Lifetime {
    /// What ends, and what has ended, up to the time.
    words: [&'static str; 2],
    ends: SystemTime,
    /// The same as text.
    at: String,
    /// What the user can do about it.
    advice: &'static str,
}

/// Whether a job ends before what it needs, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outlook {
    InTime,
    /// That ends soon, and there is no estimate for the job.
    Unknown,
    /// The longest estimate ends later.
    Tight,
    /// Even the shortest estimate does.
    TooLate,
}

fn outlook(left: Duration, job: Option<(f64, f64)>) -> Outlook {
    let room = left.saturating_sub(AFTER).as_secs_f64();
    match job {
        None if left <= NOTICE => Outlook::Unknown,
        Some((least, _)) if least > room => Outlook::TooLate,
        Some((_, most)) if most > room => Outlook::Tight,
        _ => Outlook::InTime,
    }
}

impl Lifetime {
    /// Of machines that terminate themselves; `advice` ends each warning.
    pub fn of_machines(ends: SystemTime, advice: &'static str) -> Self {
        let words = ["the machines end by themselves at", "the machines were to end by themselves at"];
        Self { words, ends, at: format_rfc3339_seconds(ends).to_string(), advice }
    }

    /// Of signatures for requests to S3, which end with the credentials.
    pub(crate) fn of_signatures(ends: SystemTime) -> Self {
        let words = ["the signatures for S3 end at", "the signatures for S3 ended at"];
        let advice = "as long as this command runs, it signs again if the credentials are renewed";
        Self { words, ends, at: format_rfc3339_seconds(ends).to_string(), advice }
    }

    fn left(&self, now: SystemTime) -> Duration {
        self.ends.duration_since(now).unwrap_or_default()
    }

    fn end(&self, now: SystemTime) -> String {
        let (left, [ending, ended]) = (self.left(now), self.words);
        match left.is_zero() {
            true => format!("{ended} {}", self.at),
            false => format!("{ending} {} (in {})", self.at, clock(left.as_secs_f64())),
        }
    }

    /// The warning before a job starts; `None` unless its machines end too soon for any job.
    pub fn at_start(&self, now: SystemTime) -> Option<String> {
        (self.left(now) < START).then(|| {
            format!(
                "{}, too soon for a job; replace them first: cargo xtask down, then cargo xtask up",
                self.end(now)
            )
        })
    }
}

/// Which warnings were given while a job runs.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    begun: Option<SystemTime>,
    last: Option<(SystemTime, Outlook)>,
}

impl Warnings {
    /// The warning to print now, if any: at once when the outlook gets worse, and every [`REPEAT`] while it is bad. `job` is
    /// the estimated remaining time in seconds, the shortest and the longest.
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
        let is_news = self.last.is_none_or(|(last, before)| {
            outlook > before || now.duration_since(last).is_ok_and(|since| since >= REPEAT)
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
        Lifetime::of_machines(at(60.0), "do something")
    }

    /// The minutes with a warning when each second is checked, and the first warning.
    fn warnings(job: impl Fn(f64) -> Option<(f64, f64)>) -> (Vec<u32>, Option<String>) {
        let (mut warnings, lifetime) = (Warnings::default(), an_hour());
        let (mut minutes, mut first) = (Vec::new(), None);
        for second in 0..3600 {
            let minute = f64::from(second) / MINUTE;
            let left = job(minute).map(|(a, b)| (a * MINUTE, b * MINUTE));
            if let Some(warning) = warnings.next(&lifetime, at(minute), left) {
                minutes.push(second / 60);
                first.get_or_insert(warning);
            }
        }
        (minutes, first)
    }

    #[test]
    fn no_warning_if_a_job_ends_before_its_machines() {
        assert_eq!(warnings(|minute| Some((50.0 - minute, 58.9 - minute))), (vec![], None));
    }

    #[test]
    fn a_job_that_ends_after_its_machines_gives_a_warning_at_once_and_every_five_minutes() {
        let (minutes, first) = warnings(|minute| Some((90.0 - minute, 100.0 - minute)));
        assert_eq!(minutes, (0..60).step_by(5).collect::<Vec<_>>());
        let warning = "the machines end by themselves at 1970-01-01T01:00:00Z (in 1 h 00 min), and the job still takes 1 h 30 min to \
                       1 h 40 min; do something";
        assert_eq!(first.as_deref(), Some(warning));
    }

    #[test]
    fn a_worse_estimate_gives_a_warning_at_once() {
        let (minutes, first) = warnings(|minute| match minute {
            ..10.0 => Some((10.0, 20.0)),
            10.0..12.0 => Some((45.0, 55.0)),
            12.0..14.0 => Some((90.0, 90.0)),
            _ => Some((0.0, 0.0)),
        });
        // Packing and fetching take time, too: 50 minutes are left, of these 49 for the rows.
        assert_eq!(minutes, [10, 12]);
        assert!(first.is_some_and(|warning| {
            warning.contains("(in 50 min 00 s), and the job may still take 55 min 00 s;")
        }));
    }

    #[test]
    fn a_job_of_unknown_length_gives_warnings_in_the_last_quarter_of_an_hour() {
        let (minutes, first) = warnings(|_| None);
        assert_eq!(minutes, [45, 50, 55]);
        assert!(first.is_some_and(|warning| warning.contains("how long the job still takes is not known")));
    }

    #[test]
    fn a_job_without_an_estimate_gives_no_warning_in_its_first_half_minute() {
        let (mut warnings, lifetime) = (Warnings::default(), an_hour());
        let mut warns = |second: f64, left: Option<(f64, f64)>| {
            let now = at(55.0) + Duration::from_secs_f64(second);
            warnings.next(&lifetime, now, left).is_some()
        };
        assert!(!warns(0.0, None) && !warns(10.0, Some((5.0, 6.0))) && !warns(29.0, None));
        assert!(warns(31.0, None));
    }

    #[test]
    fn machines_that_end_too_soon_give_a_warning_before_the_job_starts() {
        assert_eq!(an_hour().at_start(at(54.9)), None);
        let warning = an_hour().at_start(at(56.0)).unwrap();
        assert_eq!(
            warning,
            "the machines end by themselves at 1970-01-01T01:00:00Z (in 4 min 00 s), too soon for a job; replace them first: cargo \
             xtask down, then cargo xtask up"
        );
        let warning = an_hour().at_start(at(61.0)).unwrap();
        assert!(
            warning.starts_with("the machines were to end by themselves at 1970-01-01T01:00:00Z, too soon"),
            "{warning}"
        );
    }
}
