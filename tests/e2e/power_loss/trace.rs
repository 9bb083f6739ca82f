//! Parses strace's record of a receiver's system calls.
//!
//! A call has two moments, its beginning and its end. strace writes the beginning before the call starts, and the end after
//! the call has returned; with several threads, these are separate lines. So if the end of a write precedes the beginning of
//! a sync, the sync covers the write.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use protocol::frame::PREFIX;
use protocol::results::{FromReceiver, Welcome};

/// Calls that this module can parse.
const KNOWN: &str = "openat,write,writev,lseek,ftruncate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,sendto,sendmsg";
/// Other calls that would change files. If a receiver makes them, the test must learn them.
const UNKNOWN: &str = "creat,truncate,fallocate,pwrite64,pwritev,pwritev2,link,linkat,symlink,symlinkat,mkdir,mkdirat,\
                       rmdir,sendfile,splice,copy_file_range,sync_file_range,open_by_handle_at,io_uring_setup";

/// A point in time, as a line number.
pub(super) type Moment = usize;

/// A system call. Calls are sorted by their beginnings.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) begin: Moment,
    pub(super) end: Moment,
    pub(super) what: What,
}

/// Files are named relative to the folder of the results; the folder itself has an empty name.
#[derive(Debug)]
pub(super) enum What {
    Open {
        name: String,
        create: bool,
        truncate: bool,
    },
    Write {
        name: String,
        at: u64,
        bytes: Vec<u8>,
    },
    Truncate {
        name: String,
        length: u64,
    },
    Sync {
        name: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Unlink {
        name: String,
    },
    /// Tells the initializer that all batches before this one are durable.
    Acknowledge(u64),
    /// Tells the initializer that the job is done.
    Finish,
}

/// A command that strace traces to `trace`, and kills when one of its threads begins its `kill_at`th `fdatasync`. The
/// started process becomes the command itself; strace runs detached.
pub(super) fn traced(command: &Path, trace: &Path, kill_at: Option<usize>) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-y", "-xx", "-s", "100000000", "-e", "signal=SIGKILL", "-e"]);
    strace.arg(format!("trace={KNOWN},{UNKNOWN}")).arg("-o").arg(trace);
    if let Some(sync) = kill_at {
        strace.arg("-e").arg(format!("inject=fdatasync:signal=SIGKILL:when={sync}"));
    }
    strace.arg(command);
    strace
}

/// Whether strace is installed and may trace.
pub(super) fn is_possible() -> bool {
    let mut strace = traced(Path::new("true"), Path::new("/dev/null"), None);
    strace.output().is_ok_and(|output| output.status.success() && output.stderr.is_empty())
}

/// Parses the traces of consecutive processes, as far as they concern files in `folder` or messages to the initializer.
pub(super) fn parse(traces: &[String], folder: &Path) -> Vec<Call> {
    let mut parser = Parser { folder, positions: HashMap::new(), sent: HashMap::new(), calls: Vec::new() };
    let mut now = 0;
    for trace in traces {
        let mut begun: HashMap<&str, (Moment, &str)> = HashMap::new();
        for line in trace.lines() {
            now += 1;
            let (thread, line) = line.split_once(' ').unwrap();
            if let Some(call) = line.trim_start().strip_suffix(" <unfinished ...>") {
                begun.insert(thread, (now, call));
            } else if let Some((_, rest)) = line.split_once(" resumed>") {
                let (begin, call) = begun.remove(thread).unwrap();
                parser.call(begin, now, &format!("{call}{rest}"));
            } else {
                parser.call(now, now, line.trim_start());
            }
        }
        for (begin, call) in begun.into_values() {
            parser.call(begin, now, call);
        }
    }
    parser.calls.sort_by_key(|call| call.begin);
    parser.calls
}

struct Parser<'a> {
    folder: &'a Path,
    /// The position of the next write in each file.
    positions: HashMap<String, u64>,
    /// The beginning of an incomplete frame on each socket.
    sent: HashMap<String, Vec<u8>>,
    calls: Vec<Call>,
}

