//! `s3`: see `s3 --help`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use s3::address::Address;
use s3::client::Client;
use s3::list::list;
use s3::renew::{self, Requests};
use s3::uploads;

/// Sign requests to S3, and begin and abort uploads
///
/// cargo xtask starts this program; there is no need to start it by hand. Credentials, the region and the endpoint are those of
/// AWS's tools (AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL_S3, ~/.aws).
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: process::log::Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the addresses of the objects in a folder
    List {
        /// s3://BUCKET/FOLDER/ or s3://BUCKET
        #[arg(value_name = "ADDRESS", value_parser = Address::folder)]
        folder: Address,
    },
    /// Begin an upload to each address
    Begin {
        /// The job that the objects will have as their metadata
        #[arg(long, value_name = "NAME")]
        job: String,
        /// Where to write the open uploads. If it has them already, only those that were aborted are begun again
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// s3://BUCKET/KEY
        #[arg(value_name = "ADDRESS", required = true, value_parser = Address::object)]
        addresses: Vec<Address>,
    },
    /// Sign the requests of a job, and print until when they are valid, in seconds since 1970
    Sign {
        /// Where to write the signed requests
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// A file of `s3 begin`: sign the requests of these uploads
        #[arg(long, value_name = "FILE")]
        uploads: Option<PathBuf>,
        /// Stay, and sign again before the signatures end
        #[arg(long)]
        renew: bool,
        /// s3://BUCKET/KEY: sign a request to read it
        #[arg(value_name = "ADDRESS", value_parser = Address::object)]
        addresses: Vec<Address>,
    },
    /// Abort the uploads of a file of `s3 begin`, and remove it
    Abort { file: PathBuf },
}

fn main() -> ExitCode {
    let args = Args::parse();
    process::begin("s3", args.log.log_format, process::log::LevelFilter::WARN);
    match run(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => process::exit::failure(&error),
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { folder } => {
            let found = list(&mut Client::connect()?, &folder)?;
            let lines: String = found.iter().map(|address| format!("{address}\n")).collect();
            print(&lines)
        }
        Command::Begin { job, to, addresses } => {
            uploads::begin(&mut Client::connect()?, &job, &addresses, &to)
        }
        Command::Sign { to, uploads, renew, addresses } => {
            let uploads = uploads.as_deref().map_or(Ok(Vec::new()), open_uploads)?;
            let requests = Requests { inputs: addresses, uploads, file: to };
            let mut client = Client::connect()?;
            let until = renew::sign(&mut client, &requests)?;
            print_until(until)?;
            if renew {
                match renew::keep(&mut client, &requests, until, print_until)? {}
            }
            Ok(())
        }
        Command::Abort { file } => print(&format!("aborted {}\n", uploads::abort(&file)?)),
    }
}

fn open_uploads(file: &Path) -> anyhow::Result<Vec<protocol::signed::Open>> {
    uploads::read(file)?
        .with_context(|| format!("there is no file {}; begin the uploads first: s3 begin", file.display()))
}

fn print_until(until: u64) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::json!({ "until": until })))
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("writing to standard output")
}
