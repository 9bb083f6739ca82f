//! The Monitoring Hub: one page that shows when the job will be done, and what limits its rate.
//!
//! | module            | holds |
//! |-------------------|-------|
//! | [`tracker`]       | the state of the job, from reports; pure |
//! | [`process`]       | one program of the job, over all its restarts |
//! | [`history`]       | the job's progress over time, and its pace |
//! | [`estimate`]      | when the job will be done |
//! | [`stages`]        | how busy the stages of the dataflow are |
//! | [`bottleneck`]    | what limits the job's rate, and what would help |
//! | [`stragglers`]    | workers that are slower than the others |
//! | [`model_events`]  | which of a model's failures become events |
//! | [`histogram`]     | bins for durations |
//! | [`snapshot`]      | the figures that all interfaces show: [`telemetry::view`] |
//! | [`report_server`] | port 5001: receives reports |
//! | [`web`]           | port 4000: the page, JSON, server-sent events |
//! | [`prometheus`]    | `/metrics` |
//! | [`report_files`]  | the files of a finished job: `report.html` and `report.json` |
//! | [`words`]         | numbers and durations as text |
//! | [`scenario`]      | the reports of a simulated job, for tests and measurements |

pub mod bottleneck;
pub mod estimate;
pub mod histogram;
pub mod history;
pub mod model_events;
pub mod process;
pub mod prometheus;
pub mod report_files;
pub mod report_server;
pub mod scenario;
pub mod snapshot;
pub mod stages;
pub mod stragglers;
pub mod tracker;
pub mod web;
pub mod words;
