//! Limits the bytes that several threads hold together.

use parking_lot::{Condvar, Mutex, MutexGuard};

/// A counting semaphore for bytes.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    /// Bytes in use; `None` once closed.
    used: Mutex<Option<usize>>,
    freed: Condvar,
}

impl Budget {
    pub fn new(limit: usize) -> Self {
        Self { limit, used: Mutex::new(Some(0)), freed: Condvar::new() }
    }

    /// Waits until `bytes` are free, and acquires them. When nothing is in use, any number is granted.
    pub fn acquire(&self, bytes: usize) {
        let full = |used: &mut Option<usize>| used.is_some_and(|used| used > 0 && used + bytes > self.limit);
        let mut used = self.used();
        self.freed.wait_while(&mut used, full);
        if let Some(used) = &mut *used {
            *used += bytes;
        }
    }

    pub fn release(&self, bytes: usize) {
        if let Some(used) = &mut *self.used() {
            *used -= bytes;
        }
        self.freed.notify_all();
    }

    /// Lifts the limit: from now on, no thread waits.
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
    fn a_thread_waits_until_enough_bytes_are_free_or_the_budget_is_closed() {
        let budget = Arc::new(Budget::new(10));
        // More than the limit is granted when nothing is in use.
        budget.acquire(25);
        let (sender, acquired) = channel();
        let other = Arc::clone(&budget);
        let thread = std::thread::spawn(move || {
            other.acquire(1);
            sender.send(()).unwrap();
            other.acquire(100);
            sender.send(()).unwrap();
        });
        assert!(acquired.try_recv().is_err());
        budget.release(25);
        acquired.recv().unwrap();
        budget.close();
        acquired.recv().unwrap();
        thread.join().unwrap();
    }
}
