//! One file for each command: its arguments and its execution.

pub(crate) mod bench;
pub(crate) mod chaos;
mod duration;
pub(crate) mod hosts;
pub(crate) mod job_args;
pub(crate) mod jobs;
pub(crate) mod lab;
mod model_name;
mod result_args;
pub(crate) mod run_locally;
pub(crate) mod setup;
pub(crate) mod test;
