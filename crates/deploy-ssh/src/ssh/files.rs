//! Files over SFTP, in one go and with what has arrived told on the way.

use std::collections::VecDeque;
use std::io::{Read, SeekFrom};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use bytes::BytesMut;
use openssh_sftp_client::Sftp;
use openssh_sftp_client::file::File;
use openssh_sftp_client::metadata::Permissions;
use tokio::io::AsyncSeekExt;

use agent::protocol::FOLDER;

use super::Ssh;
use super::sftp::open_sftp;
use super::shell::in_folder;
use crate::runtime::runtime;
use deploy::interrupt;

/// How long a host may take for a piece, for opening and closing a file, and for opening a channel in one way or another.
const PIECE_TIME: Duration = Duration::from_secs(30);
/// Bytes that are read or written at once.
const PIECE: usize = 256 << 10;
/// Pieces that are on their way at once: over a long way, waiting for each would take all the time.
const AHEAD: usize = 16;

impl Ssh {
    /// Writes a file on the host, in its folder: at first under another name, so that it is whole or not there.
    ///
    /// # Errors
    /// Names the host and the file.
    pub fn upload(
        &self,
        local: &Path,
        to: &Path,
        executable: bool,
        mut arrived: impl FnMut(u64),
    ) -> anyhow::Result<()> {
        let what = format!("writing {} on {}", to.display(), self.entry().name);
        // A name of its own: an earlier upload that was broken off may still have its file open over there, and may even
        // still write to it.
        let random = getrandom::u32().map_err(|e| anyhow!("making up a name: {e}"))?;
        let target = self.place(to)?;
        let new = format!("{target}.{random:08x}.part");
        let remove = format!("cd {FOLDER} && rm -f {}.*.part", to.display());
        self.run(&remove, PIECE_TIME).with_context(|| what.clone())?;
        let uploaded = runtime()?.block_on(async {
            let sftp = self.sftp().await?;
            let mut file = in_time(sftp.options().write(true).create(true).truncate(true).open(&new)).await?;
            if executable {
                in_time(file.set_permissions(Permissions::from(0o755))).await?;
            }
            // Blocking, on a thread that has nothing else to do.
            let context = || format!("reading {}", local.display());
            let mut input = std::fs::File::open(local).with_context(context)?;
            let mut at = 0;
            let mut going = VecDeque::new();
            loop {
                interrupt::check()?;
                let mut piece = vec![0; PIECE];
                let read = input.read(&mut piece).with_context(context)?;
                if read > 0 {
                    piece.truncate(read);
                    going.push_back(tokio::spawn(write(file.clone(), at, piece)));
                    at += read as u64;
                }
                if going.len() >= AHEAD || read == 0 {
                    let Some(piece) = going.pop_front() else { break };
                    arrived(piece.await.context("waiting for a piece")??);
                }
            }
            // Awaited, since a program whose file is open for writing over there cannot be started.
            in_time(file.close()).await?;
            in_time(sftp.fs().rename(&new, &target)).await
        });
        let Err(error) = uploaded else { return Ok(()) };
        let error = self.explain_full_disk(error, local);
        // What has come is of no use, and may be all that fills the disk. A host that is lost cannot be asked; the next upload
        // removes it.
        let _ = self.run(&remove, PIECE_TIME);
        Err(error).context(what)
    }

    /// SFTP has no words for a full disk. This is asked while what has come still fills it.
    fn explain_full_disk(&self, error: anyhow::Error, local: &Path) -> anyhow::Error {
        let wanted = std::fs::metadata(local).map_or(0, |metadata| metadata.len());
        // The connection may be what has failed; then there is nothing to add.
        let Ok(said) =
            self.run(&format!("df -Pk {FOLDER} | tail -n 1; df -Pi {FOLDER} | tail -n 1"), PIECE_TIME)
        else {
            return error;
        };
        let fourth = |line: Option<&str>| line?.split_whitespace().nth(3)?.parse::<u64>().ok();
        let mut lines = said.lines();
        let (kib, files) = (fourth(lines.next()), fourth(lines.next()));
        match (kib.map(|kib| kib << 10), files) {
            (Some(free), _) if free < wanted => error
                .context(format!("its disk is full: {free} bytes are free, and {wanted} are to be written")),
            (_, Some(0)) => error.context("its disk is full: it has room for no further file (df -i)"),
            _ => error,
        }
    }

    /// Reads a file of the host's folder from this byte on, and hands its pieces on, in their order.
    ///
    /// # Errors
    /// Names the host and the file; or that of `take` as it is, which may have another cause, and after which nothing more is
    /// read.
    pub fn read_pieces(
        &self,
        from: &Path,
        begin: u64,
        length: u64,
        mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let what = || format!("reading {} of {}", from.display(), self.entry().name);
        let place = self.place(from)?;
        let mut taken = Ok(());
        let read_all = runtime()?.block_on(async {
            let sftp = self.sftp().await?;
            let file = in_time(sftp.open(place)).await?;
            let mut asked = begin;
            let mut coming = VecDeque::new();
            loop {
                while coming.len() < AHEAD && asked < length {
                    let size = (length - asked).min(PIECE as u64) as usize;
                    coming.push_back(tokio::spawn(read(file.clone(), asked, size)));
                    asked += size as u64;
                }
                let Some(piece) = coming.pop_front() else { break };
                let piece = piece.await.context("waiting for a piece")??;
                taken = take(&piece);
                if taken.is_err() {
                    break;
                }
            }
            in_time(file.close()).await
        });
        taken?;
        read_all.with_context(what)
    }

    /// The length of a file of the host's folder; `None` if it is not there.
    ///
    /// # Errors
    /// When the host does not say.
    pub fn length(&self, of: &Path) -> anyhow::Result<Option<u64>> {
        let script = format!("cd {FOLDER} && if [ -e {0} ]; then wc -c < {0}; fi", of.display());
        let said = self.run(&script, PIECE_TIME)?;
        if said.trim().is_empty() {
            return Ok(None);
        }
        let length = said.trim().parse();
        length
            .map(Some)
            .with_context(|| format!("{} says that a file has {:?} bytes", self.entry().name, said.trim()))
    }

    /// The channel ends when this is dropped. (Its own way to end panics when something of it is still being dropped.)
    async fn sftp(&self) -> anyhow::Result<Sftp> {
        let login = self.0.login();
        in_time(open_sftp(&login.session)).await.context("opening an SFTP channel")
    }

    /// The absolute path of a file in the host's folder: a server may have been started in any folder.
    fn place(&self, path: &Path) -> anyhow::Result<String> {
        in_folder(&self.0.login().home, &path.display().to_string())
    }
}

async fn read(mut file: File, begin: u64, size: usize) -> anyhow::Result<BytesMut> {
    file.seek(SeekFrom::Start(begin)).await?;
    let piece = in_time(file.read_all(size, BytesMut::with_capacity(size))).await?;
    ensure!(piece.len() == size, "the file became shorter meanwhile");
    Ok(piece)
}

async fn write(mut file: File, begin: u64, piece: Vec<u8>) -> anyhow::Result<u64> {
    file.seek(SeekFrom::Start(begin)).await?;
    in_time(file.write_all(&piece)).await?;
    Ok(piece.len() as u64)
}

/// Each step has its deadline; the connection's own signs of life end it before, when the host is gone.
async fn in_time<T, E>(step: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    E: Into<anyhow::Error>,
{
    match tokio::time::timeout(PIECE_TIME, step).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(_) => bail!("nothing came of it within {PIECE_TIME:?}"),
    }
}
