//! `NativeBatch`: many calls of one kernel, submitted together and awaited together.

use pyo3::prelude::*;

use crate::kernels::future::{NativeAwaitable, Work};

/// Many calls of one kernel. `await` gives their results in the order of the calls, when the last one has ended. If one has
/// failed, the first one's exception is raised, unless `return_exceptions` was given.
#[pyclass(frozen, extends = NativeAwaitable, module = "hybridloop._core")]
pub struct NativeBatch;

impl NativeBatch {
    pub fn make(py: Python<'_>, base: NativeAwaitable) -> PyResult<Bound<'_, Self>> {
        Bound::new(py, PyClassInitializer::from(base).add_subclass(Self))
    }
}

#[pymethods]
impl NativeBatch {
    fn __len__(slf: &Bound<'_, Self>) -> usize {
        match slf.as_super().get().work() {
            Some(Work::Batch { jobs, .. }) => jobs.len(),
            _ => 0,
        }
    }

    /// How many calls have ended.
    #[getter]
    fn completed(slf: &Bound<'_, Self>) -> usize {
        match slf.as_super().get().work() {
            Some(Work::Batch { jobs, batch, .. }) => jobs.len() - batch.remaining().min(jobs.len()),
            _ => 0,
        }
    }
}
