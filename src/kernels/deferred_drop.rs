//! What kernels keep alive. The last job of a kernel may go on a worker, which cannot drop objects of Python.

use std::sync::{Mutex, PoisonError};

use hybridloop_kernels::hold_off_forks;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::kernels::completion_queue::request_drain;

/// An object that may be dropped by any thread.
pub struct Keep(Option<Py<PyAny>>);

impl Keep {
    pub fn new(object: &Bound<'_, PyAny>) -> Self {
        Self(Some(object.clone().unbind()))
    }
}

/// What threads without Python have dropped. Forks are held off while it is locked: such a thread may be about to add
/// something.
static DROPPED: Mutex<Vec<Py<PyAny>>> = Mutex::new(Vec::new());

impl Drop for Keep {
    fn drop(&mut self) {
        let Some(object) = self.0.take() else { return };
        // SAFETY: any thread may ask. The second question says yes to every thread where there are subinterpreters.
        let is_attached = unsafe {
            !ffi::PyGILState_GetThisThreadState().is_null() && ffi::PyGILState_Check() != 0
        };
        if is_attached {
            drop(object);
            return;
        }
        let no_forks = hold_off_forks();
        let mut dropped = DROPPED.lock().unwrap_or_else(PoisonError::into_inner);
        dropped.push(object);
        drop((dropped, no_forks));
        request_drain();
    }
}

/// Drops what threads without Python could not.
pub fn drop_what_is_left(_py: Python<'_>) {
    let no_forks = hold_off_forks();
    let mut dropped = DROPPED.lock().unwrap_or_else(PoisonError::into_inner);
    let objects = std::mem::take(&mut *dropped);
    drop((dropped, no_forks));
    drop(objects);
}