impl Parser<'_> {
    fn call(&mut self, begin: Moment, end: Moment, line: &str) {
        let Some((call, rest)) = line.split_once('(') else { return };
        // A call that was cut short by a kill has no result, or `?`. It may have written or sent everything, but it synced
        // nothing.
        let result = rest.rsplit_once(" = ").map_or("?", |(_, result)| result);
        if result.starts_with('-') {
            return;
        }
        let result: Option<u64> = result.split(['<', ' ']).next().unwrap().parse().ok();
        assert!(!rest.contains("\"..."), "strace has left something out: {line}");
        let strings: Vec<Vec<u8>> = rest.split('"').skip(1).step_by(2).map(unhex).collect();
        // The path of the open file or socket, if the call is on one.
        let open = rest
            .split_once('<')
            .and_then(|(_, rest)| rest.split_once('>'))
            .map(|(path, _)| text(unhex(path)));
        let argument = |n: usize| self.name(&text(strings[n].clone()));
        let name = open.as_deref().and_then(|open| self.name(open));
        let what = match call {
            "openat" => argument(0).map(|name| {
                self.positions.insert(name.clone(), 0);
                What::Open { name, create: rest.contains("O_CREAT"), truncate: rest.contains("O_TRUNC") }
            }),
            "rename" | "renameat" | "renameat2" => {
                argument(0).zip(argument(1)).map(|(from, to)| What::Rename { from, to })
            }
            "unlink" | "unlinkat" => argument(0).map(|name| What::Unlink { name }),
            "fsync" | "fdatasync" => name.filter(|_| result.is_some()).map(|name| What::Sync { name }),
            "ftruncate" => name.map(|name| What::Truncate { name, length: last_number(rest) }),
            "lseek" => {
                name.zip(result).map(|(name, position)| self.positions.insert(name, position));
                None
            }
            "write" | "writev" | "sendto" | "sendmsg" => {
                let mut bytes = strings.concat();
                bytes.truncate(result.map_or(bytes.len(), |written| written as usize));
                match (name, open) {
                    (Some(name), _) => {
                        let position = self.positions.get_mut(&name).unwrap();
                        let at = *position;
                        *position += bytes.len() as u64;
                        Some(What::Write { name, at, bytes })
                    }
                    (None, Some(socket)) if socket.starts_with("socket:") => {
                        for what in self.send(socket, &bytes) {
                            self.calls.push(Call { begin, end, what });
                        }
                        None
                    }
                    _ => None,
                }
            }
            _ => {
                let strings = strings.iter().any(|string| self.name(&text(string.clone())).is_some());
                assert!(name.is_none() && !strings, "the test does not know this call: {line}");
                None
            }
        };
        self.calls.extend(what.map(|what| Call { begin, end, what }));
    }

    /// The name of a path in the folder.
    fn name(&self, path: &str) -> Option<String> {
        let name = Path::new(path).strip_prefix(self.folder).ok()?;
        Some(name.to_str().unwrap().to_owned())
    }

    /// The messages that these bytes complete.
    fn send(&mut self, socket: String, bytes: &[u8]) -> Vec<What> {
        let stream = self.sent.entry(socket).or_default();
        stream.extend_from_slice(bytes);
        let mut messages = Vec::new();
        while let Some(length) =
            stream.first_chunk::<PREFIX>().map(|prefix| u32::from_be_bytes(*prefix) as usize)
            && stream.len() >= PREFIX + length
        {
            let payload = stream.drain(..PREFIX + length).skip(PREFIX).collect::<Vec<u8>>();
            if let Ok(Welcome { next, .. }) = serde_json::from_slice(&payload) {
                messages.push(What::Acknowledge(next));
                continue;
            }
            messages.push(match FromReceiver::decode(payload.into()).unwrap() {
                FromReceiver::Acknowledgement(acknowledgement) => What::Acknowledge(acknowledgement.next),
                FromReceiver::Outcome(_) => What::Finish,
                FromReceiver::Noted => continue,
            });
        }
        messages
    }
}

/// Decodes `\x41\x42`.
fn unhex(hex: &str) -> Vec<u8> {
    hex.split("\\x").skip(1).map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// The last argument of a call.
fn last_number(rest: &str) -> u64 {
    let (arguments, _) = rest.rsplit_once(") ").unwrap_or((rest, ""));
    arguments.rsplit_once(' ').unwrap().1.trim_end_matches(')').parse().unwrap()
}
