//! `StopIteration` with a value, by which an iterator returns its result to `await` from Python 3.12 to 3.14.

use pyo3::exceptions::PyStopIteration;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::python::refs::Ref;
use crate::python::vectorcall::{ErrSet, FfiResult};

/// Sets `StopIteration(value)`, as a Python coroutine does when it returns.
pub fn raise_stop(value: &Ref) -> ErrSet {
    // SAFETY: the holder of a `Ref` is attached, and its object is live.
    unsafe {
        let class = ffi::PyExc_StopIteration;
        // CPython would use a tuple as the arguments of the exception, and an exception as the exception itself.
        let is_ambiguous = ffi::PyTuple_Check(value.as_ptr()) != 0
            || ffi::PyExceptionInstance_Check(value.as_ptr()) != 0;
        if !is_ambiguous {
            ffi::PyErr_SetObject(class, value.as_ptr());
            return ErrSet;
        }
        match Ref::new(ffi::PyObject_CallOneArg(class, value.as_ptr())) {
            Ok(stop) => {
                ffi::PyErr_SetObject(class, stop.as_ptr());
                ErrSet
            }
            Err(raised) => raised,
        }
    }
}

/// Takes the result out of the `StopIteration` that is set. Without an exception the result is `None`; another one stays set.
pub fn take_result() -> FfiResult<Ref> {
    // SAFETY: the callers are attached.
    let py = unsafe { Python::assume_attached() };
    match PyErr::take(py) {
        None => Ok(Ref::none()),
        Some(error) if error.is_instance_of::<PyStopIteration>(py) => {
            Ok(error.value(py).getattr("value")?.into())
        }
        Some(error) => Err(error.into()),
    }
}
