//! Waiting in one thread for a handle that runs in another.

use std::sync::atomic::{fence, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use hybridloop_sync::primitives::lock;
use pyo3::prelude::*;

use crate::python::handle::{HandleRef, RUNNING};

/// Threads that wait for any handle. There are hardly ever any: all share one lock.
static WAITING: AtomicUsize = AtomicUsize::new(0);
static LOCK: Mutex<()> = Mutex::new(());
static ENDED: Condvar = Condvar::new();
/// How long a signal may have to wait until its Python handler runs.
const LOOK_FOR_SIGNALS: Duration = Duration::from_millis(50);

/// Returns when the callback of a handle does not run any more; other threads have the interpreter meanwhile.
pub fn wait(py: Python<'_>, handle: &HandleRef) -> PyResult<()> {
    while handle.has(RUNNING) {
        let ended = Running(handle);
        py.detach(|| {
            WAITING.fetch_add(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let guard = lock(&LOCK);
            if ended.is_running() {
                // Whether it was woken or not, the loop around this looks again.
                drop(ENDED.wait_timeout(guard, LOOK_FOR_SIGNALS));
            }
            WAITING.fetch_sub(1, Ordering::SeqCst);
        });
        py.check_signals()?;
    }
    Ok(())
}

/// A look at the flags of a handle, which need no interpreter.
#[derive(Clone, Copy)]
struct Running<'a>(&'a HandleRef);

// SAFETY: the reference behind it is held by the waiting thread, and the flags are atomic.
unsafe impl Send for Running<'_> {}

impl Running<'_> {
    fn is_running(self) -> bool {
        self.0.has(RUNNING)
    }
}

/// Wakes who waits, after `RUNNING` was taken back.
#[inline]
pub fn ended() {
    fence(Ordering::SeqCst);
    if WAITING.load(Ordering::SeqCst) > 0 {
        drop(lock(&LOCK));
        ENDED.notify_all();
    }
}
