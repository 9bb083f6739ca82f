//! Writes results and rejects in another form while results arrive. The program `formats` does so, as a child of this one.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, anyhow, bail};
use columns::ColumnType;
use files::{read_if_there, remove_if_there, sync_folder};
use process::lifeline::LIFELINE;
use protocol::conversion::{self, Columns, Kind, Piece};
use protocol::result_files::{Form, ResultFiles};
use protocol::schema::{Column, Kept};

use crate::job::{Job, Reach};

/// How many bytes the child gets at once.
const PIECE: u64 = 1 << 20;
/// The columns of the rejects.
const REJECTS: [(&str, Kind); 3] = [("row", Kind::Int64), ("reason", Kind::Text), ("record", Kind::Text)];

/// The export of a job.
pub struct Export {
    thread: JoinHandle<anyhow::Result<()>>,
}

struct Exporter {
    form: Form,
    /// The program.
    formats: PathBuf,
    files: ResultFiles,
    job: Arc<Job>,
}

/// How writing a file has ended.
enum Written {
    Done,
    /// A value of this column is not of the column's kind.
    Misfit(usize),
    /// The job has failed or was stopped.
    Never,
}

impl Export {
    /// Begins to export the results of `job`, from their first byte. Replaces the unfinished files of an earlier receiver.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(form: Form, formats: &Path, files: &ResultFiles, job: &Arc<Job>) -> anyhow::Result<Self> {
        let exporter =
            Exporter { form, formats: formats.to_owned(), files: files.clone(), job: Arc::clone(job) };
        let run = move || {
            let exported = exporter.run();
            if let Err(error) = &exported {
                exporter.remove_parts();
                // Now, and not after the last row. What is durable stays, and another try goes on with it.
                exporter.job.fail(format!("{error:#}"), false);
            }
            exported
        };
        let thread = std::thread::Builder::new().name("export".into()).spawn(run);
        Ok(Self { thread: thread.context("starting a thread")? })
    }

    /// Waits until all is exported.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn finish(self) -> anyhow::Result<()> {
        self.thread.join().map_err(|_| anyhow!("the thread that exports has panicked"))?
    }
}

impl Exporter {
    fn run(&self) -> anyhow::Result<()> {
        let [results, rejects] = self.files.in_form(self.form);
        // Values of these columns are not of their kind.
        let mut texts = BTreeSet::new();
        let columns_now = |texts: &BTreeSet<_>| self.has_kinds().then(|| self.columns(texts)).transpose();
        loop {
            if let Reach::Never = self.job.await_results(1) {
                return Ok(());
            }
            let columns = columns_now(&texts)?;
            match self
                .write(&self.files.results, &results, columns.as_ref(), |end| self.job.await_results(end))?
            {
                Written::Never => return Ok(()),
                Written::Misfit(column) if texts.insert(column) => {}
                Written::Misfit(column) => {
                    bail!("exporting {}: column {column} has no kind", results.display())
                }
                // The kind of a column is known from its first value on.
                Written::Done if columns == columns_now(&texts)? => {
                    break;
                }
                Written::Done => {}
            }
        }
        let length = std::fs::metadata(&self.files.rejects)
            .with_context(|| format!("reading {}", self.files.rejects.display()))?
            .len();
        let columns = REJECTS.map(|(name, kind)| (name.to_owned(), kind)).to_vec();
        let columns = self.has_kinds().then_some(Columns { columns, has_header: true });
        let all = |end| if end <= length { Reach::Durable } else { Reach::Last(length) };
        let written = self.write(&self.files.rejects, &rejects, columns.as_ref(), all)?;
        let Written::Done = written else { bail!("exporting the rejects to {}", rejects.display()) };
        for path in [&results, &rejects] {
            std::fs::rename(part(path), path).with_context(|| format!("renaming to {}", path.display()))?;
        }
        sync_folder(&results).context("syncing the folder of the results")
    }

    /// Removes what cannot be used, since it takes space.
    fn remove_parts(&self) {
        for path in self.files.in_form(self.form) {
            if let Err(error) = remove_if_there(&part(&path)) {
                tracing::warn!("{error:#}");
            }
        }
    }

    fn has_kinds(&self) -> bool {
        self.form == Form::Parquet
    }

