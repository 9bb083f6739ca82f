//! `formats`: see `formats --help`.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use formats::address::Address;
use formats::output::{self, Written};
use formats::upload::{self, Target};
use formats::{remote, table, text};
use process::lifeline;
use protocol::conversion;
use protocol::result_files::Form;
use records::format::is_address;

/// Read and write what is no plain CSV
///
/// The sender and the receiver start this program; there is no need to start it by hand.
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
    /// Turn a text at standard input into UTF-8; decompress it if it is compressed with zstd
    Decode {
        /// The text's encoding, such as windows-1252 [default: UTF-8]
        #[arg(long, value_name = "NAME")]
        encoding: Option<String>,
    },
    /// Fetch a file from an HTTP address, or an object from S3
    Fetch {
        address: String,
        /// The file with the signed requests for objects
        #[arg(long, value_name = "FILE")]
        signed: Option<PathBuf>,
    },
    /// Turn a file with a table into a CSV; it may be at an address
    Table {
        path: PathBuf,
        /// The file with the signed requests for objects
        #[arg(long, value_name = "FILE")]
        signed: Option<PathBuf>,
    },
    /// Write results, which standard input has in pieces, in another form
    Write {
        #[arg(long)]
        form: Form,
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        target: Option<ObjectArgs>,
    },
    /// Upload a file while it grows to the length that standard input says
    Upload {
        path: PathBuf,
        #[command(flatten)]
        target: ObjectArgs,
    },
    /// Complete an object that was uploaded
    Complete {
        #[command(flatten)]
        target: ObjectArgs,
    },
}

/// An object to write.
#[derive(Debug, clap::Args)]
struct ObjectArgs {
    /// The object, as s3://BUCKET/KEY
    #[arg(long, value_name = "ADDRESS", required = false)]
    object: String,
    /// The file with the signed requests for it
    #[arg(long, value_name = "FILE", required = false)]
    signed: PathBuf,
    /// The file that says what is uploaded
    #[arg(long, value_name = "FILE", required = false)]
    notes: PathBuf,
}

impl ObjectArgs {
    fn target(&self) -> Target {
        let Self { object, signed, notes } = self;
        Target { address: object.clone(), signed: signed.clone(), notes: notes.clone() }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    process::begin("formats", args.log.log_format, process::log::LevelFilter::INFO);
    // The decoder of Parquet may panic at a damaged file, which is then an error.
    let end = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !formats::parquet::is_decoding() {
            end(panic);
        }
    }));
    let mut out = std::io::stdout().lock();
    let done = run(&args.command, &mut out);
    let said = match &done {
        Ok(Written::Done) => conversion::write_end(&mut out, Ok(())),
        Ok(Written::Misfit(column)) => conversion::write_misfit(&mut out, *column),
        Err(error) => conversion::write_end(&mut out, Err(&format!("{error:#}"))),
    };
    match said.and_then(|()| out.flush()).context("writing to standard output").and(done) {
        Ok(_) => ExitCode::SUCCESS,
        // The parent says why.
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(command: &Command, mut out: impl Write) -> anyhow::Result<Written> {
    match command {
        Command::Decode { encoding } => {
            let encoding = encoding.as_deref().map(text::encoding).transpose()?;
            text::decode(std::io::stdin().lock(), encoding, out)?;
        }
        Command::Fetch { address, signed } => remote::fetch(&Address::new(address, signed.clone()), out)?,
        Command::Table { path, signed } if is_address(path) => {
            let address = Address::new(&path.to_string_lossy(), signed.clone());
            let file = remote::download(&address, &mut out)?;
            table::read(file, out)?;
        }
        Command::Table { path, .. } => {
            let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
            table::read(file, out)?;
        }
        Command::Write { form, output, target } => {
            lifeline::end_with_parent_thread()?;
            let target = target.as_ref().map(ObjectArgs::target);
            return output::write(*form, output, target, std::io::stdin().lock());
        }
        Command::Upload { path, target } => {
            lifeline::end_with_parent_thread()?;
            upload::follow(path, target.target(), std::io::stdin().lock())?;
        }
        Command::Complete { target } => upload::complete(&target.target())?,
    }
    Ok(Written::Done)
}
