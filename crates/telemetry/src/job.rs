//! The description of a job, from the program that starts it, for the hub.

use serde::{Deserialize, Serialize};

/// A job's settings as the user gave them. The hub gets them as JSON (`hub --job JSON`), and does not show missing fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Description {
    /// The value of `--model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The source of the rows: a file, or `1,000,000 generated rows`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The folder of the results.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Rows in a batch (`--chunk-size`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_rows: Option<u32>,
    /// The number of workers on all machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// Threads of the model's libraries in each worker (`--threads-per-worker`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads_per_worker: Option<u32>,
    /// The names of the machines that classify.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<String>,
}
