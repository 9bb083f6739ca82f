//! What a job is: known to the program that starts it, shown by the hub.

use serde::{Deserialize, Serialize};

/// What a job is, in the user's words. The hub is given it as JSON (`hub --job JSON`); a field that is left out is not shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Description {
    /// The model, as it was given to `--model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Where rows come from: a file, or `1,000,000 generated rows`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The folder that results go to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Rows in a batch (`--chunk-size`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_rows: Option<u32>,
    /// Workers in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// Threads of the model's libraries in each worker (`--threads-per-worker`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads_per_worker: Option<u32>,
    /// Machines that classify, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<String>,
}
