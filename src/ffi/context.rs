//! `contextvars.Context`.

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use super::fastcall::Res;
use super::refs::Ref;

/// `contextvars.copy_context()`.
#[inline]
pub fn copy_current() -> Res<Ref> {
    // SAFETY: attached; returns a new reference or raises.
    unsafe { Ref::new(ffi::PyContext_CopyCurrent()) }
}

/// `context.copy()`.
pub fn copy(context: &Ref) -> Res<Ref> {
    // SAFETY: attached; raises TypeError for what is no context.
    unsafe { Ref::new(ffi::PyContext_Copy(context.as_ptr())) }
}

/// Runs `body` inside `context`, as `context.run` does. The error of the body survives leaving the context.
///
/// # Safety
/// `context` is live for the whole call.
#[inline]
pub unsafe fn run_in<T>(context: *mut PyObject, body: impl FnOnce() -> Res<T>) -> Res<T> {
    // SAFETY: the caller keeps the context alive; CPython checks that it is one.
    if unsafe { ffi::PyContext_Enter(context) } != 0 {
        return Err(super::Raised);
    }
    let result = body();
    if let Ok(value) = result {
        // SAFETY: entered above, on this thread.
        if unsafe { ffi::PyContext_Exit(context) } != 0 {
            return Err(super::Raised);
        }
        return Ok(value);
    }
    leave_with_error(context);
    result
}

#[cold]
fn leave_with_error(context: *mut PyObject) {
    // SAFETY: attached, and the context was entered by `run_in`.
    let py = unsafe { Python::assume_attached() };
    let error = PyErr::fetch(py);
    // SAFETY: as above.
    if unsafe { ffi::PyContext_Exit(context) } != 0 {
        PyErr::fetch(py).write_unraisable(py, None);
    }
    error.restore(py);
}
