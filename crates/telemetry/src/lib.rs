//! What the programs count, how they report it to the Monitoring Hub (port 5001), and what the hub answers.
//!
//! | module        | holds |
//! |---------------|-------|
//! | [`job`]       | what a job is |
//! | [`report`]    | what a report holds: cumulative counts, once a second |
//! | [`durations`] | how long something took, each time: a histogram |
//! | [`stopwatch`] | how long something has been so, in all |
//! | [`usage`]     | what this process and its machine use |
//! | [`reporter`]  | the thread that reports, whether or not a hub is there |
//! | [`view`]      | what the hub answers: the JSON under `/api/v1/` and `report.json` |
//!
//! All counts are cumulative, and begin with the process; a report that is lost is healed by the next one. A duration begins
//! and ends by the clock of one machine.

pub mod durations;
pub mod job;
pub mod report;
pub mod reporter;
pub mod stopwatch;
pub mod usage;
pub mod view;
