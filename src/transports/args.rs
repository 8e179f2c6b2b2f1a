//! Arguments of the methods of transports.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::python::vectorcall::{missing, unexpected};
use crate::python::{Args, ErrSet, FfiResult, Ref};

/// The one argument of a method, which may be named.
#[inline]
pub fn one_argument(args: &Args<'_>, function: &str, name: &str) -> FfiResult<*mut PyObject> {
    match (args.positional, args.keyword_count()) {
        (&[value], 0) => Ok(value),
        ([], 1) => named_argument(args, function, name),
        _ => Err(PyTypeError::new_err(format!(
            "{function}() takes exactly one argument ({} given)",
            args.positional.len() + args.keyword_count()
        ))
        .into()),
    }
}

#[cold]
fn named_argument(args: &Args<'_>, function: &str, name: &str) -> FfiResult<*mut PyObject> {
    let Some((key, value)) = args.keywords().next() else {
        return Err(missing(function, name));
    };
    // SAFETY: attached; keyword names are live strings.
    if unsafe { Bound::from_borrowed_ptr(Python::assume_attached(), key) }.eq(name)? {
        Ok(value)
    } else {
        Err(unexpected(function, key))
    }
}

/// An exact `bytes` object with the contents of a bytes-like one: what changes later is not what was written.
///
/// # Safety
/// `data` is a live object.
pub unsafe fn exact_bytes(data: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: attached; the argument is live.
    unsafe {
        if ffi::PyBytes_CheckExact(data) != 0 {
            Ok(Ref::borrowed(data))
        } else {
            Ref::new(ffi::PyBytes_FromObject(data))
        }
    }
}

/// What asyncio raises for data that is not bytes-like, in the words of its own `method`, which checks the data first.
///
/// # Safety
/// `data` is a live object.
#[cold]
pub unsafe fn not_bytes(method: &Ref, data: *mut PyObject) -> ErrSet {
    // SAFETY: attached; the argument is live.
    let (py, data) = unsafe {
        let py = Python::assume_attached();
        (py, Bound::from_borrowed_ptr(py, data))
    };
    match method.bind(py).call1((py.None(), &data)) {
        Err(error) if error.is_instance_of::<PyTypeError>(py) => error.into(),
        // It takes more than bytes, bytearrays and memoryviews.
        _ => PyTypeError::new_err("data argument must be bytes, bytearray or memoryview").into(),
    }
}
