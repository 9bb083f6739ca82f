//! What a job on hosts does at S3. This machine signs the requests; the metrics host, which makes them, has no rights there.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, ensure};
use deploy::job::Input;
use deploy::objects::{self, Signatures, Signer, UPLOADS};
use deploy::options::ResultOptions;
use deploy::{console, project};
use files::{read_if_there, remove_if_there, replace_file};
use protocol::result_files::{ResultFiles, results_name};
use protocol::results::Summary;
use records::format::is_object;
use serde::{Deserialize, Serialize};

use crate::ssh::Ssh;

/// The signed requests, in the metrics host's folder.
pub(super) const SIGNED: &str = "input/signed.json";
/// The same on this machine, beside the inventory.
const SIGNED_HERE: &str = ".signed.json";
/// What the last job has uploaded, beside the inventory.
const UPLOADED: &str = ".uploaded.json";

/// Signs a job's requests.
pub(super) struct Objects {
    s3: PathBuf,
    /// The folder of the inventory.
    folder: PathBuf,
    /// Inputs at S3.
    inputs: Vec<PathBuf>,
    signer: Option<Signer>,
    /// When the signatures end that the metrics host has.
    delivered: SystemTime,
}

impl Objects {
    /// Builds the program that signs; `None` if a job with these inputs and results does nothing at S3.
    pub(super) fn new(
        inputs: &[PathBuf],
        results: &ResultOptions,
        inventory: &Path,
    ) -> anyhow::Result<Option<Self>> {
        let inputs: Vec<_> = inputs.iter().filter(|path| is_object(path)).cloned().collect();
        if inputs.is_empty() && results.upload.is_none() {
            return Ok(None);
        }
        let folder = inventory.parent().unwrap_or(Path::new("")).to_owned();
        let s3 = project::build_s3()?;
        Ok(Some(Self { s3, folder, inputs, signer: None, delivered: SystemTime::UNIX_EPOCH }))
    }

    /// Signs the requests for the inputs, and brings them to the metrics host.
    pub(super) fn sign_inputs(&mut self, metrics: &Ssh) -> anyhow::Result<()> {
        if self.inputs.is_empty() { Ok(()) } else { self.sign(None, metrics) }
    }

    /// Begins the uploads of a job with this name, or those of them that were aborted, and signs the requests for them, too.
    pub(super) fn begin_uploads(
        &mut self,
        name: &str,
        results: &ResultOptions,
        is_typed: bool,
        metrics: &Ssh,
    ) -> anyhow::Result<()> {
        let Some(prefix) = &results.upload else { return Ok(()) };
        let files = ResultFiles::beside(Path::new(results_name(is_typed)))?;
        let [results, rejects] = files.exported(results.form).map(|path| path.display().to_string());
        let names = [rejects, results, files.summary.display().to_string()];
        let uploads = self.folder.join(UPLOADS);
        if objects::job_of(&uploads)?.is_some_and(|job| job != name) {
            objects::abort(&self.folder)
                .with_context(|| format!("aborting the uploads of an earlier job ({})", uploads.display()))?;
        }
        objects::begin(&self.s3, name, &uploads, prefix, &names)?;
        self.sign(Some(&uploads), metrics)
    }

    /// Signs all requests of a job that is running.
    pub(super) fn sign_again(
        &mut self,
        name: &str,
        results: &ResultOptions,
        metrics: &Ssh,
    ) -> anyhow::Result<()> {
        let uploads = self.folder.join(UPLOADS);
        if let Some(prefix) = &results.upload {
            let is_here = objects::job_of(&uploads)?.is_some_and(|job| job == name);
            ensure!(is_here, "the uploads to {prefix} were begun in another folder; watch the job there");
        }
        self.sign(results.upload.is_some().then_some(&*uploads), metrics)
    }

    fn sign(&mut self, uploads: Option<&Path>, metrics: &Ssh) -> anyhow::Result<()> {
        // The earlier one would write the same file.
        self.signer = None;
        let signer = Signer::start(&self.s3, &self.folder.join(SIGNED_HERE), uploads, &self.inputs)?;
        let until = signer.until();
        deliver(signer.file(), metrics)?;
        self.delivered = until;
        self.signer = Some(signer);
        Ok(())
    }

    /// The signatures, which `deliver` brings to the metrics host when they are renewed.
    pub(super) fn signatures<'a>(
        &'a self,
        deliver: &'a dyn Fn(&Path) -> anyhow::Result<()>,
    ) -> Option<Signatures<'a>> {
        self.signer.as_ref().map(|signer| Signatures::new(signer, self.delivered, Some(deliver)))
    }
}

/// Aborts what an earlier job has left open at S3.
pub(super) fn abort_earlier(inventory: &Path) {
    // Parts cost little for a while, and the next job and down try again.
    if let Err(error) = objects::abort(inventory.parent().unwrap_or(Path::new(""))) {
        console::note(&format!("{error:#}"));
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        self.signer = None;
        if let Err(error) = remove_if_there(&self.folder.join(SIGNED_HERE)) {
            console::note(&format!("{error:#}"));
        }
    }
}

/// Brings signed requests to the metrics host.
pub(super) fn deliver(signed: &Path, metrics: &Ssh) -> anyhow::Result<()> {
    metrics.upload(signed, Path::new(SIGNED), false, |_| {})
}

/// The paths of a job's input.
pub(super) fn inputs(input: &Input) -> &[PathBuf] {
    match input {
        Input::Files { paths, .. } => paths,
        Input::Fake { .. } | Input::Pipe { .. } | Input::Stdin { .. } => &[],
    }
}

/// What a job has uploaded; remembered, since it outlives the hosts.
#[derive(Serialize, Deserialize)]
struct Uploaded {
    prefix: String,
    rows: u64,
    ended: String,
}

/// Notes that a job's uploads are complete.
pub(super) fn note_uploaded(
    inventory: &Path,
    job: &str,
    prefix: &str,
    summary: &Summary,
) -> anyhow::Result<()> {
    let uploaded = Uploaded { prefix: prefix.to_owned(), rows: summary.rows, ended: summary.ended.clone() };
    let json = serde_json::to_vec(&uploaded).context("encoding what was uploaded")?;
    replace_file(&inventory.with_file_name(UPLOADED), &json)?;
    let uploads = inventory.with_file_name(UPLOADS);
    // They may be of another job that was begun here.
    if objects::job_of(&uploads)?.is_some_and(|open| open == job) {
        remove_if_there(&uploads)
    } else {
        Ok(())
    }
}

/// Says where the last job of these hosts has uploaded its results, if it has.
pub(crate) fn uploaded(inventory: &Path) -> anyhow::Result<Option<String>> {
    let Some(json) = read_if_there(&inventory.with_file_name(UPLOADED))? else { return Ok(None) };
    let Uploaded { prefix, rows, ended } =
        serde_json::from_slice(&json).with_context(|| format!("reading {UPLOADED}"))?;
    Ok(Some(format!("the {} of the job that ended at {ended} are at {prefix}", console::rows(rows))))
}
