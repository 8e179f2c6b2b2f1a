//! Waiting in one thread for a handle that runs in another.

use std::sync::atomic::{fence, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use hybridloop_sync::primitives::lock;
use pyo3::prelude::*;

use crate::python::handle::{HandleRef, RUNNING};

/// The number of threads that wait for a handle. It is nearly always 0, so all handles share one lock.
static WAITING: AtomicUsize = AtomicUsize::new(0);
static LOCK: Mutex<()> = Mutex::new(());
static ENDED: Condvar = Condvar::new();
/// The longest delay until the Python handler of a signal runs.
const SIGNAL_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Returns when the callback of a handle has returned. The thread is detached while it waits.
pub fn wait(py: Python<'_>, handle: &HandleRef) -> PyResult<()> {
    while handle.has(RUNNING) {
        let ended = Running(handle);
        py.detach(|| {
            WAITING.fetch_add(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let guard = lock(&LOCK);
            if ended.is_running() {
                // The outer loop checks the flag again after a wake-up or a timeout.
                drop(ENDED.wait_timeout(guard, SIGNAL_CHECK_INTERVAL));
            }
            WAITING.fetch_sub(1, Ordering::SeqCst);
        });
        py.check_signals()?;
    }
    Ok(())
}

/// Access to the flags of a handle in a detached thread.
#[derive(Clone, Copy)]
struct Running<'a>(&'a HandleRef);

// SAFETY: the waiting thread holds the handle, and flags are atomic.
unsafe impl Send for Running<'_> {}

impl Running<'_> {
    fn is_running(self) -> bool {
        self.0.has(RUNNING)
    }
}

/// Wakes waiting threads, after `RUNNING` was cleared.
#[inline]
pub fn ended() {
    fence(Ordering::SeqCst);
    if WAITING.load(Ordering::SeqCst) > 0 {
        drop(lock(&LOCK));
        ENDED.notify_all();
    }
}
