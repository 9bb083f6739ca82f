//! The classifier: source → classify → sink as one timely dataflow, over threads and processes.
//!
//! | module              | holds |
//! |---------------------|-------|
//! | [`run`]             | runs a process from its settings to the end of its dataflow |
//! | [`dataflow`]        | the dataflow itself |
//! | [`ingest`]          | port 8888: receives rows, and cuts them into batches |
//! | [`source`]          | the operator that numbers batches and issues them within the window |
//! | [`window`]          | limits what may be issued, and chooses the worker of the next batch; pure |
//! | [`batch`]           | batches of rows, and their encoding between processes |
//! | [`measure`]         | chooses the number of rows in a batch, by calls of the model before the first batch |
//! | [`classify`]        | turns a batch of rows into a batch of results; pure but for the model, whose calls it times |
//! | [`search`]          | decides which rows to try next when a model fails or hangs; pure |
//! | [`model`]           | the models: native, Python, sleep |
//! | [`executor`]        | keeps slow models off the timely worker's thread |
//! | [`receiver_client`] | the connection to the receiver |
//! | [`cluster`]         | how processes find each other and form the mesh |
//! | [`metrics`]         | counts for the Monitoring Hub |
//! | [`deadline`]        | deadlines for the waits of the running dataflow |
//! | `fail_stop`         | ends the process from any thread |
//! | [`file`]            | runs a model over a file, without a network |

pub mod batch;
pub mod classify;
pub mod cluster;
pub mod dataflow;
pub mod deadline;
pub mod executor;
mod fail_stop;
pub mod file;
pub mod ingest;
pub mod measure;
pub mod metrics;
pub mod model;
pub mod receiver_client;
pub mod run;
pub mod search;
pub mod source;
pub mod window;

pub use fail_stop::{end, fail, leave_generation};
