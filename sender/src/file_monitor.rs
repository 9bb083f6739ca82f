//! Monitors the input's files while rows are sent. A write to the source may block for hours, but a changed file must fail the
//! job soon.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;

use anyhow::Context;
use parking_lot::Mutex;
use records::identity::CHECK_PAUSE;

use crate::input::Input;

/// Checks the file once a second on its own thread, until this is dropped. When the file has changed, closes the connection,
/// which ends a blocked write.
pub struct FileMonitor {
    changed: Arc<Mutex<Option<anyhow::Error>>>,
    /// Dropping it ends the thread.
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FileMonitor {
    /// Monitors the input's file; does nothing for an input that is not a file.
    ///
    /// # Errors
    /// When the system cannot duplicate the connection or start a thread.
    pub(crate) fn start(input: &dyn Input, stream: &TcpStream) -> anyhow::Result<Self> {
        let changed = Arc::default();
        let Some(watch) = input.watch() else { return Ok(Self { changed, over: None, thread: None }) };
        let stream = stream.try_clone().context("splitting the connection to the source")?;
        let (over, is_over) = channel::<()>();
        let note = Arc::clone(&changed);
        let monitor = move || {
            while let Err(RecvTimeoutError::Timeout) = is_over.recv_timeout(CHECK_PAUSE) {
                if let Err(error) = watch() {
                    *note.lock() = Some(error);
                    // It may be closed already.
                    let _ = stream.shutdown(Shutdown::Both);
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("file monitor".into()).spawn(monitor);
        let thread = Some(thread.context("starting a thread")?);
        Ok(Self { changed, over: Some(over), thread })
    }

    /// Takes the error that says how the file has changed.
    pub(crate) fn changed(&self) -> Option<anyhow::Error> {
        self.changed.lock().take()
    }
}

impl Drop for FileMonitor {
    fn drop(&mut self) {
        self.over.take();
        if let Some(thread) = self.thread.take() {
            // The thread returns nothing, and ends at once.
            let _ = thread.join();
        }
    }
}
