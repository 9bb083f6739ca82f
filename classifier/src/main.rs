//! `classifier`: see `classifier --help`.

mod args;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use args::{Args, Command};
use clap::Parser;
use classifier::classify::Classifier;
use classifier::metrics::Metrics;
use classifier::model::ModelSettings;
use classifier::model::python::guard;
use classifier::{file, run};
use records::Declared;
use telemetry::report::Ending;
use telemetry::reporter;

fn main() -> ExitCode {
    let args = Args::parse();
    process::begin("classifier", args.log.log_format, process::log::LevelFilter::INFO);
    leave_on_lost_process();
    let outcome = match &args.command {
        Some(Command::File { input, output, strict, delimiter, types }) => {
            let declared = Declared::parse(delimiter.as_deref(), None, None).map_err(anyhow::Error::from);
            declared
                .and_then(|declared| args.model.file_options(declared, types))
                .and_then(|options| classify_file(&args.model.settings(1), input, output, *strict, &options))
        }
        Some(Command::Guard { command }) => guard::run(command).map(|()| ExitCode::SUCCESS),
        Some(Command::Check) => args.model.settings(1).load().map(|_| ExitCode::SUCCESS),
        None => join_cluster(args).map(|()| ExitCode::SUCCESS),
    };
    reporter::end(outcome.as_ref().map_or_else(Ending::of, |_| Ending::Finished));
    outcome.unwrap_or_else(|error| process::exit::failure(&error))
}

/// Makes this process leave its generation when timely panics because it has lost another process.
fn leave_on_lost_process() {
    let end = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or_default();
        if let Some(error) = message.strip_prefix("timely communication error: ") {
            classifier::leave_generation(format_args!("lost another process of the cluster: {error}"))
        }
        end(panic);
    }));
}

fn join_cluster(args: Args) -> anyhow::Result<()> {
    let reports = args.reports.clone();
    let settings = args.cluster_settings()?;
    process::log::set_worker(&settings.name);
    let metrics = Metrics::new(settings.workers);
    let counted = metrics.clone();
    reporter::start(&reports, settings.token.as_ref(), &settings.name, move || counted.counts())?;
    run::run(&settings, metrics)
}

fn classify_file(
    model: &ModelSettings,
    input: &Path,
    output: &Path,
    strict: bool,
    options: &file::Options,
) -> anyhow::Result<ExitCode> {
    let classifier = Classifier::new(model.load()?);
    let start = Instant::now();
    let summary = file::classify(input, output, options, classifier)?;
    let seconds = start.elapsed().as_secs_f64();
    tracing::info!(
        "{} rows, of these {} rejects, in {seconds:.2} s ({:.0} rows/s)",
        summary.rows,
        summary.rejects,
        summary.rows as f64 / seconds
    );
    if summary.rejects > 0 {
        tracing::info!("the rejects are in {}", summary.rejects_path.display());
    }
    Ok(if strict && summary.rejects > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
