//! Detached jobs: those that were submitted without a loop, and those whose loop was closed. No loop dispatches their events;
//! that happens when kernels are used next, so that the buffers of the jobs are released.

use std::sync::{Arc, Mutex};

use hybridloop_sync::primitives::lock;
use pyo3::prelude::*;

use crate::kernels::completion_queue::CompletionQueue;
use crate::kernels::deferred_drop::{
    begin_drain, drop_deferred, is_drain_requested, request_drain,
};

/// The queue of detached jobs.
pub fn detached_queue() -> Arc<CompletionQueue> {
    static DETACHED: Mutex<Option<Arc<CompletionQueue>>> = Mutex::new(None);
    let mut slot = lock(&DETACHED);
    match &*slot {
        Some(queue) if queue.is_current_process() => queue.clone(),
        _ => {
            // After a fork the parent's queue is leaked: its locks may be held by threads that exist in the parent only.
            std::mem::forget(slot.take());
            slot.insert(CompletionQueue::new(Some(Box::new(request_drain))))
                .clone()
        }
    }
}

/// Dispatches the events of detached jobs and drops deferred objects, if there are any.
#[inline]
pub fn drain_detached(py: Python<'_>) {
    if is_drain_requested() {
        drain(py);
    }
}

#[cold]
fn drain(py: Python<'_>) {
    let queue = detached_queue();
    begin_drain();
    drop_deferred(py);
    let report = |error: PyErr| {
        error.write_unraisable(py, None);
        Ok(())
    };
    // It does not fail, because `report` does not.
    let _ = queue.dispatch(py, &report);
    if queue.is_pending() {
        request_drain();
    }
}
