//! The arguments of `throw()`.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::python::awaitable::{self, Sent};
use crate::python::{FfiResult, Ref};

/// The exception to raise, with its traceback, or an error about the arguments.
pub type Thrown<'py> = PyResult<Bound<'py, PyAny>>;

/// Counts the arguments and warns of more than one, as CPython does before it checks any of them.
pub fn check_count(count: usize) -> FfiResult<()> {
    let text = match count {
        0 => "throw expected at least 1 argument, got 0".to_owned(),
        1..=3 => return warn(count),
        _ => format!("throw expected at most 3 arguments, got {count}"),
    };
    Err(PyTypeError::new_err(text).into())
}

#[cfg(Py_3_12)]
fn warn(count: usize) -> FfiResult<()> {
    const TEXT: &std::ffi::CStr =
        c"the (type, exc, tb) signature of throw() is deprecated, use the single-arg signature instead.";
    if count == 1 {
        return Ok(());
    }
    // SAFETY: CPython calls methods attached. The text is a C string.
    match unsafe { ffi::PyErr_WarnEx(ffi::PyExc_DeprecationWarning, TEXT.as_ptr(), 1) } {
        0 => Ok(()),
        _ => Err(crate::python::ErrSet),
    }
}

#[cfg(not(Py_3_12))]
#[allow(clippy::unnecessary_wraps)]
fn warn(_: usize) -> FfiResult<()> {
    Ok(())
}

/// The exception of `throw(kind, value, traceback)`.
pub fn exception<'py>(py: Python<'py>, arguments: &[*mut PyObject]) -> Thrown<'py> {
    let argument = |at: usize| {
        let object = arguments.get(at).copied()?;
        // SAFETY: CPython keeps the arguments alive during the call.
        let object = unsafe { Bound::from_borrowed_ptr(py, object) };
        (!object.is_none()).then_some(object)
    };
    let (kind, value, traceback) = (argument(0), argument(1), argument(2));
    // SAFETY: a `Bound` proves that the thread is attached and its object live.
    let is_traceback =
        |object: &Bound<'_, PyAny>| unsafe { ffi::PyTraceBack_Check(object.as_ptr()) } != 0;
    if traceback
        .as_ref()
        .is_some_and(|object| !is_traceback(object))
    {
        return Err(PyTypeError::new_err(
            "throw() third argument must be a traceback object",
        ));
    }
    let kind = kind.unwrap_or_else(|| py.None().into_bound(py));
    // SAFETY: a `Bound` proves that the thread is attached and its object live.
    let (is_class, is_instance) = unsafe {
        (
            ffi::PyExceptionClass_Check(kind.as_ptr()) != 0,
            ffi::PyExceptionInstance_Check(kind.as_ptr()) != 0,
        )
    };
    if is_class {
        // An exception of its constructor is thrown in its place.
        let exception = normalised(&kind, value)
            .unwrap_or_else(|error| error.into_value(py).into_bound(py).into_any());
        set_traceback(&exception, traceback.as_ref());
        return Ok(exception);
    }
    if !is_instance {
        return Err(PyTypeError::new_err(format!(
            "exceptions must be classes or instances deriving from BaseException, not {}",
            kind.get_type().name()?
        )));
    }
    if value.is_some() {
        return Err(PyTypeError::new_err(
            "instance exception may not have a separate value",
        ));
    }
    if traceback.is_some() {
        set_traceback(&kind, traceback.as_ref());
    }
    Ok(kind)
}

/// Whether `throw(*arguments)` raises `GeneratorExit`, before which what is awaited is closed.
pub fn is_generator_exit(arguments: &[*mut PyObject]) -> bool {
    arguments.first().is_some_and(|kind| {
        // SAFETY: CPython keeps the arguments alive during the call.
        unsafe { ffi::PyErr_GivenExceptionMatches(*kind, ffi::PyExc_GeneratorExit) != 0 }
    })
}

/// Passes `throw(*arguments)` on to an awaited iterator; `None` if it has no such method.
pub fn throw(py: Python<'_>, iterator: &Ref, arguments: &[*mut PyObject]) -> Option<Sent> {
    // SAFETY: the holder of a `Ref` is attached, and its object is live.
    let is_python = unsafe {
        ffi::PyCoro_CheckExact(iterator.as_ptr()) != 0
            || ffi::PyGen_CheckExact(iterator.as_ptr()) != 0
    };
    if arguments.len() == 1 || !is_python {
        return awaitable::throw(iterator, arguments);
    }
    // The arguments have been warned of: CPython does not call the method of its own coroutines.
    match exception(py, arguments) {
        Ok(exception) => awaitable::throw(iterator, &[exception.as_ptr()]),
        Err(refused) => Some(Sent::Raised(refused.into())),
    }
}

fn set_traceback(exception: &Bound<'_, PyAny>, traceback: Option<&Bound<'_, PyAny>>) {
    // SAFETY: the callers have checked that these are an exception, and a traceback if there is one. A `Bound` proves
    // attachment.
    unsafe {
        let traceback = traceback.map_or_else(|| ffi::Py_None(), Bound::as_ptr);
        ffi::PyException_SetTraceback(exception.as_ptr(), traceback);
    }
}

/// The exception of a class and a value, as `PyErr_NormalizeException` makes it.
fn normalised<'py>(
    class: &Bound<'py, PyAny>,
    value: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let Some(value) = value else {
        return checked(class, class.call0()?);
    };
    // SAFETY: a `Bound` proves that the thread is attached and its object live.
    let is_exception = unsafe { ffi::PyExceptionInstance_Check(value.as_ptr()) } != 0;
    if is_exception && value.get_type().is_subclass(class)? {
        return Ok(value);
    }
    let exception = match value.cast::<PyTuple>() {
        Ok(arguments) => class.call1(arguments)?,
        Err(_) => class.call1((value,))?,
    };
    checked(class, exception)
}

fn checked<'py>(
    class: &Bound<'py, PyAny>,
    exception: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: a `Bound` proves that the thread is attached and its object live.
    if unsafe { ffi::PyExceptionInstance_Check(exception.as_ptr()) } != 0 {
        return Ok(exception);
    }
    let class = class.cast::<PyType>()?.repr()?;
    let kind = exception.get_type().name()?;
    Err(PyTypeError::new_err(format!(
        "calling {class} should have returned an instance of BaseException, not {kind}"
    )))
}
