//! `DeferredDrop`: a Python object that any thread may drop. The last job of a kernel may end on a worker, which is not attached
//! to the interpreter, so it cannot drop what the kernel keeps alive.

use std::sync::{Mutex, PoisonError};

use hybridloop_kernels::hold_off_forks;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::kernels::completion_queue::request_drain;

/// A Python object that any thread may drop. A thread that is not attached leaves it to the next call of [`drop_deferred`].
pub struct DeferredDrop(Option<Py<PyAny>>);

impl DeferredDrop {
    pub fn new(object: &Bound<'_, PyAny>) -> Self {
        Self(Some(object.clone().unbind()))
    }
}

/// Objects dropped by threads that were not attached. Forks are held off while it is locked, because workers lock it, and the
/// child of a fork could not unlock it.
static DEFERRED: Mutex<Vec<Py<PyAny>>> = Mutex::new(Vec::new());

impl Drop for DeferredDrop {
    fn drop(&mut self) {
        let Some(object) = self.0.take() else { return };
        // SAFETY: both functions can be called by any thread. PyGILState_Check() alone does not suffice: it returns 1 in every
        // thread once there is a subinterpreter.
        let is_attached = unsafe {
            !ffi::PyGILState_GetThisThreadState().is_null() && ffi::PyGILState_Check() != 0
        };
        if is_attached {
            drop(object);
            return;
        }
        let no_forks = hold_off_forks();
        let mut deferred = DEFERRED.lock().unwrap_or_else(PoisonError::into_inner);
        deferred.push(object);
        drop((deferred, no_forks));
        request_drain();
    }
}

/// Drops the objects that threads dropped while they were not attached.
pub fn drop_deferred(_py: Python<'_>) {
    let no_forks = hold_off_forks();
    let mut deferred = DEFERRED.lock().unwrap_or_else(PoisonError::into_inner);
    let objects = std::mem::take(&mut *deferred);
    drop((deferred, no_forks));
    drop(objects);
}
