//! Open files and sockets as a part of messages.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// Sends a short message with open files and sockets. It is sent as a whole, also while another thread sends one.
///
/// # Errors
/// The peer is gone, or the system is short of something.
pub fn send(socket: &UnixStream, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = ControlMessage::ScmRights(&raw);
    let control = if raw.is_empty() { [].as_slice() } else { std::slice::from_ref(&rights) };
    let slices = [IoSlice::new(message)];
    sendmsg::<()>(socket.as_raw_fd(), &slices, control, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}
