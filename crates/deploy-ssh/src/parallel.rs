//! The same work on all hosts at once, one thread for each.

use anyhow::anyhow;
use deploy::exit;

use crate::ssh::NoAnswer;

/// Runs the work for all items at the same time; returns the outcomes in the order of the items.
pub fn each<I: Sync, T: Send>(
    items: &[I],
    work: impl Fn(&I) -> anyhow::Result<T> + Sync,
) -> Vec<anyhow::Result<T>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(|| work(item))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// All values, or all errors in one. That error is [`NoAnswer`] if all of them are, and busy if one of them is.
///
/// # Errors
/// One or more of the outcomes are errors.
pub fn all<T>(outcomes: Vec<anyhow::Result<T>>) -> anyhow::Result<Vec<T>> {
    let count = outcomes.len();
    let (mut values, mut errors) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome {
            Ok(value) => values.push(value),
            Err(error) => errors.push(error),
        }
    }
    match errors.len() {
        0 => Ok(values),
        1 => Err(errors.remove(0)),
        failed => {
            let list: String = errors.iter().map(|error| format!("\n  {error:#}")).collect();
            let message = format!("{failed} of {count} hosts failed:{list}");
            // Kept as the cause, since callers check for it: this machine's address may have changed.
            let without_answer = errors.iter().all(exit::is::<NoAnswer>);
            let error =
                if without_answer { anyhow::Error::new(NoAnswer).context(message) } else { anyhow!(message) };
            Err(if errors.iter().any(exit::is_busy) { exit::busy(error) } else { error })
        }
    }
}
