//! The classifier: source → batcher → classify → sink as one timely dataflow, over threads and processes.
//!
//! | module              | holds |
//! |---------------------|-------|
//! | [`run`]             | a process from its settings to the end of its dataflow |
//! | [`dataflow`]        | the dataflow itself |
//! | [`ingest`]          | port 8888: rows in, cut to batches |
//! | [`source`]          | the operator that numbers batches and issues them within the window |
//! | [`window`]          | how much may be issued, and which worker gets the next batch; pure |
//! | [`batch`]           | batches of rows, and how they cross from worker to worker |
//! | [`classify`]        | a batch of rows in, a batch of results out; pure but for the model |
//! | [`search`]          | which rows to try next when a model fails or hangs; pure |
//! | [`model`]           | the models: native, Python, sleep |
//! | [`executor`]        | runs slow models beside the timely worker, never on it |
//! | [`receiver_client`] | the connection to the receiver |
//! | [`cluster`]         | how processes find each other and form the mesh |
//! | [`metrics`]         | what this process counts, for the Monitoring Hub |
//! | [`deadline`]        | deadlines for what the running dataflow waits for |
//! | `fail_stop`         | how a thread ends the process |
//! | [`file`]            | the same model over a file, without a network |

pub mod batch;
pub mod classify;
pub mod cluster;
pub mod dataflow;
pub mod deadline;
pub mod executor;
mod fail_stop;
pub mod file;
pub mod ingest;
pub mod metrics;
pub mod model;
pub mod receiver_client;
pub mod run;
pub mod search;
pub mod source;
pub mod window;

pub use fail_stop::{end, fail, leave_generation};
