//! What the programs count, and how they tell the Monitoring Hub (port 5001).
//!
//! | module        | holds |
//! |---------------|-------|
//! | [`report`]    | what is told: cumulative counts, once a second |
//! | [`durations`] | how long something took, each time: a histogram |
//! | [`stopwatch`] | for how long something has been so |
//! | [`usage`]     | what this process and its machine use |
//! | [`reporter`]  | the thread that tells it, whether or not a hub is there |
//!
//! All counts are cumulative, and begin with the process; a report that is lost is healed by the next one. A duration begins
//! and ends by the clock of one machine.

pub mod durations;
pub mod report;
pub mod reporter;
pub mod stopwatch;
pub mod usage;
