//! The Monitoring Hub: one page that says whether the job will make it, and what holds it back.
//!
//! | module            | holds |
//! |-------------------|-------|
//! | [`tracker`]       | what the hub knows of the job; pure, time is told |
//! | [`process`]       | one program of it, over all its lives |
//! | [`history`]       | its course, and its pace |
//! | [`estimate`]      | when it will be done |
//! | [`stages`]        | how busy the stages of the dataflow are |
//! | [`bottleneck`]    | what holds it back, and what would help |
//! | [`stragglers`]    | workers that hold the others back |
//! | [`model_events`]  | when a model's failures are worth an event |
//! | [`histogram`]     | bins for durations |
//! | [`snapshot`]      | the figures that all interfaces show: [`telemetry::view`] |
//! | [`report_server`] | port 5001: reports come in |
//! | [`web`]           | port 4000: the page, JSON, server-sent events |
//! | [`prometheus`]    | `/metrics` |
//! | [`report_files`]  | what is left when the job is over: `report.html` and `report.json` |
//! | [`words`]         | figures in sentences |
//! | [`scenario`]      | a job as its programs would report it, to test and measure by |

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
