//! A number of bytes that several threads share.

use parking_lot::{Condvar, Mutex, MutexGuard};

/// A limit for the bytes that are in use at once.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    /// In use; `None` when it is closed.
    used: Mutex<Option<usize>>,
    freed: Condvar,
}

impl Budget {
    /// A budget of `limit` bytes, all free.
    pub fn new(limit: usize) -> Self {
        Self { limit, used: Mutex::new(Some(0)), freed: Condvar::new() }
    }

    /// Takes bytes; waits until they are free. When nothing is in use, any number is granted.
    pub fn take(&self, bytes: usize) {
        let full = |used: &mut Option<usize>| used.is_some_and(|used| used > 0 && used + bytes > self.limit);
        let mut used = self.used();
        self.freed.wait_while(&mut used, full);
        if let Some(used) = &mut *used {
            *used += bytes;
        }
    }

    /// Gives bytes back.
    pub fn give_back(&self, bytes: usize) {
        if let Some(used) = &mut *self.used() {
            *used -= bytes;
        }
        self.freed.notify_all();
    }

    /// From now on, nothing waits.
    pub fn close(&self) {
        *self.used() = None;
        self.freed.notify_all();
    }

    fn used(&self) -> MutexGuard<'_, Option<usize>> {
        self.used.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    #[test]
    fn a_thread_that_finds_no_room_waits_for_it() {
        let budget = Arc::new(Budget::new(10));
        // More than all of it, when nothing is in use.
        budget.take(25);
        let (taken, waits) = channel();
        let other = Arc::clone(&budget);
        let thread = std::thread::spawn(move || {
            other.take(1);
            taken.send(()).unwrap();
            other.take(100);
            taken.send(()).unwrap();
        });
        assert!(waits.try_recv().is_err());
        budget.give_back(25);
        waits.recv().unwrap();
        budget.close();
        waits.recv().unwrap();
        thread.join().unwrap();
    }
}
