//! A `.tgz` whose files arrive in pieces: the length of each is known only at its end.
//!
//! A gzip file may consist of several members. Each tar header, which has the length, is a member of its own, stored without
//! compression: its size is fixed, so that it can be overwritten when the file is complete.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

use anyhow::{Context, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};

/// A tar's block size in bytes. Files begin at multiples of it, and two blocks of zeros end the archive.
const BLOCK: usize = 512;

/// An archive that is being written.
pub(super) struct Packer {
    archive: File,
}

/// A file in the archive that is being written.
pub(super) struct Entry<'a> {
    archive: &'a mut File,
    name: &'static str,
    /// The position of its header.
    at: u64,
    length: u64,
    body: GzEncoder<File>,
}

impl Packer {
    /// Begins an archive in this file, whose content is discarded.
    pub(super) fn new(mut archive: File) -> io::Result<Self> {
        archive.set_len(0)?;
        archive.seek(SeekFrom::Start(0))?;
        Ok(Self { archive })
    }

    /// Begins the next file. `name` is its path in the archive.
    pub(super) fn begin(&mut self, name: &'static str) -> anyhow::Result<Entry<'_>> {
        let at = self.archive.stream_position()?;
        self.archive.write_all(&header(name, 0)?)?;
        // The clone shares the position.
        let body = GzEncoder::new(self.archive.try_clone()?, Compression::fast());
        Ok(Entry { archive: &mut self.archive, name, at, length: 0, body })
    }

    /// Ends the archive, and makes it durable; returns its size in bytes.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        let mut end = GzEncoder::new(&mut self.archive, Compression::fast());
        end.write_all(&[0; 2 * BLOCK])?;
        end.finish()?;
        self.archive.sync_all()?;
        self.archive.stream_position()
    }
}

impl Entry<'_> {
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.body.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Ends the file, and writes its length.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        let used = (self.length % BLOCK as u64) as usize;
        if used > 0 {
            self.body.write_all(&[0; BLOCK][used..])?;
        }
        self.body.finish()?;
        self.archive.write_all_at(&header(self.name, self.length)?, self.at)?;
        Ok(())
    }
}

/// A file's tar header, as a gzip member without compression: its size does not depend on its content.
fn header(name: &str, length: u64) -> anyhow::Result<Vec<u8>> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_path(name).context("naming a file in the archive")?;
    header.set_size(length);
    header.set_mode(0o644);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    header.set_mtime(now);
    header.set_cksum();
    let mut member = GzEncoder::new(Vec::new(), Compression::none());
    member.write_all(header.as_bytes())?;
    let member = member.finish()?;
    ensure!(
        member.len() == 10 + 5 + BLOCK + 8,
        "a stored block takes {} bytes in this version of gzip",
        member.len()
    );
    Ok(member)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::MultiGzDecoder;
    use proptest::prelude::*;

    use super::*;

    /// Packs files in pieces; returns what a reader finds.
    fn packed(files: &[(&'static str, Vec<Vec<u8>>)]) -> Vec<(String, Vec<u8>)> {
        let mut file = tempfile::tempfile().unwrap();
        // What an earlier archive left.
        file.write_all(&[b'x'; 5000]).unwrap();
        let mut packer = Packer::new(file.try_clone().unwrap()).unwrap();
        for (name, pieces) in files {
            let mut entry = packer.begin(name).unwrap();
            pieces.iter().for_each(|piece| entry.write(piece).unwrap());
            entry.end().unwrap();
        }
        assert_eq!(packer.finish().unwrap(), file.metadata().unwrap().len());
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut tar = tar::Archive::new(MultiGzDecoder::new(file));
        let entries = tar.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).unwrap();
            (entry.path().unwrap().display().to_string(), contents)
        });
        entries.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn a_reader_finds_all_files(
            first in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..8),
            second in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..3),
        ) {
            let expected =
                vec![("results.log".to_owned(), first.concat()), ("other".to_owned(), second.concat())];
            prop_assert_eq!(packed(&[("results.log", first), ("other", second)]), expected);
        }
    }
}
