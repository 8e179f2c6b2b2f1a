//! Arguments of the methods of transports.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::python::{Args, ErrSet, FfiResult, Ref};

/// Whether `data` is of a class that asyncio's transports accept: `bytes`, `bytearray` or `memoryview`.
///
/// # Safety
/// `data` is a live object.
#[inline]
pub unsafe fn is_bytes_like(data: *mut PyObject) -> bool {
    // SAFETY: the caller guarantees a live object.
    unsafe {
        ffi::PyBytes_Check(data) != 0
            || ffi::PyByteArray_Check(data) != 0
            || ffi::PyMemoryView_Check(data) != 0
    }
}

/// A `bytes` object with the contents of a bytes-like one, copied unless that is exactly `bytes`: the data that was written
/// does not change later.
///
/// # Safety
/// `data` is a live object.
pub unsafe fn exact_bytes(data: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: the caller guarantees a live object.
    unsafe {
        if ffi::PyBytes_CheckExact(data) != 0 {
            Ok(Ref::borrowed(data))
        } else {
            Ref::new(ffi::PyBytes_FromObject(data))
        }
    }
}

/// The error that asyncio's own `method` raises for data that is not bytes-like. It checks the data before anything else.
///
/// # Safety
/// `data` is a live object.
#[cold]
pub unsafe fn not_bytes(py: Python<'_>, method: &Ref, data: *mut PyObject) -> ErrSet {
    // SAFETY: the caller guarantees a live object.
    let data = unsafe { Bound::from_borrowed_ptr(py, data) };
    match method.bind(py).call1((py.None(), &data)) {
        Err(error) if error.is_instance_of::<PyTypeError>(py) => error.into(),
        // This method accepts more than bytes, bytearrays and memoryviews.
        _ => PyTypeError::new_err("data argument must be bytes, bytearray or memoryview").into(),
    }
}

/// Two sizes, the arguments of `_set_limits(low, high)`.
pub fn two_sizes(py: Python<'_>, args: &Args<'_>) -> FfiResult<(usize, usize)> {
    let &[low, high] = args.positional else {
        return Err(PyTypeError::new_err("_set_limits() takes two numbers").into());
    };
    // SAFETY: arguments are live during the call.
    let size = |object| unsafe { Bound::from_borrowed_ptr(py, object) }.extract::<usize>();
    Ok((size(low)?, size(high)?))
}
