//! The classifier: source → batcher → classify → sink as one timely dataflow, over threads and processes.
//!
//! | module              | holds |
//! |---------------------|-------|
//! | [`dataflow`]        | the dataflow itself, and how a process runs it |
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
//! | [`file`]            | the same model over a file, without a network |

pub mod batch;
pub mod classify;
pub mod cluster;
pub mod dataflow;
pub mod deadline;
pub mod executor;
pub mod file;
pub mod ingest;
pub mod metrics;
pub mod model;
pub mod receiver_client;
pub mod search;
pub mod source;
pub mod window;

use telemetry::report::Ending;

/// Ends the process with a reason for which the job fails. Timely is fail-stop: a process that cannot go on takes the
/// cluster's generation down with it, so there is nothing to unwind.
pub fn fail(reason: impl std::fmt::Display) -> ! {
    tracing::error!("{reason}");
    telemetry::reporter::end(Ending::Failed(reason.to_string()));
    std::process::exit(1);
}

/// Ends the process, and with it this generation of the cluster, because of something that passes: when it is started
/// again, it will be in the next generation.
pub fn leave_generation(reason: impl std::fmt::Display) -> ! {
    tracing::error!("{reason}");
    telemetry::reporter::end(Ending::Leaving(reason.to_string()));
    std::process::exit(i32::from(process::exit::TEMPORARY));
}
