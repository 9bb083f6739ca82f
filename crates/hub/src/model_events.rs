//! Decides which failures and printed lines of models become events. A model may fail at every batch, so an event summarizes all
//! since the one before.

use std::collections::BTreeMap;
use std::time::Duration;

use telemetry::report::ModelCounts;

use crate::words;

/// The pause between events about the models of one program. Each pause is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// The counts that events have reported so far, by program.
#[derive(Debug, Default)]
pub struct ModelEvents(BTreeMap<String, Noted>);

#[derive(Debug, Default)]
struct Noted {
    counts: ModelCounts,
    /// When the next event is allowed.
    next: Duration,
    pause: Duration,
}

impl ModelEvents {
    /// The text of an event, if one is due; `counts` are the total counts of a program's models.
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

/// Describes the difference between two counts; `None` if an event is not worth it.
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
    // Only the first printed line is an event.
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
    fn the_first_failure_is_an_event_at_once_and_later_ones_are_summarized() {
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
    fn only_the_first_printed_line_is_an_event() {
        let mut events = ModelEvents::default();
        let mut counts = ModelCounts::default();
        counts.printed("hello");
        assert_eq!(events.event("worker1", &counts, at(1)).unwrap(), "the model in worker1 prints: hello");
        counts.printed("again");
        assert_eq!(events.event("worker1", &counts, at(1000)), None);
    }
}
