//! What a local job does at S3.

use std::path::{Path, PathBuf};

use anyhow::Context;
use files::remove_if_there;

use super::LocalJob;
use crate::objects::{self, Signer, UPLOADS};
use crate::output::{JobFolder, State};
use crate::{console, project};

/// The program that signs a job's requests, and the file that it writes.
pub(super) struct Objects {
    s3: PathBuf,
    signed: PathBuf,
    signer: Option<Signer>,
    /// The file is this command's.
    has_signed: bool,
}

impl Objects {
    /// Builds the program; `None` if the job does nothing at S3.
    pub(super) fn prepare(args: &LocalJob) -> anyhow::Result<Option<Self>> {
        if args.job.results.upload.is_none() && !args.reads_objects() {
            return Ok(None);
        }
        let signed = args.log.join("run").join("signed.json");
        Ok(Some(Self { s3: project::build_s3()?, signed, signer: None, has_signed: false }))
    }

    /// The file with the signed requests.
    pub(super) fn signed(&self) -> &Path {
        &self.signed
    }

    /// Signs the requests for the input.
    pub(super) fn sign_inputs(&mut self, args: &LocalJob) -> anyhow::Result<()> {
        if args.reads_objects() {
            self.has_signed = true;
            self.signer = Some(Signer::start(&self.s3, &self.signed, None, args.job.rows.paths())?);
        }
        Ok(())
    }

    /// Begins the job's uploads, or finds them begun, and signs the requests for them, too.
    pub(super) fn begin_uploads(&mut self, args: &LocalJob, folder: &JobFolder) -> anyhow::Result<()> {
        let Some(prefix) = &args.job.results.upload else { return Ok(()) };
        let uploads = folder.path.join(UPLOADS);
        let mut names = Vec::new();
        for path in [folder.rejects()?, folder.results(), folder.files()?.summary] {
            let name = path.file_name().and_then(|name| name.to_str()).context("a file without a name")?;
            names.push(name.to_owned());
        }
        let job =
            format!("{} {}", folder.path.file_name().unwrap_or_default().display(), folder.record.began);
        objects::begin(&self.s3, &job, &uploads, prefix, &names)?;
        // The earlier one would write the same file.
        drop(self.signer.take());
        self.has_signed = true;
        self.signer = Some(Signer::start(&self.s3, &self.signed, Some(&uploads), args.job.rows.paths())?);
        Ok(())
    }

    pub(super) fn signer(&self) -> Option<&Signer> {
        self.signer.as_ref()
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        drop(self.signer.take());
        if self.has_signed
            && let Err(error) = remove_if_there(&self.signed)
        {
            console::note(&format!("{error:#}"));
        }
    }
}

/// Aborts the uploads of a job that did not complete, unless it `can_go_on`.
pub(super) fn abort_failed(folder: &JobFolder, can_go_on: bool) {
    let aborted = folder.state().and_then(|state| match state {
        State::Done(_) | State::Unfinished { .. } if can_go_on => Ok(()),
        _ => objects::abort(&folder.path),
    });
    if let Err(error) = aborted {
        console::note(&format!("{error:#}"));
    }
}
