//! Writes results and rejects in another form, and uploads them, while results arrive. The program `formats` does so, as a child
//! of this one.

use std::collections::BTreeSet;
use std::ffi::OsString;
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
use process::lifeline::{LIFELINE, QUIET};
use protocol::conversion::{self, Columns, Kind, Piece};
use protocol::result_files::{Form, ResultFiles};
use protocol::schema::{Column, Kept};

use crate::job::{Job, Reach};

/// How many bytes the child gets at once.
const PIECE: u64 = 1 << 20;
/// The columns of the rejects.
const REJECTS: [(&str, Kind); 3] = [("row", Kind::Int64), ("reason", Kind::Text), ("record", Kind::Text)];

/// What becomes of results and rejects, besides the plain files.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A form to write them in.
    pub form: Option<Form>,
    /// Where to upload them, in that form, and the summary.
    pub upload: Option<Upload>,
    /// The program that does this.
    pub formats: PathBuf,
}

/// Where to upload files.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The addresses of objects without their names, as `s3://bucket/folder/`.
    pub prefix: String,
    /// The file with signed requests for them.
    pub signed: PathBuf,
}

/// The export of a job.
pub struct Export {
    exporter: Arc<Exporter>,
    thread: JoinHandle<anyhow::Result<()>>,
}

struct Exporter {
    settings: Settings,
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
    pub fn start(settings: Settings, files: &ResultFiles, job: &Arc<Job>) -> anyhow::Result<Self> {
        let exporter = Arc::new(Exporter { settings, files: files.clone(), job: Arc::clone(job) });
        let running = Arc::clone(&exporter);
        let run = move || {
            let exported = running.run();
            if let Err(error) = &exported {
                running.remove_parts();
                // Now, and not after the last row. What is durable stays, and another try goes on with it.
                running.job.fail(format!("{error:#}"), false);
            }
            exported
        };
        let thread = std::thread::Builder::new().name("export".into()).spawn(run);
        Ok(Self { exporter, thread: thread.context("starting a thread")? })
    }

    /// Waits until all is exported, of a job that is done. Objects are completed last, the summary after the others.
    ///
    /// # Errors
    /// A file cannot be read, written or uploaded.
    pub fn finish(self) -> anyhow::Result<()> {
        self.thread.join().map_err(|_| anyhow!("the thread that exports has panicked"))??;
        if self.exporter.settings.upload.is_none() {
            return Ok(());
        }
        let summary = &self.exporter.files.summary;
        self.exporter.export_whole(summary, summary, None)?;
        let [results, rejects] = self.exporter.exported();
        [&rejects, &results, summary].into_iter().try_for_each(|file| self.exporter.complete(file))
    }
}

