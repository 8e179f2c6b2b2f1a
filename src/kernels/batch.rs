//! `NativeBatch`: many calls of one kernel, submitted together and awaited together.

use std::sync::Arc;

use hybridloop_kernels::Engine;
use pyo3::prelude::*;

use crate::kernels::buffer_guards::BufferGuards;
use crate::kernels::completion_queue::FutureVTable;
use crate::kernels::future::state::NativeAwaitable;
use crate::kernels::future::unretrieved::add_class;
use crate::kernels::future::work::Work;
use crate::kernels::loop_handle::LoopHandle;

/// Many calls of one kernel. `await` gives their results in the order of the calls, when the last one is done. If one has
/// failed, the first one's exception is raised, unless `return_exceptions` was given.
#[pyclass(frozen, extends = NativeAwaitable, module = "hybridloop._core")]
pub struct NativeBatch;

/// The calls of a batch have no items and no progress.
static VTABLE: FutureVTable = FutureVTable {
    completed: NativeAwaitable::completed,
    progressed: |_, _, _| Ok(()),
    emitted: |_, _, _| Ok(()),
    ended: |_, _, _| Ok(()),
    detached: NativeAwaitable::detached,
};

impl NativeBatch {
    pub fn create(
        py: Python<'_>,
        owner: Option<LoopHandle>,
        detach: bool,
        guards: BufferGuards,
        engine: Arc<Engine>,
    ) -> PyResult<Bound<'_, Self>> {
        let base = NativeAwaitable::new(owner, detach, guards, engine, &VTABLE);
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

    /// How many calls are done.
    #[getter]
    fn completed(slf: &Bound<'_, Self>) -> usize {
        match slf.as_super().get().work() {
            Some(Work::Batch { jobs, batch, .. }) => jobs.len() - batch.remaining().min(jobs.len()),
            _ => 0,
        }
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    add_class::<NativeBatch>(module)
}
