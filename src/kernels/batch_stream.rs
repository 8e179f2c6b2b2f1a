//! `async for` over a `NativeBatch`: the results of its calls, as they end.

use std::ffi::c_int;
use std::sync::Mutex;

use hybridloop_sync::primitives::lock;
use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration};
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::PyTraverseError;

use crate::kernels::batch::{BatchCall, NativeBatch};
use crate::kernels::exceptions::{cannot_pickle, forked_error};
use crate::kernels::future::iteration::IterationWait;
use crate::kernels::future::work::Work;
use crate::kernels::loop_handle::LoopHandle;
use crate::kernels::result::FutureResult;
use crate::python::coroutine::{self, Class, Operation, Step, Visit};
use crate::python::stdlib::Stdlib;
use crate::python::{FfiResult, Ref};

/// The results of a batch in the order in which its calls end, for `async for`.
#[pyclass(frozen, module = "hybridloop._core")]
pub struct BatchStream {
    batch: Py<NativeBatch>,
    /// How many results were given.
    given: Mutex<usize>,
    with_index: bool,
}

impl BatchStream {
    fn new(batch: &Bound<'_, NativeBatch>, with_index: bool) -> Self {
        Self {
            batch: batch.clone().unbind(),
            given: Mutex::new(0),
            with_index,
        }
    }
}

#[pymethods]
impl BatchStream {
    /// Raises `TypeError`: the object belongs to this process.
    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        Err(cannot_pickle(slf.as_any()))
    }

    fn __aiter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __anext__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let next = Next {
            stream: slf.as_any().into(),
            wait: IterationWait::default(),
        };
        Ok(coroutine::new(next, c"BatchStream.__anext__")?.into_bound(slf.py()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.batch)
    }
}

#[pymethods]
impl NativeBatch {
    fn __len__(slf: &Bound<'_, Self>) -> usize {
        Self::calls(slf).0.len()
    }

    /// How many calls are done.
    #[getter]
    fn completed(slf: &Bound<'_, Self>) -> usize {
        match slf.as_super().get().work() {
            Some(Work::Batch { jobs, batch, .. }) => jobs.len() - batch.remaining().min(jobs.len()),
            _ => 0,
        }
    }

    /// The results as the calls end: `async for result in batch`. A call that has failed raises its exception, unless
    /// `return_exceptions` was given; the iterator can go on then.
    fn __aiter__(slf: &Bound<'_, Self>) -> BatchStream {
        BatchStream::new(slf, false)
    }

    /// The same, with the index of each call: `async for index, result in batch.as_completed()`.
    fn as_completed(slf: &Bound<'_, Self>) -> BatchStream {
        BatchStream::new(slf, true)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Ok(ended) = self.ended.try_lock() else {
            return Ok(());
        };
        ended.waiters.traverse(&visit)
    }

    fn __clear__(&self) {
        let waiters = std::mem::take(&mut lock(&self.ended).waiters);
        drop(waiters);
    }
}

/// One step of `async for`.
struct Next {
    stream: Ref,
    wait: IterationWait,
}

static CLASS: Class = Class::new();

impl Operation for Next {
    fn class() -> &'static Class {
        &CLASS
    }

    fn step(&self) -> FfiResult<Step> {
        // SAFETY: the coroutine calls `step()` from `send()`, which CPython calls attached.
        let py = unsafe { Python::assume_attached() };
        let stream = self
            .stream
            .bind(py)
            .cast::<BatchStream>()
            .map_err(PyErr::from)?
            .get();
        let slf = stream.batch.bind(py);
        let (this, base) = (slf.get(), slf.as_super().get());
        let total = NativeBatch::calls(slf).0.len();
        let is_cancelled = self.wait.end(py)?;
        let mut given = lock(&stream.given);
        let ended = lock(&this.ended);
        let (next, count) = (ended.calls.get(*given).copied(), ended.calls.len());
        drop(ended);
        match next {
            Some(index) if !is_cancelled => {
                *given += 1;
                drop(given);
                return Ok(Step::Done(stream.result(slf, index)?));
            }
            None if count == total && !is_cancelled => {
                return Err(PyStopAsyncIteration::new_err(()).into());
            }
            _ => drop(given),
        }
        if !base.is_current_process() {
            return Err(forked_error(py, "batch of jobs").into());
        }
        // A batch that was detached has a result before its calls have ended.
        let result = base.peek();
        if is_cancelled && (count == total || result.is_some()) {
            base.unwrap_result(py, FutureResult::Cancelled)?;
        }
        if let Some(result @ (FutureResult::Error(_) | FutureResult::Cancelled)) = result {
            if !base.work().is_some_and(Work::is_done) {
                base.unwrap_result(py, result)?;
            }
        }
        let Some(handle) = LoopHandle::running(py)? else {
            return Err(PyRuntimeError::new_err("no running event loop").into());
        };
        NativeBatch::watch(slf, &handle.queue)?;
        let future = self.wait.begin(slf.as_any(), &handle, is_cancelled)?;
        let mut ended = lock(&this.ended);
        // On free-threaded Pythons another thread may have dispatched an end since the check above.
        let is_ready = ended.calls.len() > count;
        ended.waiters.push(handle.clone(), future.clone());
        drop(ended);
        if is_ready {
            this.wake_waiters(py, &handle.queue)?;
        }
        Ok(Step::Wait(future))
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        match visit(&self.stream) {
            0 => self.wait.traverse(visit),
            stop => stop,
        }
    }
}

impl BatchStream {
    /// The result of a call that has ended.
    fn result(&self, batch: &Bound<'_, NativeBatch>, index: usize) -> PyResult<Ref> {
        let py = batch.py();
        let base = batch.as_super().get();
        let (jobs, return_exceptions) = NativeBatch::calls(batch);
        let value = match FutureResult::of(py, &jobs[index]) {
            FutureResult::Error(error) if return_exceptions => {
                base.mark_retrieved();
                error
            }
            FutureResult::Cancelled if return_exceptions => {
                Stdlib::get().cancelled_error.bind(py).call0()?.into()
            }
            FutureResult::Error(error) => {
                let note = format!("call {index} of the batch");
                error.bind(py).call_method1("add_note", (note,))?;
                base.unwrap_result(py, FutureResult::Error(error))?
            }
            result => base.unwrap_result(py, result)?,
        };
        if !self.with_index {
            return Ok(value);
        }
        Ok((index, value.bind(py)).into_pyobject(py)?.into_any().into())
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    CLASS.init::<Next>(module.py(), c"hybridloop._core.NativeNextResult")?;
    module.add_class::<NativeBatch>()?;
    module.add_class::<BatchCall>()?;
    module.add_class::<BatchStream>()
}
