//! Counts passed, failed and skipped tests from the output of test programs.

#[derive(Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
    /// Tests of the running test program that have no outcome yet.
    pending: u64,
}

impl Counts {
    /// Counts a line such as `running 8 tests` or `test records::tests::quotes ... ok`.
    pub(super) fn read(&mut self, line: &str) {
        if let Some(tests) = line.strip_prefix("running ").and_then(|rest| rest.split(' ').next()) {
            self.end_run();
            self.pending = tests.parse().unwrap_or(0);
            return;
        }
        let outcome = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "));
        let count = match outcome.map(|(_, outcome)| outcome) {
            Some("ok") => &mut self.passed,
            Some("FAILED") => &mut self.failed,
            Some(other) if other.starts_with("ignored") => &mut self.skipped,
            _ => return,
        };
        *count += 1;
        self.pending = self.pending.saturating_sub(1);
    }

    /// Notes that the test program has ended: tests without an outcome count as skipped.
    pub(super) fn end_run(&mut self) {
        self.skipped += std::mem::take(&mut self.pending);
    }

    /// Counts a test as skipped that passed, but reported that it cannot run here.
    pub(super) fn skip_passed(&mut self) {
        self.passed = self.passed.saturating_sub(1);
        self.skipped += 1;
    }

    /// Adds those of other test programs that have ended.
    pub(super) fn add(&mut self, others: &Self) {
        self.passed += others.passed;
        self.failed += others.failed;
        self.skipped += others.skipped;
    }

    pub(super) fn line(&self) -> String {
        let Self { passed, failed, skipped, .. } = self;
        match skipped {
            0 => format!("{passed} passed, {failed} failed"),
            _ => format!("{passed} passed, {failed} failed, {skipped} skipped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "running 4 tests
test bad::one ... FAILED
test good::one ... ok
test good::panics - should panic ... ok
test slow ... ignored, takes long

failures:
    bad::one

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 9s
";

    #[test]
    fn results_are_added_up() {
        let mut counts = Counts::default();
        ONE.lines().chain(ONE.lines()).for_each(|line| counts.read(line));
        counts.end_run();
        assert_eq!(counts.line(), "4 passed, 2 failed, 2 skipped");
        counts.skip_passed();
        assert_eq!(counts.line(), "3 passed, 2 failed, 3 skipped");
    }

    #[test]
    fn tests_without_an_outcome_are_skipped() {
        let mut counts = Counts::default();
        ONE.lines().take(3).chain(ONE.lines().take(2)).for_each(|line| counts.read(line));
        counts.end_run();
        assert_eq!(counts.line(), "1 passed, 2 failed, 5 skipped");
    }
}
