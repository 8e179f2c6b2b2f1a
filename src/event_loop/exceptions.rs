//! Exceptions of callbacks go to the loop's exception handler, except those that end the loop.

use std::io;

use pyo3::exceptions::{
    PyKeyboardInterrupt, PyMemoryError, PyOSError, PyRuntimeError, PySystemExit,
};
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::event_loop::handles::failure_report;
use crate::python::bytes::new_str;
use crate::python::handle::HandleRef;
use crate::python::stdlib::Stdlib;
use crate::python::{FfiResult, Ref};

/// The Python exception for an I/O error: `OSError` or its subclass for an error of the system, else `MemoryError` or
/// `RuntimeError`.
pub fn os_error(error: &io::Error) -> PyErr {
    let Some(code) = error.raw_os_error() else {
        if error.kind() == io::ErrorKind::OutOfMemory {
            return PyMemoryError::new_err(());
        }
        return PyRuntimeError::new_err(error.to_string());
    };
    let text = error.to_string();
    let text = text
        .strip_suffix(&format!(" (os error {code})"))
        .unwrap_or(&text);
    PyOSError::new_err((code, text.to_owned()))
}

/// Takes the exception that is set. `SystemExit` and `KeyboardInterrupt` are returned as errors, for the caller of
/// `run_forever()`.
pub fn take(py: Python<'_>) -> FfiResult<PyErr> {
    let error = PyErr::fetch(py);
    if error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py) {
        return Err(error.into());
    }
    // Before Python 3.12 the traceback is stored beside the exception object, so it is set here.
    #[cfg(not(Py_3_12))]
    if let Some(traceback) = error.traceback(py) {
        // SAFETY: `py` proves that the thread is attached; `error` and `traceback` hold the objects.
        unsafe {
            pyo3::ffi::PyException_SetTraceback(error.value(py).as_ptr(), traceback.as_ptr());
        }
    }
    Ok(error)
}

/// Reports the exception that a handle's callback has raised.
#[cold]
pub fn callback_failed(event_loop: *mut PyObject, handle: &HandleRef) -> FfiResult<()> {
    // SAFETY: the loop's thread calls this attached, with its own loop object, which is live while it runs.
    unsafe {
        let py = Python::assume_attached();
        let error = take(py)?;
        let event_loop = Bound::from_borrowed_ptr(py, event_loop);
        let report = failure_report(py, &event_loop, handle, &error);
        deliver(&event_loop, report)
    }
}

/// Reports an exception of the loop's own code: only `SystemExit` and `KeyboardInterrupt` may end the loop.
#[inline]
pub fn report_unless_fatal(event_loop: *mut PyObject, result: FfiResult<()>) -> FfiResult<()> {
    match result {
        Ok(()) => Ok(()),
        Err(_) => report(event_loop, "Exception in the event loop", &[]),
    }
}

/// Reports the exception that is set, with `message` and the entries of `about`.
#[cold]
pub fn report(event_loop: *mut PyObject, message: &str, about: &[(&str, &Ref)]) -> FfiResult<()> {
    // SAFETY: the loop's thread calls this attached, with its own loop object, which is live while it runs.
    unsafe {
        let py = Python::assume_attached();
        let error = take(py)?;
        let report = new_report(py, message, &error).and_then(|report| {
            about
                .iter()
                .try_for_each(|(key, object)| report.set_item(key, object.bind(py)))?;
            Ok(report)
        });
        deliver(&Bound::from_borrowed_ptr(py, event_loop), report)
    }
}

/// The entries of every report. It must not panic without memory: reports are made then as well.
pub fn new_report<'py>(
    py: Python<'py>,
    message: &str,
    error: &PyErr,
) -> PyResult<Bound<'py, PyDict>> {
    // SAFETY: `py` proves that the thread is attached. The result is a new dictionary, or null with an exception set.
    let report = unsafe {
        Bound::from_owned_ptr_or_err(py, pyo3::ffi::PyDict_New())?.cast_into_unchecked::<PyDict>()
    };
    report.set_item("message", new_str(py, message)?)?;
    report.set_item("exception", error.value(py))?;
    Ok(report)
}

fn deliver<'py>(
    event_loop: &Bound<'py, PyAny>,
    report: PyResult<Bound<'py, PyDict>>,
) -> FfiResult<()> {
    let py = event_loop.py();
    let name = &Stdlib::get().names.call_exception_handler;
    let sent = report.and_then(|report| {
        event_loop
            .getattr(name.bind(py).cast::<pyo3::types::PyString>()?)?
            .call1((report,))
    });
    if let Err(error) = sent {
        // The inherited call_exception_handler() raises only these two. Any other exception, such as that of a `__repr__`, goes
        // to `sys.unraisablehook`.
        if error.is_instance_of::<PySystemExit>(py)
            || error.is_instance_of::<PyKeyboardInterrupt>(py)
        {
            return Err(error.into());
        }
        error.write_unraisable(py, Some(event_loop));
    }
    Ok(())
}
