//! A program's log: one line per [`tracing`] event on standard error, as text or JSON.
//!
//! Each line has the time, the level, the program, and, once the program sets them, its worker and generation. `RUST_LOG`
//! filters by level (`debug`) or by module (`info,net=debug`); without it, the program's own level counts. The end of a program
//! is always logged ([`OUTCOME`]).

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
pub use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

/// The logging options of all programs.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Options {
    /// Format of log lines: text, or json (one object a line)
    #[arg(
        long,
        value_name = "FORMAT",
        default_value_t,
        env = "LOG_FORMAT",
        hide_env_values = true,
        global = true
    )]
    pub log_format: Format,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("it should be text or json".to_owned()),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// The target of events that report how a program ends. They pass any `RUST_LOG` filter, since commands read and show them.
pub const OUTCOME: &str = "outcome";

static WORKER: OnceLock<String> = OnceLock::new();
/// The cluster's generation; 0 while this process is in no cluster.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Sets up logging for this process: from `level` on, unless `RUST_LOG` says otherwise. A second call changes nothing.
///
/// An invalid `RUST_LOG` is logged and ignored.
pub fn init(program: &'static str, format: Format, level: LevelFilter) {
    let wanted = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let parsed = wanted.as_deref().map(Targets::from_str);
    let (filter, broken) = match parsed {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (from(level), Some(error)),
        None => (from(level), None),
    };
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Lines { program, format })
        // The program continues if standard error is closed or on a full disk.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let subscriber = tracing_subscriber::registry().with(with_outcome(filter)).with(lines);
    if tracing::subscriber::set_global_default(subscriber).is_ok()
        && let Some(error) = broken
    {
        tracing::error!("RUST_LOG is invalid and ignored: {error}");
    }
}

fn with_outcome(filter: Targets) -> Targets {
    filter.with_target(OUTCOME, LevelFilter::INFO)
}

fn from(level: LevelFilter) -> Targets {
    Targets::new().with_default(level)
}

/// The time as in a log's lines.
pub fn now() -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

/// Adds the worker's name to each line from now on.
pub fn set_worker(name: &str) {
    // A worker never changes its name.
    let _ = WORKER.set(name.to_owned());
}

/// Adds the cluster's generation to each line from now on.
pub fn set_generation(generation: u64) {
    GENERATION.store(generation, Ordering::Relaxed);
}

/// The message in a line of a program's log, without time, level, program, worker and generation. Other lines are returned
/// whole.
pub fn message(line: &str) -> Cow<'_, str> {
    if let Ok(Value::Object(fields)) = serde_json::from_str(line) {
        return match fields.get("message").and_then(Value::as_str) {
            Some(message) => Cow::Owned(message.to_owned()),
            None => Cow::Borrowed(line),
        };
    }
    let message = || {
        let (time, rest) = line.split_once("Z ")?;
        let (level, rest) = rest.trim_start().split_once(' ')?;
        let (program, message) = rest.split_once(": ")?;
        let is_time =
            time.len() > 18 && time.bytes().all(|byte| byte.is_ascii_digit() || b"-T:.".contains(&byte));
        let is_ours = is_time && level.parse::<tracing::Level>().is_ok() && !program.contains(' ');
        is_ours.then_some(without_place(message))
    };
    Cow::Borrowed(message().unwrap_or(line))
}

/// Removes the worker and the generation from the end of a message.
fn without_place(message: &str) -> &str {
    let mut message = message;
    while let Some((rest, last)) = message.rsplit_once(' ')
        && (last.starts_with("generation=") || last.starts_with("worker="))
    {
        message = rest;
    }
    message
}

struct Lines {
    program: &'static str,
    format: Format,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if let Some(worker) = WORKER.get() {
            fields.rest.insert("worker".into(), worker.as_str().into());
        }
        let generation = GENERATION.load(Ordering::Relaxed);
        if generation > 0 {
            fields.rest.insert("generation".into(), generation.into());
        }
        let level = event.metadata().level();
        match self.format {
            Format::Text => {
                SystemTime.format_time(&mut writer)?;
                write!(writer, " {level:>5} {}: {}", self.program, fields.message)?;
                for (name, value) in &fields.rest {
                    match value {
                        Value::String(text) => write!(writer, " {name}={text}")?,
                        other => write!(writer, " {name}={other}")?,
                    }
                }
                writeln!(writer)
            }
            Format::Json => {
                let mut time = String::new();
                SystemTime.format_time(&mut Writer::new(&mut time))?;
                let mut line = Map::new();
                line.insert("time".into(), time.into());
                line.insert("level".into(), level.as_str().to_ascii_lowercase().into());
                line.insert("program".into(), self.program.into());
                line.insert("message".into(), fields.message.into());
                line.append(&mut fields.rest);
                writeln!(writer, "{}", Value::Object(line))
            }
        }
    }
}

/// An event's message and its other fields.
#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.rest.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            _ => self.put(field, text.into()),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            _ => self.put(field, value.into()),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, act: impl FnOnce()) -> String {
        logged_from(from(LevelFilter::INFO), format, act)
    }

    fn logged_from(filter: Targets, format: Format, act: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let lines = tracing_subscriber::fmt::layer()
            .event_format(Lines { program: "sender", format })
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(filter).with(lines), act);
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_text_line_has_time_level_program_and_fields() {
        let text = logged(Format::Text, || {
            tracing::debug!("not logged");
            tracing::warn!(rows = 7, "lost the {}", "source");
        });
        let (time, rest) = text.split_once("Z ").unwrap();
        assert_eq!(rest, " WARN sender: lost the source rows=7\n");
        assert!(time.len() > 18 && time.as_bytes()[10] == b'T', "{time}");
    }

    #[test]
    fn outcomes_are_logged_whatever_the_filter() {
        for filter in ["off", "error", "outcome=off,receiver=warn"] {
            let text = logged_from(with_outcome(filter.parse().unwrap()), Format::Text, || {
                tracing::info!("not logged");
                tracing::info!(target: OUTCOME, "stopped");
                tracing::error!(target: OUTCOME, "failed");
            });
            assert_eq!(text.lines().map(message).collect::<Vec<_>>(), ["stopped", "failed"], "{filter}");
        }
    }

    #[test]
    fn a_message_is_extracted_from_its_line() {
        for format in [Format::Text, Format::Json] {
            for said in ["lost the source: broken pipe", "", "{\"a\": 1}", "2026-01-01T00:00:00Z INFO x: y"] {
                let line = logged(format, || tracing::error!("{said}"));
                assert_eq!(message(line.trim_end_matches('\n')), said, "{line}");
            }
        }
        for other in ["Traceback (most recent call last):", "  File \"x.py\", line 1: Z x: y", "[1, 2]", ""] {
            assert_eq!(message(other), other);
        }
        for place in ["", " worker=w1", " generation=7 worker=initializer"] {
            let line = format!("2026-01-01T00:00:00.000000Z  WARN sender: lost it{place}");
            assert_eq!(message(&line), "lost it");
        }
    }

    #[test]
    fn a_json_line_is_one_object() {
        let text = logged(Format::Json, || tracing::info!(peer = "10.0.0.1:1", "line\n\"two\""));
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert_eq!(
            (line["level"].as_str(), line["program"].as_str(), line["peer"].as_str()),
            (Some("info"), Some("sender"), Some("10.0.0.1:1"))
        );
        assert_eq!(line["message"], "line\n\"two\"");
    }
}