impl Exporter {
    fn run(&self) -> anyhow::Result<()> {
        let [results, rejects] = self.exported();
        // Values of these columns are not of their kind.
        let mut texts = BTreeSet::new();
        let columns_now = |texts: &BTreeSet<_>| self.has_kinds().then(|| self.columns(texts)).transpose();
        loop {
            if let Reach::Never = self.job.await_results(1) {
                return Ok(());
            }
            let columns = columns_now(&texts)?;
            let reach = |end| self.job.await_results(end);
            match self.export(&self.files.results, &results, columns.as_ref(), reach)? {
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
        let columns = REJECTS.map(|(name, kind)| (name.to_owned(), kind)).to_vec();
        let columns = self.has_kinds().then_some(Columns { columns, has_header: true });
        self.export_whole(&self.files.rejects, &rejects, columns.as_ref())?;
        if self.settings.form.is_none() {
            return Ok(());
        }
        for path in [&results, &rejects] {
            std::fs::rename(part(path), path).with_context(|| format!("renaming to {}", path.display()))?;
        }
        sync_folder(&results).context("syncing the folder of the results")
    }

    /// Results and rejects, in their form.
    fn exported(&self) -> [PathBuf; 2] {
        self.files.exported(self.settings.form)
    }

    /// Removes what cannot be used, since it takes space.
    fn remove_parts(&self) {
        if self.settings.form.is_none() {
            return;
        }
        for path in self.exported() {
            if let Err(error) = remove_if_there(&part(&path)) {
                tracing::warn!("{error:#}");
            }
        }
    }

    fn has_kinds(&self) -> bool {
        self.settings.form == Some(Form::Parquet)
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

    /// Exports a file that is complete.
    fn export_whole(&self, from: &Path, to: &Path, columns: Option<&Columns>) -> anyhow::Result<()> {
        let length = std::fs::metadata(from).with_context(|| format!("reading {}", from.display()))?.len();
        let all = |end| if end <= length { Reach::Durable } else { Reach::Last(length) };
        match self.export(from, to, columns, all)? {
            Written::Done => Ok(()),
            _ => bail!("exporting {} to {}", from.display(), to.display()),
        }
    }

    /// Exports a file, as far as it reaches: writes it to the partial file of `to` if that is another one, and uploads that.
    fn export(
        &self,
        from: &Path,
        to: &Path,
        columns: Option<&Columns>,
        reach: impl Fn(u64) -> Reach,
    ) -> anyhow::Result<Written> {
        let mut command = Command::new(&self.settings.formats);
        let written = (from != to).then(|| part(to));
        match (&written, self.settings.form) {
            (Some(part), Some(form)) => {
                command.args(["write", "--form", &form.to_string(), "--output"]).arg(part)
            }
            _ => command.arg("upload").arg(from),
        };
        command.args(self.object(to));
        // Its standard input has pieces, and ends with this process.
        command.env_remove(LIFELINE);
        let mut child = self.start(command)?;
        let file = File::open(from).with_context(|| format!("reading {}", from.display()))?;
        match child.feed(&file, columns, written.is_some(), reach) {
            // It says why.
            Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(is_closed) => {}
            Err(error) => return Err(error.context(format!("exporting {}", from.display()))),
            Ok(true) => {}
            Ok(false) => {
                drop(child);
                written.iter().try_for_each(|part| remove_if_there(part))?;
                return Ok(Written::Never);
            }
        }
        child.outcome().with_context(|| match (&written, &self.settings.upload) {
            (Some(part), _) => format!("exporting {} to {}", from.display(), part.display()),
            (None, _) => format!("uploading {}", from.display()),
        })
    }

    /// Completes the object of an exported file.
    fn complete(&self, file: &Path) -> anyhow::Result<()> {
        let mut command = Command::new(&self.settings.formats);
        command.arg("complete").args(self.object(file)).env(LIFELINE, QUIET);
        self.start(command)?.outcome()?;
        Ok(())
    }

    /// The arguments for the object of an exported file; none if it is not uploaded.
    fn object(&self, file: &Path) -> Vec<OsString> {
        let Some(Upload { prefix, signed }) = &self.settings.upload else { return Vec::new() };
        let mut address = OsString::from(prefix);
        address.push(file.file_name().unwrap_or_default());
        let notes = file.with_added_extension("uploaded").into_os_string();
        let named = [("--object", address), ("--signed", signed.into()), ("--notes", notes)];
        named.into_iter().flat_map(|(name, value)| [name.into(), value]).collect()
    }

    fn start(&self, mut command: Command) -> anyhow::Result<Ended> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let starting = || format!("starting {}", self.settings.formats.display());
        command.spawn().map(Ended).with_context(starting)
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
    /// Tells the child how far a file reaches, and gives it the bytes if it `wants` them. Returns `false` if there will be no end
    /// of them.
    fn feed(
        &mut self,
        file: &File,
        columns: Option<&Columns>,
        wants: bool,
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
            if wants {
                bytes.resize(length as usize, 0);
                file.read_exact_at(&mut bytes, begin)?;
            }
            begin += length;
            conversion::write_bytes(&mut stdin, begin, &bytes)?;
        }
        conversion::write_end(&mut stdin, Ok(()))?;
        Ok(true)
    }

    /// Waits until the child says how it has ended.
    fn outcome(mut self) -> anyhow::Result<Written> {
        let stdout = self.0.stdout.take().context("the child has no standard output")?;
        match conversion::read(BufReader::new(stdout)) {
            Ok(Piece::Done) => Ok(Written::Done),
            Ok(Piece::Misfit(column)) => Ok(Written::Misfit(column as usize)),
            Ok(Piece::Failed(reason)) => Err(anyhow!(reason)),
            Ok(_) => Err(anyhow!("the program did not say how it ended")),
            Err(_) => {
                // It may have ended, which is as good.
                let _ = self.0.kill();
                let status = self.0.wait().context("waiting for the program")?;
                Err(anyhow!("the program has ended ({status})"))
            }
        }
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
