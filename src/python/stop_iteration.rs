//! `StopIteration` with a value: how an iterator's result reaches `await` from Python 3.12 to 3.14.

use pyo3::ffi;

use crate::python::refs::Ref;
use crate::python::vectorcall::ErrSet;

/// Sets `StopIteration(value)`, as the end of a coroutine of Python does.
pub fn raise_stop(value: &Ref) -> ErrSet {
    // SAFETY: attached; the value is live.
    unsafe {
        let class = ffi::PyExc_StopIteration;
        // These would be taken for the arguments of the exception, or for the exception itself.
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
