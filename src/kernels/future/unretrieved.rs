//! Exceptions that were never retrieved: the loop's exception handler gets them when the future is destroyed, as with
//! `asyncio.Future`.

use std::sync::PoisonError;

use hybridloop_sync::primitives::lock;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::kernels::future::state::NativeAwaitable;
use crate::kernels::future::work::Work;
use crate::kernels::result::FutureResult;
use crate::python::nested_drop;

impl NativeAwaitable {
    /// Reports the exception, if there is one that was not retrieved; once.
    pub fn report_unretrieved(&self, py: Python<'_>) {
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
        // The future may be destroyed while an exception propagates.
        let pending = PyErr::take(py);
        let kernel = self.work().map_or("", Work::kernel);
        let reported = (|| {
            let owner = self.owner.as_ref()?;
            let context = PyDict::new(py);
            let message = format!("exception of native kernel '{kernel}' was never retrieved");
            context.set_item("message", message).ok()?;
            context.set_item("exception", error.value(py)).ok()?;
            let handler = owner.object().bind(py).getattr("call_exception_handler");
            handler.ok()?.call1((context,)).ok()
        })();
        if reported.is_none() {
            error.write_unraisable(py, None);
        }
        if let Some(pending) = pending {
            pending.restore(py);
        }
    }
}

impl Drop for NativeAwaitable {
    fn drop(&mut self) {
        // SAFETY: a value of a pyclass is dropped by the deallocator of its object, which runs attached, or by the thread that
        // failed to create the object, which is attached too.
        self.report_unretrieved(unsafe { Python::assume_attached() });
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        nested_drop::drop_content(std::mem::take(state));
    }
}

/// Adds the class to the module. PyO3 adds `__del__()` as an ordinary method: it becomes the finalizer, also that of subclasses,
/// when it is set as an attribute of the class.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<NativeAwaitable>()?;
    let class = module.py().get_type::<NativeAwaitable>();
    class.setattr("__del__", class.getattr("__del__")?)
}
