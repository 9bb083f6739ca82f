//! The Monitoring Hub: one page that says whether the job will make it, and what holds it back.
//!
//! | module            | holds |
//! |-------------------|-------|
//! | [`tracker`]       | what the hub knows of the job; pure, time is told |
//! | [`process`]       | one program of it, over all its lives |
//! | [`history`]       | its course |
//! | [`verdict`]       | the estimate, the stages, the bottleneck |
//! | [`stragglers`]    | workers that hold the others back |
//! | [`snapshot`]      | the figures that all interfaces show |
//! | [`report_server`] | port 5001: reports come in |
//! | [`web`]           | port 4000: the page, JSON, server-sent events |
//! | [`prometheus`]    | `/metrics` |
//! | [`scenario`]      | a job as its programs would report it, to test and measure by |
//! | [`report_files`]  | what is left when the job is over: `report.html` and `report.json` |

pub mod history;
pub mod process;
pub mod prometheus;
pub mod report_files;
pub mod report_server;
pub mod scenario;
pub mod snapshot;
pub mod stragglers;
pub mod tracker;
pub mod verdict;
pub mod web;
