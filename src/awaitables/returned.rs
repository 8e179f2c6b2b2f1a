//! What the callbacks of a program return: the table of return values in `hybridloop_await.h`.

use std::ffi::{c_int, CStr};

use pyo3::exceptions::PyGeneratorExit;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::awaitables::queue::{Callback, Defer};
use crate::python::{ErrSet, FfiResult, Ref};

/// An exception is set.
pub enum Failed {
    /// It goes to the error callback.
    Handle,
    /// It is raised past the error callback.
    Raise,
}

/// Sets an exception. It needs no memory but for the exception.
#[cold]
pub fn raise(class: *mut PyObject, text: &CStr) -> ErrSet {
    // SAFETY: the callers are attached and pass an exception class.
    unsafe { ffi::PyErr_SetString(class, text.as_ptr()) };
    ErrSet
}

/// Whether an exception is set.
pub fn occurred() -> bool {
    // SAFETY: the callers are attached.
    unsafe { !ffi::PyErr_Occurred().is_null() }
}

/// Calls a result callback. Returns what it has returned, which is not negative.
pub fn call_result(
    slf: *mut PyObject,
    callback: Option<Callback>,
    value: &Ref,
) -> Result<c_int, Failed> {
    match callback {
        // SAFETY: the program has given the function for this. Object and value are live for the call.
        Some(callback) => returned(unsafe { callback(slf, value.as_ptr()) }),
        None => Ok(0),
    }
}

/// Calls a defer callback, which has no error callback.
pub fn call_defer(slf: *mut PyObject, callback: Defer) -> FfiResult<()> {
    // SAFETY: the program has given the function for this. The object is live for the call.
    match returned(unsafe { callback(slf) }) {
        Ok(_) => Ok(()),
        Err(_) => Err(ErrSet),
    }
}

#[inline]
fn returned(status: c_int) -> Result<c_int, Failed> {
    match (status, occurred()) {
        (0.., false) => Ok(status),
        (0.., true) => {
            with_cause(c"a callback returned without an error, but an exception is set");
            Err(Failed::Raise)
        }
        (_, false) => {
            no_exception();
            Err(Failed::Raise)
        }
        (-1, true) => Err(Failed::Handle),
        (_, true) => Err(Failed::Raise),
    }
}

#[cold]
pub fn no_exception() -> ErrSet {
    raise(
        // SAFETY: the class is never released.
        unsafe { ffi::PyExc_SystemError },
        c"a callback returned an error without an exception",
    )
}

/// Replaces the exception that is set by a `SystemError` with that as its cause.
#[cold]
pub fn with_cause(text: &CStr) -> ErrSet {
    // SAFETY: the callers are attached.
    let py = unsafe { Python::assume_attached() };
    let cause = PyErr::fetch(py);
    // SAFETY: the class is never released.
    raise(unsafe { ffi::PyExc_SystemError }, text);
    let error = PyErr::fetch(py);
    error.set_cause(py, Some(cause));
    error.into()
}

/// Gives the exception that is set to an error callback. `Ok` if that has dealt with it, otherwise an exception is set.
pub fn call_error(slf: *mut PyObject, callback: Option<Callback>) -> FfiResult<()> {
    let Some(callback) = callback else {
        return Err(ErrSet);
    };
    // SAFETY: the callers are attached.
    let py = unsafe { Python::assume_attached() };
    let error = PyErr::fetch(py);
    if error.is_instance_of::<PyGeneratorExit>(py) {
        // `close()`: the coroutine has to end.
        return Err(error.into());
    }
    let exception = Ref::from(error.value(py).as_any());
    let status = {
        // SAFETY: the program has given the function for this. Object and exception are live for the call.
        unsafe {
            let _handled = Handled::new(exception.as_ptr());
            callback(slf, exception.as_ptr())
        }
    };
    match (status, PyErr::take(py)) {
        (0.., None) => Ok(()),
        (0.., Some(set)) => {
            set.restore(py);
            Err(with_cause(
                c"an error callback returned without an error, but an exception is set",
            ))
        }
        (-1, set) => {
            if let Some(set) = set.filter(|set| !set.value(py).is(error.value(py))) {
                // SAFETY: the object is live for the call.
                let slf = unsafe { Bound::from_borrowed_ptr(py, slf) };
                set.write_unraisable(py, Some(&slf));
            }
            Err(error.into())
        }
        (_, Some(set)) => {
            set_context(py, &set, &error);
            Err(set.into())
        }
        (_, None) => {
            no_exception();
            let raised = PyErr::fetch(py);
            set_context(py, &raised, &error);
            Err(raised.into())
        }
    }
}

/// Makes `context` the exception that was handled when `error` was raised, unless that has one already.
pub fn set_context(py: Python<'_>, error: &PyErr, context: &PyErr) {
    let (value, context) = (error.value(py), context.value(py));
    // No circles.
    let mut at = Some(context.clone().into_any());
    while let Some(exception) = at {
        if exception.is(value) {
            return;
        }
        at = exception
            .getattr("__context__")
            .ok()
            .filter(|next| !next.is_none());
    }
    // SAFETY: a `Bound` is live, and `py` proves attachment. The setter takes ownership of the context.
    unsafe {
        let present = ffi::PyException_GetContext(value.as_ptr());
        if present.is_null() {
            ffi::PyException_SetContext(value.as_ptr(), context.clone().into_ptr());
        } else {
            ffi::Py_DECREF(present);
        }
    }
}

/// Makes an exception the one that is being handled, as in an `except` block, until it is dropped.
pub struct Handled(*mut PyObject);

impl Handled {
    /// # Safety
    /// `exception` is a live exception, and the thread is attached.
    pub unsafe fn new(exception: *mut PyObject) -> Self {
        // SAFETY: the caller guarantees it. The call returns a new reference or null.
        unsafe {
            let before = ffi::PyErr_GetHandledException();
            ffi::PyErr_SetHandledException(exception);
            Self(before)
        }
    }
}

impl Drop for Handled {
    fn drop(&mut self) {
        // SAFETY: this runs in the thread that has made it. The reference is owned, or null.
        unsafe {
            ffi::PyErr_SetHandledException(self.0);
            ffi::Py_XDECREF(self.0);
        }
    }
}
