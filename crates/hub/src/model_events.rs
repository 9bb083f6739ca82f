//! When something happens to a program's models that is worth an event. A model may fail at every batch: counts tell how often, and
//! events that it does.

use std::collections::BTreeMap;
use std::time::Duration;

use telemetry::report::ModelCounts;

use crate::words;

/// There is no other event about the models of a program for so long; each pause is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// What events have said so far.
#[derive(Debug, Default)]
pub struct ModelEvents(BTreeMap<String, Noted>);

#[derive(Debug, Default)]
struct Noted {
    counts: ModelCounts,
    /// There is no event before then.
    next: Duration,
    pause: Duration,
}

impl ModelEvents {
    /// The text of an event, if it is time for one; `counts` is everything that has happened to the models of a program.
    pub fn event(&mut self, program: &str, counts: &ModelCounts, now: Duration) -> Option<String> {
        let noted = self.0.entry(program.to_owned()).or_default();
        if now < noted.next {
            return None;
        }
        let text = describe(program, &noted.counts, counts)?;
        noted.pause = (noted.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        (noted.counts, noted.next) = (counts.clone(), now + noted.pause);
        Some(text)
    }
}

/// What has happened since, in words.
fn describe(program: &str, before: &ModelCounts, counts: &ModelCounts) -> Option<String> {
    let more = |count: fn(&ModelCounts) -> u64| count(counts).saturating_sub(count(before));
    let times = |count: u64, what: &str| match count {
        0 => None,
        1 => Some(format!("{what} once")),
        _ => Some(format!("{what} {} times", words::count(count))),
    };
    let failures: Vec<_> = [
        times(more(|counts| counts.exceptions), "failed"),
        times(more(|counts| counts.kills), "was killed"),
        times(more(|counts| counts.crashes), "crashed"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let last = |text: &Option<String>| text.as_ref().map(|text| format!(": {text}")).unwrap_or_default();
    if !failures.is_empty() {
        let why = last(&counts.last_failure);
        return Some(format!("the model in {program} {}{why}", failures.join(", ")));
    }
    // What it prints is noted once.
    (before.printed_lines == 0 && counts.printed_lines > 0)
        .then(|| format!("the model in {program} prints{}", last(&counts.last_printed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn failures_are_noted_at_once_and_then_seldom_with_their_number() {
        let mut events = ModelEvents::default();
        let mut counts = ModelCounts::default();
        assert_eq!(events.event("worker1", &counts, at(1)), None);
        counts.exceptions = 1;
        counts.failed("KeyError: 'A'");
        let first = events.event("worker1", &counts, at(2)).unwrap();
        assert_eq!(first, "the model in worker1 failed once: KeyError: 'A'");
        assert_eq!(events.event("worker1", &counts, at(20)), None, "nothing new");
        let mut noted = Vec::new();
        for second in 20..100 {
            counts.kills += 1;
            noted.extend(events.event("worker1", &counts, at(second)).map(|text| (second, text)));
        }
        let seconds: Vec<_> = noted.iter().map(|(second, _)| *second).collect();
        assert_eq!(seconds, [20, 40, 80]);
        assert_eq!(noted[1].1, "the model in worker1 was killed 20 times: KeyError: 'A'");
    }

    #[test]
    fn a_model_that_prints_is_noted_once() {
        let mut events = ModelEvents::default();
        let mut counts = ModelCounts::default();
        counts.printed("hello");
        assert_eq!(events.event("worker1", &counts, at(1)).unwrap(), "the model in worker1 prints: hello");
        counts.printed("again");
        assert_eq!(events.event("worker1", &counts, at(1000)), None);
    }
}
