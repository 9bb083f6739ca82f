//! The programs' counts, their reports to the Monitoring Hub (port 5001), and the hub's answers.
//!
//! | module        | holds |
//! |---------------|-------|
//! | [`job`]       | the description of a job |
//! | [`report`]    | the content of a report: cumulative counts, once a second |
//! | [`durations`] | a histogram of durations |
//! | [`stopwatch`] | the total time for which a condition has held |
//! | [`usage`]     | processor time, memory and network traffic |
//! | [`reporter`]  | the thread that reports, whether or not a hub exists |
//! | [`view`]      | the hub's answers: the JSON under `/api/v1/` and `report.json` |
//!
//! All counts are cumulative from the process's start, so the next report makes up for a lost one. Each duration is measured with
//! the clock of one machine.

pub mod durations;
pub mod job;
pub mod report;
pub mod reporter;
pub mod stopwatch;
pub mod usage;
pub mod view;
