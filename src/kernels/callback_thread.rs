//! The thread that calls the callbacks of plain threads, which run no loop. It is started with the first such callback.

use std::sync::{Arc, Condvar, Mutex};

use hybridloop_sync::primitives::{lock, wait};
use pyo3::prelude::*;

use crate::kernels::completion_queue::CompletionQueue;
use crate::python::finalization::hang_at_exit;
use crate::python::package;

/// Wakes the thread.
#[derive(Default)]
struct ThreadWaker {
    is_woken: Mutex<bool>,
    changed: Condvar,
}

impl ThreadWaker {
    fn wake(&self) {
        *lock(&self.is_woken) = true;
        self.changed.notify_one();
    }

    /// Blocks until `wake()` was called since the last call.
    fn wait(&self) {
        let mut is_woken = lock(&self.is_woken);
        while !std::mem::take(&mut *is_woken) {
            is_woken = wait(&self.changed, is_woken);
        }
    }
}

/// The queue that the thread dispatches, and what wakes it.
#[derive(Clone)]
struct CallbackThread {
    queue: Arc<CompletionQueue>,
    waker: Arc<ThreadWaker>,
}

static THREAD: Mutex<Option<CallbackThread>> = Mutex::new(None);

/// The queue of the thread, which is started if it does not run in this process.
pub fn callback_queue(py: Python<'_>) -> PyResult<Arc<CompletionQueue>> {
    let waker = Arc::new(ThreadWaker::default());
    let wake = waker.clone();
    let new = CallbackThread {
        queue: CompletionQueue::new(Some(Box::new(move || wake.wake()))),
        waker,
    };
    let queue = new.queue.clone();
    let mut slot = lock(&THREAD);
    match &*slot {
        Some(thread) if thread.queue.is_current_process() => return Ok(thread.queue.clone()),
        // After a fork the parent's queue is leaked: its locks may be held by threads that exist in the parent only.
        _ => std::mem::forget(slot.replace(new)),
    }
    drop(slot);
    if let Err(error) = package::start_callback_thread(py).and_then(Bound::call0) {
        let failed = lock(&THREAD).take();
        drop(failed);
        return Err(error);
    }
    Ok(queue)
}

/// The body of the thread. It ends with the process.
#[pyfunction]
fn _run_callbacks(py: Python<'_>) {
    hang_at_exit();
    let Some(CallbackThread { queue, waker }) = lock(&THREAD).clone() else {
        return;
    };
    let report = |error: PyErr| {
        error.write_unraisable(py, None);
        Ok(())
    };
    loop {
        if !queue.is_pending() {
            py.detach(|| waker.wait());
        }
        // It does not fail, because `report` does not.
        let _ = queue.dispatch(py, &report);
    }
}

/// Adds the function to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_run_callbacks, module)?)
}
