//! The Monitoring Hub: one page that says whether the job will make it, and what holds it back.
//!
//! | module         | holds |
//! |----------------|-------|
//! | [`model`]      | what the hub knows of the job; pure, time is told |
//! | [`process`]    | one program of it, over all its lives |
//! | [`history`]    | its course |
//! | [`verdict`]    | the estimate, the stages, the bottleneck |
//! | [`stragglers`] | workers that hold the others back |
//! | [`view`]       | the figures that all interfaces show |
//! | [`intake`]     | port 5001: reports come in |
//! | [`web`]        | port 4000: the page, JSON, server-sent events |
//! | [`exposition`] | `/metrics`, for Prometheus |
//! | [`scenario`]   | a job as its programs would report it, to test and measure by |
//! | [`summary`]    | what is left when the job is over: `report.html` and `report.json` |

pub mod exposition;
pub mod history;
pub mod intake;
pub mod model;
pub mod process;
pub mod scenario;
pub mod stragglers;
pub mod summary;
pub mod verdict;
pub mod view;
pub mod web;
