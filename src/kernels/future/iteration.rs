//! Tasks that iterate over a job or batch with `async for`. Cancelling the task cancels the work, as awaiting does; the task
//! gets its `CancelledError` when the work has ended.

use std::ffi::c_int;
use std::sync::Mutex;

use hybridloop_sync::primitives::lock;
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::PyTraverseError;

use crate::kernels::completion_queue::CompletionQueue;
use crate::kernels::loop_handle::LoopHandle;
use crate::python::coroutine::Visit;
use crate::python::{package, Ref};

/// The future that one step of an iteration waits for.
#[derive(Default)]
pub struct IterationWait(Mutex<Option<Ref>>);

impl IterationWait {
    /// The step goes on. Returns whether the task was cancelled while it waited, and the work was cancelled instead.
    pub fn end(&self, py: Python<'_>) -> PyResult<bool> {
        let waiter = lock(&self.0).take();
        match waiter {
            Some(waiter) => waiter.bind(py).call_method0("end")?.is_truthy(),
            None => Ok(false),
        }
    }

    /// A future of the running loop whose cancellation cancels `work`.
    pub fn begin(
        &self,
        work: &Bound<'_, PyAny>,
        handle: &LoopHandle,
        is_cancelled: bool,
    ) -> PyResult<Ref> {
        let py = work.py();
        let arguments = (work, handle.object().bind(py), is_cancelled);
        let waiter = package::iteration_waiter(py)?.call1(arguments)?;
        let waiter = Ref::from(waiter);
        let before = lock(&self.0).replace(waiter.clone());
        drop(before);
        Ok(waiter)
    }

    pub fn traverse(&self, visit: Visit<'_>) -> c_int {
        match self.0.try_lock() {
            Ok(waiter) => waiter.as_ref().map_or(0, visit),
            Err(_) => 0,
        }
    }
}

/// The futures that tasks wait for while they iterate, each with the loop of its task.
#[derive(Default)]
pub struct IterationWaiters(Vec<(LoopHandle, Ref)>);

impl IterationWaiters {
    pub fn push(&mut self, handle: LoopHandle, future: Ref) {
        self.0.push((handle, future));
    }

    /// Resolves the futures; `queue` belongs to the loop that runs in this thread.
    pub fn resolve(self, py: Python<'_>, queue: &CompletionQueue) -> PyResult<()> {
        let mut result = Ok(());
        for (handle, future) in self.0 {
            result = result.and(handle.resolve(py, &future, queue));
        }
        result
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for (handle, future) in &self.0 {
            handle.object().visit(visit)?;
            future.visit(visit)?;
        }
        Ok(())
    }
}
