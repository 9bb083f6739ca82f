//! Messages on a lifeline: lines of text, some with open files or sockets.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::descriptors;

/// How many things a supervisor keeps for a program. Each takes some of the files that a process may open.
pub(crate) const MOST: usize = 64;
/// The most open files and sockets in a message.
const MOST_DESCRIPTORS: usize = 4;

/// Something that a supervisor keeps for a program.
#[derive(Debug)]
pub struct Kept {
    pub name: String,
    pub note: String,
    pub descriptors: Vec<OwnedFd>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// The program is alive.
    Sign,
    /// Keep what comes with this message under this name, with this note.
    Keep(String, String),
    /// Close what has this name.
    Forget(String),
}

impl Message {
    pub(crate) fn send(&self, socket: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> nix::Result<()> {
        let line = match self {
            Self::Sign => ".\n".to_owned(),
            Self::Keep(name, note) => format!("keep {} {name} {note}\n", descriptors.len()),
            Self::Forget(name) => format!("forget {name}\n"),
        };
        descriptors::send(socket, line.as_bytes(), descriptors)
    }

    /// Parses a line, without its end. Returns how many open files or sockets belong to it.
    fn parse(line: &str) -> Option<(Self, usize)> {
        let mut words = line.splitn(4, ' ');
        match (words.next()?, words.next(), words.next(), words.next()) {
            (".", None, ..) => Some((Self::Sign, 0)),
            ("forget", Some(name), None, _) => Some((Self::Forget(name.to_owned()), 0)),
            ("keep", Some(count), Some(name), Some(note)) => {
                let count = count.parse().ok().filter(|count| *count <= MOST_DESCRIPTORS)?;
                Some((Self::Keep(name.to_owned(), note.to_owned()), count))
            }
            _ => None,
        }
    }
}

/// Messages, each with its open files and sockets.
type Arrived = Vec<(Message, Vec<OwnedFd>)>;

/// What has arrived of messages that are not complete.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    text: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Incoming {
    /// Waits for messages, for as long as the socket's timeout for reading; returns `None` at the end. There may be none, if
    /// the first is not complete.
    pub(crate) fn receive(&mut self, socket: &UnixStream) -> std::io::Result<Option<Arrived>> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(socket.as_fd(), &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if received == 0 {
            return Ok(None);
        }
        self.text.extend_from_slice(&bytes[..received]);
        let mut messages = Vec::new();
        while let Some(end) = self.text.iter().position(|&byte| byte == b'\n') {
            let line: Vec<_> = self.text.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            // Both ends are of the same build.
            if let Some((message, count)) = Message::parse(line.trim_end_matches('\n')) {
                let descriptors = self.descriptors.drain(..count.min(self.descriptors.len())).collect();
                messages.push((message, descriptors));
            }
        }
        Ok(Some(messages))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn messages_arrive_with_their_files() {
        let (ours, its) = UnixStream::pair().unwrap();
        let keep = |name: &str| Message::Keep(name.to_owned(), r#"{"a": "b c"}"#.to_owned());
        let pipes = [std::io::pipe().unwrap(), std::io::pipe().unwrap()];
        Message::Sign.send(&ours, &[]).unwrap();
        keep("one").send(&ours, &[pipes[0].0.as_fd(), pipes[1].0.as_fd()]).unwrap();
        Message::Sign.send(&ours, &[]).unwrap();
        keep("two").send(&ours, &[]).unwrap();
        keep("three").send(&ours, &[pipes[1].0.as_fd()]).unwrap();
        Message::Forget("one".to_owned()).send(&ours, &[]).unwrap();
        drop(ours);
        let [(first, mut to_first), (second, mut to_second)] = pipes;
        drop((first, second));
        let (mut incoming, mut all) = (Incoming::default(), Vec::new());
        while let Some(messages) = incoming.receive(&its).unwrap() {
            all.extend(messages);
        }
        let counts: Vec<_> = all.iter().map(|(message, files)| (message.clone(), files.len())).collect();
        let forget = Message::Forget("one".to_owned());
        let (one, two, three) = (keep("one"), keep("two"), keep("three"));
        assert_eq!(
            counts,
            [(Message::Sign, 0), (one, 2), (Message::Sign, 0), (two, 0), (three, 1), (forget, 0)]
        );
        write!(to_first, "1").unwrap();
        write!(to_second, "2").unwrap();
        drop((to_first, to_second));
        let files = all.into_iter().flat_map(|(_, files)| files).take(2);
        let texts: Vec<_> = files
            .map(|file| {
                let mut text = String::new();
                std::fs::File::from(file).read_to_string(&mut text).unwrap();
                text
            })
            .collect();
        assert_eq!(texts, ["1", "2"]);
    }

    #[test]
    fn other_lines_are_no_messages() {
        for line in ["", "keep", "keep 1 name", "keep 100 name note", "forget", "forget a b", ". x"] {
            assert_eq!(Message::parse(line), None, "{line:?}");
        }
    }
}
