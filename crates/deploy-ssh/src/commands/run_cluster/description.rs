//! The job's description, which `--resume` needs to continue with it. It is kept on the metrics host.

use std::path::Path;

use agent::protocol::FOLDER;
use anyhow::{Context, bail, ensure};
use deploy::console;
use deploy::job::{self, Input};
use deploy::options::ResultOptions;
use deploy::python_module::module_of;
use deploy::request::RunCluster;
use serde::{Deserialize, Serialize};

use super::objects::{self, Objects};
use super::{Cluster, check_model, input, is_packed, receiver_runs_for};
use crate::agents::{SHORT, status_of};
use crate::ssh::Ssh;

/// Its path in the metrics host's folder.
pub(super) const FILE: &str = "run/job.json";
/// Worker threads on each machine by default.
const WORKERS: u16 = 7;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    /// A name of the job for its uploads.
    #[serde(default)]
    pub(super) name: String,
    pub(crate) input: Input,
    /// As in `--model`.
    pub(crate) model: String,
    /// The model and its settings, as arguments of the classifier.
    pub(super) model_args: Vec<String>,
    /// Worker threads on each machine.
    pub(super) workers: usize,
    /// As in `--max-rejects`.
    #[serde(default)]
    pub(super) max_rejects: Option<String>,
    /// As in `--types`, for a model that gets typed columns.
    #[serde(default)]
    pub(super) types: Option<String>,
    #[serde(default)]
    pub(super) results: ResultOptions,
    /// The SHA-256 of application and packages, since others might give different results.
    app: String,
    packages: Option<String>,
}

/// A new job. Checks the model and ships the input first, so that a mistake does not cost the results of the job before.
pub(super) fn new(
    args: &RunCluster,
    objects: &mut Option<Objects>,
    cluster: &Cluster<'_>,
) -> anyhow::Result<Description> {
    let inventory = cluster.inventory;
    let model = args.model.clone().unwrap_or_else(|| inventory.model.clone());
    ensure!(
        module_of(&model).is_none_or(|module| module_of(&inventory.model) == Some(module)),
        "the hosts were prepared for {}, and not for {model}; ship it with: cargo xtask up --model {model}",
        inventory.model
    );
    let types = args.job.model.types(&model)?;
    let model_args = args.job.model.to_args(&model, Path::new("python3"));
    check_model(cluster.initializer, &model_args)?;
    let results = args.job.results.clone();
    let input = input::prepare(&args.job.rows, &results, objects, cluster.metrics)?;
    let (app, packages) = (inventory.app.clone(), inventory.packages.clone());
    let max_rejects = args.job.max_rejects.map(|most| most.to_string());
    let workers = usize::from(args.job.workers.unwrap_or(WORKERS));
    let name = protocol::hash::short_hex(job::make_token()?.secret().as_bytes());
    match objects {
        Some(objects) if results.upload.is_some() => {
            objects.begin_uploads(&name, &results, types.is_some(), cluster.metrics)?;
        }
        _ => objects::abort_earlier(&args.inventory),
    }
    Ok(Description { name, input, model, model_args, workers, max_rejects, types, results, app, packages })
}

/// The last job, with new values of options that do not affect results; and whether only the packing is left.
pub(super) fn resume(args: &RunCluster, cluster: &Cluster<'_>) -> anyhow::Result<(Description, bool)> {
    let (inventory, metrics) = (cluster.inventory, cluster.metrics);
    let status = status_of(metrics)?;
    let summary = status.summary.as_ref();
    if let Some(summary) = summary
        && is_packed(metrics)?
    {
        bail!(
            "the last job is done, with {} rows; fetch its results with: cargo xtask get-results",
            console::count(summary.rows)
        );
    }
    ensure!(
        summary.is_none() || receiver_runs_for(&status).is_none(),
        "the last job is done, and its results are being packed; cargo xtask run-cluster --attach waits for them"
    );
    let mut description = recall(metrics)?.context(
        "there is no job on the metrics host to continue with; start one with cargo xtask run-cluster",
    )?;
    ensure!(
        description.app == inventory.app && description.packages == inventory.packages,
        "the programs, the model or a file shipped with it has changed since the last job began, and might give other results; \
         start the job anew, without --resume"
    );
    args.job.model.change(&mut description.model_args);
    description.max_rejects = args.job.max_rejects.map(|most| most.to_string()).or(description.max_rejects);
    description.workers = args.job.workers.map_or(description.workers, usize::from);
    Ok((description, summary.is_some()))
}

/// The description of the last job; `None` if there was none.
pub(crate) fn recall(metrics: &Ssh) -> anyhow::Result<Option<Description>> {
    let text = metrics.run(&format!("cd {FOLDER} && if [ -e {FILE} ]; then cat {FILE}; fi"), SHORT)?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&text).map(Some).context("parsing the description of the last job")
}
