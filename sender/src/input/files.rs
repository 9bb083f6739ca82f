//! Several CSV files as one input: their rows one after the other, under the same header.

use std::io::{self, Read};
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use columns::{ColumnType, Survey};
use protocol::frame::DEFAULT_LIMIT;
use protocol::hash::short_hex;
use records::format::{is_address, shown};
use records::identity;

use super::{Csv, Extent, Input, Options, Reading, WRITE_SIZE, Watch};

pub struct Files {
    paths: Vec<PathBuf>,
    /// The identity and the length of each.
    known: Vec<(String, u64)>,
    reading: Reading,
    header: Vec<u8>,
    /// The types of the columns, if the files declare them.
    types: Option<Vec<ColumnType>>,
    /// The file that is being read, and its place.
    current: Csv,
    place: usize,
    /// The first row of each file that has been reached.
    starts: Vec<u64>,
}

impl Files {
    /// Opens files, at least one, which must have the identity that an earlier sender has noted.
    ///
    /// # Errors
    /// A file cannot be read or is not a CSV, has another header than the first, or the identity is another one.
    pub fn open(paths: Vec<PathBuf>, reading: Reading, expected: Option<&str>) -> anyhow::Result<Self> {
        let mut first: Option<Csv> = None;
        let (mut known, mut types) = (Vec::new(), None);
        for path in &paths {
            let file = Csv::open(path, Options { identity: None, reading: reading.clone() })?;
            let identity = file.identity().zip(file.length());
            known.push(
                identity
                    .with_context(|| format!("{} is no file, and can be read only alone", file.name()))?,
            );
            match &first {
                Some(first) => {
                    check_header(first, &file)?;
                    types = common_types(types, first, &file)?;
                }
                None => {
                    types = file.types().map(<[_]>::to_vec);
                    first = Some(file);
                }
            }
        }
        let current = first.context("there are no files")?;
        ensure!(
            expected.is_none_or(|expected| expected == of_all(&known)),
            "the files have changed since the job began: {} and others; start it again",
            current.name()
        );
        let header = current.header().to_vec();
        Ok(Self { paths, known, reading, types, header, current, place: 0, starts: vec![0] })
    }

    /// Opens the file at this place, which must be what it was.
    fn open_at(&self, place: usize) -> anyhow::Result<Csv> {
        let options = Options { identity: Some(self.known[place].0.clone()), reading: self.reading.clone() };
        Csv::open(&self.paths[place], options)
    }

    /// Goes on with the next file. Returns `false` after the last.
    fn next_file(&mut self) -> anyhow::Result<bool> {
        self.current.check()?;
        let place = self.place + 1;
        if place == self.paths.len() {
            return Ok(false);
        }
        let start = self.position();
        self.current = self.open_at(place)?;
        self.place = place;
        if self.starts.len() == place {
            self.starts.push(start);
        }
        Ok(true)
    }
}

fn of_all(known: &[(String, u64)]) -> String {
    let identities: Vec<_> = known.iter().map(|(identity, _)| identity.clone()).collect();
    identity::of_all(&identities, short_hex)
}

/// The types of the columns of all files so far, and of another one.
fn common_types(
    known: Option<Vec<ColumnType>>,
    first: &Csv,
    other: &Csv,
) -> anyhow::Result<Option<Vec<ColumnType>>> {
    let (known, found) = match (known, other.types()) {
        (None, None) => return Ok(None),
        (Some(known), Some(found)) => (known, found),
        (known, _) => {
            let (table, text) = if known.is_some() { (first, other) } else { (other, first) };
            bail!("{} is a Parquet file, and {} is a text; give files of one kind", table.name(), text.name())
        }
    };
    let common = known.iter().zip(found).enumerate().map(|(column, (known, found))| {
        known.with(*found).with_context(|| {
            format!(
                "column {} of {} has the type {found}, and in {} or a file after it {known}; all files of a job must have the same",
                column + 1,
                other.name(),
                first.name()
            )
        })
    });
    common.collect::<anyhow::Result<_>>().map(Some)
}

fn check_header(first: &Csv, other: &Csv) -> anyhow::Result<()> {
    if first.header() == other.header() {
        return Ok(());
    }
    let names = |csv: &Csv| -> Vec<String> {
        let names = records::split(csv.header()).unwrap_or_default();
        names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    };
    let (wanted, found) = (names(first), names(other));
    let difference = match wanted.iter().zip(&found).position(|(wanted, found)| wanted != found) {
        Some(column) => {
            format!("column {} is {:?} there, and {:?} here", column + 1, wanted[column], found[column])
        }
        None if wanted.len() != found.len() => {
            format!("it has {} columns there, and {} here", wanted.len(), found.len())
        }
        None => "it is quoted differently".to_owned(),
    };
    bail!(
        "{} has another header than {}: {difference}; all files of a job must have the same",
        other.name(),
        first.name()
    )
}

impl Input for Files {
    fn header(&self) -> &[u8] {
        &self.header
    }

    fn position(&self) -> u64 {
        self.starts[self.place] + self.current.position()
    }

    fn extent(&self) -> Extent {
        let before = self.known[..self.place].iter().map(|(_, length)| length).sum::<u64>();
        Extent {
            rows_total: None,
            bytes: before + self.current.extent().bytes,
            bytes_total: Some(self.known.iter().map(|(_, length)| length).sum()),
        }
    }

