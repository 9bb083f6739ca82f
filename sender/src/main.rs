//! `sender`: see `sender --help`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use columns::Spec;
use process::ready::Ready;
use protocol::token::Token;
use records::Declared;
use sender::client::{self, Target};
use sender::input::{self, Csv, Fake, Files, Input, Options, Reading};
use sender::metrics::Metrics;
use sender::replay::Replay;

use telemetry::report::Ending;
use telemetry::reporter;

/// Sends rows to a classifier cluster: fake ones, a CSV file, or standard input.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Examples:
  sender 127.0.0.1:8888 --lines 1000000     a million fake rows
  sender 127.0.0.1:8888 input.csv           a file
  sender 127.0.0.1:8888 -                   standard input
  sender --stdout --lines 1000 > input.csv  fake rows as a CSV"
)]
struct Args {
    /// Where the cluster's source listens
    #[arg(value_name = "HOST:PORT", required_unless_present = "stdout", value_parser = net::host_and_port)]
    target: Option<String>,
    /// A CSV file with a header or its HTTP address, several with the same header, or - for standard input
    #[arg(value_name = "FILE")]
    input: Vec<PathBuf>,
    /// Send this many generated rows
    #[arg(long, value_name = "N", conflicts_with = "input")]
    lines: Option<u64>,
    /// Seed for the generated rows
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Write the generated rows to standard output, as a CSV with a header
    #[arg(long, requires = "lines", conflicts_with = "target")]
    stdout: bool,
    /// Check that the input can be sent, print its identity, and exit
    #[arg(long, requires = "input", conflicts_with = "lines")]
    check: bool,
    /// Fail unless the files have this identity, which --check has printed
    #[arg(long, value_name = "IDENTITY", requires = "input")]
    identity: Option<String>,
    /// What separates values: an ASCII character, or tab. Saying so overrules the check that the input looks like a CSV with
    /// commas
    #[arg(long, value_name = "CHARACTER")]
    delimiter: Option<String>,
    /// What is around values that have a delimiter or line ends in them: an ASCII character, or none
    #[arg(long, value_name = "CHARACTER")]
    quote: Option<String>,
    /// Skip lines that begin with this ASCII character
    #[arg(long, value_name = "CHARACTER")]
    comment: Option<String>,
    /// The encoding of the input's text, if it is not UTF-8
    #[arg(long, value_name = "NAME", requires = "formats")]
    encoding: Option<String>,
    /// The program that reads other encodings, zstd and Parquet
    #[arg(long, value_name = "PROGRAM")]
    formats: Option<PathBuf>,
    /// The file with signed requests for inputs at S3 (s3://BUCKET/KEY)
    #[arg(long, value_name = "FILE", requires = "formats")]
    signed: Option<PathBuf>,
    /// Send the types of columns, for a model that gets typed ones: infer, strings, or COLUMN=TYPE,… with the others inferred.
    /// They are inferred from the whole file; of other inputs, from the first 1,000 rows, or those of ten seconds
    #[arg(long, value_name = "TYPES")]
    types: Option<Spec>,
    /// A file with the job's token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A unique name for this sender; a restarted sender with the same name continues where it was
    #[arg(long, value_name = "NAME")]
    session: Option<String>,
    /// Write this file whenever the source has asked for a row
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// How long to wait for the source, at first and whenever it is lost
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=process::LONGEST_WAIT))]
    patience: u64,
    #[command(flatten)]
    reports: reporter::Options,
    #[command(flatten)]
    log: process::log::Options,
}

fn main() -> ExitCode {
    let args = Args::parse();
    process::begin("sender", args.log.log_format, process::log::LevelFilter::INFO);
    match run(args) {
        Ok(()) => {
            reporter::end(Ending::Finished);
            ExitCode::SUCCESS
        }
        Err(error) => {
            reporter::end(Ending::of(&error));
            process::exit::failure(&error)
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    if args.stdout {
        let lines = args.lines.context("--stdout needs --lines")?;
        return input::write_csv(Fake::new(args.seed, lines), std::io::stdout().lock());
    }
    let address = args.target.context("the source's HOST:PORT is missing")?;
    let token = args.token_file.as_deref().map(Token::load).transpose()?;
    // An earlier process of this session noted the identity of its input in the ready file.
    let before = Ready::before(args.ready_file.as_deref().filter(|_| args.session.is_some()))?;
    let expected = args.identity.or(before.and_then(|ready| ready.input));
    let (delimiter, quote, comment) = (&args.delimiter, &args.quote, &args.comment);
    let declared = Declared::parse(delimiter.as_deref(), quote.as_deref(), comment.as_deref())?;
    let reading = Reading { declared, encoding: args.encoding, formats: args.formats, signed: args.signed };
    let mut input: Box<dyn Input> = match (&args.input[..], args.lines) {
        ([path], _) => one_input(path, reading, expected.as_deref())?,
        ([], Some(lines)) => Box::new(Fake::new(args.seed, lines)),
        ([], None) => bail!("nothing to send: give a CSV file, - for standard input, or --lines N"),
        (several, _) => Box::new(Files::open(several.to_vec(), reading, expected.as_deref())?),
    };
    if args.check {
        return print_check(&*input, declared);
    }
    let header = input.header().to_vec();
    let survey = match &args.types {
        Some(types) => Some(types.apply(&header, input.survey()?)?),
        None => None,
    };
    let (session, patience) = (args.session, Duration::from_secs(args.patience));
    let metrics = Metrics::default();
    let counted = metrics.clone();
    reporter::start(&args.reports, token.as_ref(), "sender", move || counted.counts())?;
    let target = Target { address, token, session, survey, ready_file: args.ready_file, patience, metrics };
    let rows = client::send_all(&target, &mut *input)?;
    tracing::info!("{rows} rows are classified and durable");
    Ok(())
}

/// A file, or a stream whose rows are kept while they may be asked for again.
fn one_input(path: &Path, reading: Reading, expected: Option<&str>) -> anyhow::Result<Box<dyn Input>> {
    let options = Options { identity: expected.map(str::to_owned), reading };
    if path == Path::new("-") {
        return Ok(Box::new(Replay::new(Csv::stdin(options)?)));
    }
    let csv = Csv::open(path, options)?;
    Ok(if csv.can_go_back() { Box::new(csv) } else { Box::new(Replay::new(csv)) })
}

/// Prints the findings of `--check`: the identity of the files, and hints about what looks wrong.
fn print_check(input: &dyn Input, declared: Declared) -> anyhow::Result<()> {
    let identity = input.identity().map(|identity| format!("identity {identity}\n"));
    let hints = records::sniff::hints(input.header(), declared);
    let hints = hints.into_iter().map(|hint| format!("hint {hint}\n"));
    let lines: String = identity.into_iter().chain(hints).collect();
    std::io::stdout().write_all(lines.as_bytes()).context("writing to standard output")
}
