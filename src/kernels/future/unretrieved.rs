//! Exceptions that nobody has asked for: the loop is told when their job dies.

use std::sync::PoisonError;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3::PyClass;

use crate::kernels::completion_queue::lock;
use crate::kernels::future::{NativeAwaitable, Work};
use crate::kernels::result::FutureResult;
use crate::python::nested_drop;
use crate::python::vectorcall::guard_int;

impl NativeAwaitable {
    /// Tells the loop of an exception that nobody has asked for, once.
    fn tell_if_lost(&self, py: Python<'_>) {
        let mut state = lock(&self.state);
        if state.retrieved {
            return;
        }
        let Some(FutureResult::Error(error)) = &state.result else {
            return;
        };
        let error = PyErr::from_value(error.bind(py).clone());
        state.retrieved = true;
        drop(state);
        // It may be an exception on its way that lets this die.
        let pending = PyErr::take(py);
        let kernel = self.work.get().map_or("", Work::kernel);
        let told = (|| {
            let owner = self.owner.as_ref()?;
            let about = PyDict::new(py);
            let message = format!("exception of native kernel '{kernel}' was never retrieved");
            about.set_item("message", message).ok()?;
            about.set_item("exception", error.value(py)).ok()?;
            let handler = owner.event_loop.bind(py).getattr("call_exception_handler");
            handler.ok()?.call1((about,)).ok()
        })();
        if told.is_none() {
            error.write_unraisable(py, None);
        }
        if let Some(pending) = pending {
            pending.restore(py);
        }
    }
}

impl Drop for NativeAwaitable {
    fn drop(&mut self) {
        // SAFETY: objects die attached.
        self.tell_if_lost(unsafe { Python::assume_attached() });
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        nested_drop::drop_content(std::mem::take(state));
    }
}

/// What the collector calls before it takes anything apart. When it drops a job, the exception may be an empty shell already.
unsafe extern "C" fn finalize(object: *mut ffi::PyObject) {
    let status = guard_int(|| {
        // SAFETY: the collector is attached, and gives live objects.
        let object = unsafe { Bound::from_borrowed_ptr(Python::assume_attached(), object) };
        if let Ok(this) = object.cast::<NativeAwaitable>() {
            this.get().tell_if_lost(object.py());
        }
        Ok(())
    });
    if status < 0 {
        // SAFETY: attached, with an exception set.
        unsafe { ffi::PyErr_WriteUnraisable(std::ptr::null_mut()) };
    }
}

/// Adds a class, this one or one that is based on it, with the finalizer.
pub fn add_class<T: PyClass>(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<T>()?;
    // SAFETY: the type was just made, and no other thread knows it yet.
    unsafe { (*T::type_object_raw(module.py())).tp_finalize = Some(finalize) };
    Ok(())
}