    fn identity(&self) -> Option<String> {
        Some(of_all(&self.known))
    }

    fn watch(&self) -> Option<Watch> {
        // Each part of a file at an address is checked when it is fetched.
        let files = self.paths.iter().zip(&self.known).filter(|(path, _)| !is_address(path));
        let files: Vec<_> = files.map(|(path, (identity, _))| (path.clone(), identity.clone())).collect();
        Some(Box::new(move || {
            let mut files = files.iter();
            files.try_for_each(|(path, identity)| identity::check_at(path, identity.parse()?))
        }))
    }

    fn check(&self) -> anyhow::Result<()> {
        self.watch().map_or(Ok(()), |watch| watch())
    }

    fn survey(&mut self) -> anyhow::Result<Survey> {
        let files = (0..self.paths.len()).map(|place| {
            let plain = self.open_at(place).and_then(|file| file.plain_again());
            let name = shown(&self.paths[place]);
            plain.map(|inner| Named { inner, name }).map_err(io::Error::other)
        });
        let survey = columns::survey(files, DEFAULT_LIMIT, self.current.dialect())?;
        let types = self.types.clone().unwrap_or(survey.types);
        Ok(Survey { types, ..survey })
    }

    fn seek(&mut self, row: u64) -> anyhow::Result<()> {
        let place = self.starts.iter().rposition(|start| *start <= row).unwrap_or(0);
        if place != self.place || row < self.position() {
            self.current = self.open_at(place)?;
            self.place = place;
        }
        while !self.current.skip_to(row - self.starts[self.place])? {
            if !self.next_file()? {
                bail!("the source asks for row {row}, but the files have only {}", self.position());
            }
        }
        Ok(())
    }

    fn fill(&mut self, out: &mut Vec<u8>) -> anyhow::Result<()> {
        let before = out.len();
        if before >= WRITE_SIZE {
            return Ok(());
        }
        loop {
            self.current.fill(out)?;
            if out.len() > before || !self.next_file()? {
                return Ok(());
            }
        }
    }
}

/// Names the file in errors.
struct Named<R> {
    inner: R,
    name: String,
}

impl<R: Read> Read for Named<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("reading {}: {error}", self.name));
        self.inner.read(out).map_err(named)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::rows;
    use super::*;

    fn files(texts: &[String]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let folder = tempfile::tempdir().unwrap();
        let write = |(i, text)| {
            let path = folder.path().join(format!("{i}.csv"));
            std::fs::write(&path, text).unwrap();
            path
        };
        let paths = texts.iter().enumerate().map(write).collect();
        (folder, paths)
    }

    proptest! {
        #[test]
        fn rows_follow_each_other_from_any_row_on(
            counts in prop::collection::vec(0..4u64, 1..5), seeks in prop::collection::vec(0..14u64, 0..6), has_end: bool,
        ) {
            let mut next = 0;
            let texts: Vec<String> = counts.iter().map(|count| {
                let rows: Vec<_> = (next..next + count).map(|row| format!("\n{row}")).collect();
                next += count;
                format!("id{}{}", rows.concat(), if has_end { "\n" } else { "" })
            }).collect();
            let (_folder, paths) = files(&texts);
            let mut input = Files::open(paths, Reading::default(), None).unwrap();
            let survey = input.survey().unwrap();
            prop_assert_eq!(survey.rows, Some(next));
            for row in seeks {
                if row > next {
                    prop_assert!(input.seek(row).is_err());
                    continue;
                }
                input.seek(row).unwrap();
                prop_assert_eq!(input.position(), row);
                let left: Vec<_> = (row..next).map(|row| row.to_string().into_bytes()).collect();
                prop_assert_eq!(rows(&mut input), left);
                prop_assert_eq!(input.position(), next);
                let Extent { bytes, bytes_total, .. } = input.extent();
                prop_assert_eq!(Some(bytes), bytes_total);
            }
        }
    }

    #[test]
    fn another_header_and_changed_files_are_refused() {
        let error = |texts: [&str; 2]| {
            let (_folder, paths) = files(&texts.map(str::to_owned));
            Files::open(paths, Reading::default(), None).err().unwrap().to_string()
        };
        assert!(error(["a,b\n", "a,c\n"]).contains("1.csv has another header than "));
        assert!(error(["a,b\n", "a,c\n"]).contains("column 2 is \"b\" there, and \"c\" here"));
        assert!(error(["a,b\n", "a,b,c\n"]).contains("it has 2 columns there, and 3 here"));
        assert!(error(["a,b\n", "\"a\",b\n"]).contains("quoted differently"));
        let (_folder, paths) = files(&["id\n1\n".to_owned(), "id\n2\n".to_owned()]);
        let input = Files::open(paths.clone(), Reading::default(), None).unwrap();
        let identity = input.identity().unwrap();
        Files::open(paths.clone(), Reading::default(), Some(&identity)).unwrap();
        std::fs::write(&paths[1], "id\n2\n3\n").unwrap();
        let error = format!("{:#}", input.check().unwrap_err());
        assert!(error.contains("1.csv: it has changed while it was read"), "{error}");
        let error = Files::open(paths, Reading::default(), Some(&identity)).err().unwrap().to_string();
        assert!(error.contains("the files have changed since the job began"), "{error}");
    }
}
