//! `NativeBatch`: many calls of one kernel, submitted together, and awaited together or iterated as they end.

use std::sync::{Arc, Mutex, PoisonError};

use hybridloop_kernels::{Engine, Job};
use hybridloop_sync::primitives::lock;
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::PyTraverseError;

use crate::allocator::out_of_memory;
use crate::kernels::buffer_guards::BufferGuards;
use crate::kernels::callback_thread::callback_queue;
use crate::kernels::completion_queue::{CompletionQueue, FutureVTable, PendingFuture, WorkId};
use crate::kernels::detached::detached_queue;
use crate::kernels::exceptions::cannot_pickle;
use crate::kernels::future::iteration::IterationWaiters;
use crate::kernels::future::state::NativeAwaitable;
use crate::kernels::future::work::Work;
use crate::kernels::loop_handle::LoopHandle;
use crate::python::{nested_drop, Ref};

/// The calls that have ended, once somebody iterates.
#[derive(Default)]
pub struct Ended {
    /// The indexes of the calls, in the order of their ends.
    pub calls: Vec<usize>,
    is_watched: bool,
    /// Futures to resolve when a call ends.
    pub waiters: IterationWaiters,
}

/// Many calls of one kernel. `await` gives their results in the order of the calls, when the last one is done. If one has
/// failed, the first one's exception is raised, unless `return_exceptions` was given. `async for` gives the results as the calls
/// end.
#[pyclass(frozen, extends = NativeAwaitable, module = "hybridloop._core")]
#[derive(Default)]
pub struct NativeBatch {
    pub ended: Mutex<Ended>,
}

impl Drop for NativeBatch {
    fn drop(&mut self) {
        let ended = self.ended.get_mut();
        let waiters = std::mem::take(&mut ended.unwrap_or_else(PoisonError::into_inner).waiters);
        nested_drop::drop_content(waiters);
    }
}

/// The calls of a batch have no items and no progress.
static VTABLE: FutureVTable = FutureVTable {
    completed: NativeAwaitable::completed,
    progressed: |_, _, _| Ok(()),
    emitted: |_, _, _| Ok(()),
    ended: |py, object, queue| match object.bind(py).cast::<NativeBatch>() {
        Ok(batch) => batch.get().wake_waiters(py, queue),
        Err(_) => Ok(()),
    },
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
        let initializer = PyClassInitializer::from(base).add_subclass(Self::default());
        Bound::new(py, initializer)
    }

    /// The jobs of its calls, and whether exceptions are results.
    pub fn calls<'a>(slf: &'a Bound<'_, Self>) -> (&'a [Arc<Job>], bool) {
        match slf.as_super().get().work() {
            Some(Work::Batch {
                jobs,
                return_exceptions,
                ..
            }) => (jobs, *return_exceptions),
            _ => (&[], false),
        }
    }

    /// Resolves the futures that wait for the end of a call; `queue` belongs to the loop that runs in this thread.
    pub fn wake_waiters(&self, py: Python<'_>, queue: &CompletionQueue) -> PyResult<()> {
        let waiters = std::mem::take(&mut lock(&self.ended).waiters);
        waiters.resolve(py, queue)
    }

    /// Lets a queue dispatch the end of each call, from the first iteration on: awaiting needs the end of the last call only.
    pub fn watch(slf: &Bound<'_, Self>, queue: &Arc<CompletionQueue>) -> PyResult<()> {
        if lock(&slf.get().ended).is_watched {
            return Ok(());
        }
        let (jobs, _) = Self::calls(slf);
        let mut calls = Vec::new();
        calls.try_reserve_exact(jobs.len()).map_err(out_of_memory)?;
        for index in 0..jobs.len() {
            let batch = slf.clone().unbind();
            calls.push(Ref::from(
                Bound::new(slf.py(), BatchCall { batch, index })?.into_any(),
            ));
        }
        let mut ended = lock(&slf.get().ended);
        let reserved = ended.calls.try_reserve_exact(jobs.len());
        let is_first = reserved.is_ok() && !std::mem::replace(&mut ended.is_watched, true);
        drop(ended);
        reserved.map_err(out_of_memory)?;
        if is_first {
            for (job, call) in jobs.iter().zip(calls) {
                subscribe(job, call, queue);
            }
        }
        Ok(())
    }
}

/// A call of a batch, while its end was not dispatched.
#[pyclass(frozen, module = "hybridloop._core")]
pub struct BatchCall {
    batch: Py<NativeBatch>,
    index: usize,
}

static CALL_VTABLE: FutureVTable = FutureVTable {
    completed: call_ended,
    progressed: |_, _, _| Ok(()),
    emitted: |_, _, _| Ok(()),
    ended: |_, _, _| Ok(()),
    detached: |py, object| {
        if let Ok(call) = object.bind(py).cast::<BatchCall>() {
            let batch = call.get().batch.bind(py);
            if let Some(job) = NativeBatch::calls(batch).0.get(call.get().index) {
                // Tasks of other loops may wait. The thread cannot be started when the process ends.
                let queue = callback_queue(py).unwrap_or_else(|_| detached_queue());
                subscribe(job, object.clone(), &queue);
            }
        }
    },
};

fn subscribe(job: &Arc<Job>, call: Ref, queue: &Arc<CompletionQueue>) {
    let future = PendingFuture {
        object: call,
        vtable: &CALL_VTABLE,
    };
    drop(queue.register(WorkId::Job(job.id()), future));
    job.subscribe(queue.events().clone());
}

fn call_ended(py: Python<'_>, object: &Ref, queue: &CompletionQueue) -> PyResult<()> {
    let call = object.bind(py).cast::<BatchCall>()?.get();
    let batch = call.batch.bind(py).get();
    lock(&batch.ended).calls.push(call.index);
    batch.wake_waiters(py, queue)
}

#[pymethods]
impl BatchCall {
    /// Raises `TypeError`: the object belongs to this process.
    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        Err(cannot_pickle(slf.as_any()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.batch)
    }
}
