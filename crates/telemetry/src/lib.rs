//! What the programs count, and how they tell the Monitoring Hub (port 5001).
//!
//! | module        | holds |
//! |---------------|-------|
//! | [`job`]       | what a job is, for those who look at it |
//! | [`report`]    | what is told: cumulative counts, once a second |
//! | [`durations`] | how long something took, each time: a histogram |
//! | [`stopwatch`] | for how long something has been so |
//! | [`usage`]     | what this process and its machine use |
//! | [`reporter`]  | the thread that tells it, whether or not a hub is there |
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