    /// The columns of the durable results.
    fn columns(&self, texts: &BTreeSet<usize>) -> anyhow::Result<Columns> {
        let path = &self.files.schema;
        let kept = read_if_there(path)?.map(|json| serde_json::from_slice(&json));
        let kept: Kept =
            kept.transpose().with_context(|| format!("decoding {}", path.display()))?.unwrap_or_default();
        let types = kept.terms.map(|terms| terms.types).unwrap_or_default();
        // The header has the columns of the input that are copied.
        let header = kept.schema.header.as_deref().unwrap_or_default();
        let copied = records::count(header.as_bytes()).unwrap_or(0);
        let columns = kept.schema.columns.iter().enumerate().map(|(place, column)| {
            let kind = if texts.contains(&place) {
                Kind::Text
            } else {
                let of_input = types.get(place).filter(|_| place < copied);
                of_input.map_or_else(|| kind_of(column), |of_input| kind_of_type(*of_input))
            };
            (column.0.clone(), kind)
        });
        Ok(Columns { columns: columns.collect(), has_header: kept.schema.header.is_some() })
    }

    /// Writes a file, as far as it reaches, to the partial file of `to`.
    fn write(
        &self,
        from: &Path,
        to: &Path,
        columns: Option<&Columns>,
        reach: impl Fn(u64) -> Reach,
    ) -> anyhow::Result<Written> {
        let to = part(to);
        let mut command = Command::new(&self.formats);
        command.args(["write", "--form", &self.form.to_string(), "--output"]).arg(&to);
        // Its standard input has pieces, and ends with this process.
        command.env_remove(LIFELINE).stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.spawn().with_context(|| format!("starting {}", self.formats.display()))?;
        let mut child = Ended(child);
        let file = File::open(from).with_context(|| format!("reading {}", from.display()))?;
        match child.feed(&file, columns, reach) {
            // It says why.
            Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(is_closed) => {}
            Err(error) => return Err(error.context(format!("exporting {}", from.display()))),
            Ok(true) => {}
            Ok(false) => {
                drop(child);
                remove_if_there(&to)?;
                return Ok(Written::Never);
            }
        }
        let stdout = child.0.stdout.take().context("the child has no standard output")?;
        let exporting = || format!("exporting {} to {}", from.display(), to.display());
        match conversion::read(BufReader::new(stdout)) {
            Ok(Piece::Done) => Ok(Written::Done),
            Ok(Piece::Misfit(column)) => Ok(Written::Misfit(column as usize)),
            Ok(Piece::Failed(reason)) => Err(anyhow!(reason)).with_context(exporting),
            Ok(_) => Err(anyhow!("the program did not say how it ended")).with_context(exporting),
            Err(_) => {
                let _ = child.0.kill();
                let status = child.0.wait().context("waiting for the program")?;
                Err(anyhow!("the program that writes the form has ended ({status})")).with_context(exporting)
            }
        }
    }
}

fn is_closed(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe
}

fn part(path: &Path) -> PathBuf {
    path.with_added_extension("part")
}

/// A child that has ended when this is dropped.
struct Ended(Child);

impl Ended {
    /// Gives the child a file's bytes as far as they reach. Returns `false` if there will be no end of them.
    fn feed(
        &mut self,
        file: &File,
        columns: Option<&Columns>,
        reach: impl Fn(u64) -> Reach,
    ) -> anyhow::Result<bool> {
        let mut stdin = self.0.stdin.take().context("the child has no standard input")?;
        if let Some(columns) = columns {
            conversion::write_columns(&mut stdin, columns)?;
        }
        let mut begin = 0;
        let mut bytes = Vec::new();
        loop {
            let length = match reach(begin + PIECE) {
                Reach::Durable => PIECE,
                Reach::Last(all) if all > begin => (all - begin).min(PIECE),
                Reach::Last(_) => break,
                Reach::Never => return Ok(false),
            };
            bytes.resize(length as usize, 0);
            file.read_exact_at(&mut bytes, begin)?;
            begin += length;
            conversion::write_bytes(&mut stdin, begin, &bytes)?;
        }
        conversion::write_end(&mut stdin, Ok(()))?;
        Ok(true)
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The kind of a column of the input.
fn kind_of_type(of_input: ColumnType) -> Kind {
    match of_input {
        ColumnType::Int64 | ColumnType::NullableInt64 | ColumnType::Uint64 => Kind::Int64,
        ColumnType::Float64 => Kind::Float64,
        ColumnType::Bool | ColumnType::NullableBool => Kind::Bool,
        ColumnType::String | ColumnType::Literal => Kind::Text,
    }
}

/// The kind of a column of the model.
fn kind_of(column: &Column) -> Kind {
    let mut kinds = column.1.iter();
    match (kinds.next().map(String::as_str), kinds.next()) {
        (Some("integer"), None) => Kind::Int64,
        (Some("boolean"), None) => Kind::Bool,
        (Some(kind), None) if kind == "decimal" || kind.starts_with("decimal (") => Kind::Float64,
        _ => Kind::Text,
    }
}
