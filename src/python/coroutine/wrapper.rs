//! The iterator that `__await__()` of a coroutine returns.

use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::types::PyTuple;
use pyo3::{ffi, PyTraverseError};

use crate::python::{FfiResult, Ref};

/// Drives one coroutine.
#[pyclass(frozen, module = "hybridloop._core")]
pub struct CoroutineWrapper(Ref);

impl CoroutineWrapper {
    pub fn wrap(coroutine: Ref) -> PyResult<Ref> {
        // SAFETY: the holder of a `Ref` is attached.
        let py = unsafe { Python::assume_attached() };
        Ok(Bound::new(py, Self(coroutine))?.into_any().into())
    }
}

#[pymethods]
impl CoroutineWrapper {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let coroutine = self.0.as_ptr();
        // SAFETY: `self` holds the coroutine, and `py` proves that the thread is attached.
        let next: FfiResult<Option<Ref>> = unsafe {
            let Some(next) = (*ffi::Py_TYPE(coroutine)).tp_iternext else {
                return Ok(None);
            };
            let value = next(coroutine);
            if value.is_null() && ffi::PyErr_Occurred().is_null() {
                Ok(None)
            } else {
                Ref::new(value).map(Some)
            }
        };
        Ok(next?.map(|value| value.bind(py).clone()))
    }

    #[pyo3(signature = (value, /))]
    fn send<'py>(&self, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.0.bind(value.py()).call_method1("send", (value,))
    }

    #[pyo3(signature = (*args))]
    fn throw<'py>(&self, args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        self.0.bind(args.py()).call_method1("throw", args)
    }

    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.bind(py).call_method0("close")
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.visit(&visit)
    }
}
