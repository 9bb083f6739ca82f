//! Options for a job's results, the same on this machine and on hosts.

use std::path::PathBuf;

use anyhow::ensure;
use deploy::objects;
use deploy::options::ResultOptions;
use deploy::project;
use protocol::result_files::Form;
use records::format::is_address;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Results")]
pub(crate) struct ResultArgs {
    /// Form of results and rejects, in place of plain text: gz, zst or parquet
    ///
    /// With gz or zst, results.csv.gz or results.csv.zst is the file compressed. With parquet, results.parquet has typed columns:
    /// those of the input as the model gets them, and new ones as it returns them. The files are written while the job runs. On
    /// hosts, this is the form of what is uploaded.
    #[arg(long, value_name = "FORM", value_parser = clap::value_parser!(Form), hide_possible_values = true)]
    format: Option<Form>,
    /// Also upload results, rejects and results.json to S3, below s3://BUCKET/FOLDER/
    ///
    /// They are uploaded in parts while the job runs, and appear when it is done, results.json last. This machine signs
    /// the requests with the credentials of the AWS configuration; hosts get no credentials, and no rights.
    #[arg(long, value_name = "ADDRESS", value_parser = objects::prefix)]
    upload: Option<String>,
}

impl ResultArgs {
    pub(crate) fn options(&self) -> ResultOptions {
        ResultOptions { form: self.format, upload: self.upload.clone() }
    }
}

/// The output folder that the user gave, or the default one.
///
/// # Errors
/// It is an address.
pub(crate) fn output(given: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        ensure!(
            !is_address(given),
            "--output is a folder on this machine, and not {}; --upload s3://BUCKET/FOLDER/ uploads the results, too",
            given.display()
        );
    }
    given.cloned().map_or_else(|| project::default_folder("output"), Ok)
}
