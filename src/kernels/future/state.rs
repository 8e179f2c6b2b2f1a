//! The state of a `NativeAwaitable`.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

use hybridloop_kernels::Engine;
use hybridloop_sync::primitives::lock;
use hybridloop_sync::Process;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::kernels::buffer_guards::BufferGuards;
use crate::kernels::completion_queue::{CompletionQueue, FutureVTable, PendingFuture};
use crate::kernels::detached::detached_queue;
use crate::kernels::future::work::Work;
use crate::kernels::loop_handle::LoopHandle;
use crate::kernels::result::FutureResult;
use crate::python::stdlib::Stdlib;
use crate::python::{package, Ref};

/// A function of `add_done_callback()`, and the loop that calls it.
pub struct Callback {
    pub handle: LoopHandle,
    pub function: Ref,
    pub context: Ref,
}

#[derive(Default)]
pub struct State {
    pub result: Option<FutureResult>,
    pub callbacks: Vec<Callback>,
    pub guards: BufferGuards,
    /// Keeps the workers until the work is done, also if nobody else has the engine.
    pub engine: Option<Arc<Engine>>,
    /// The timer of the deadline.
    pub timer: Option<Ref>,
    pub cancel_requested: bool,
    pub cancel_message: Option<Ref>,
    /// What `concurrent.futures` reads, once it has.
    pub view: Option<Ref>,
    /// Whether the exception was raised or returned to anybody, or reported.
    pub retrieved: bool,
}

/// The common base of `NativeJob` and `NativeBatch`: a future that belongs to no loop.
#[pyclass(frozen, subclass, weakref, module = "hybridloop._core")]
pub struct NativeAwaitable {
    /// Empty until the work is submitted.
    pub(super) work: OnceLock<Work>,
    /// The loop it was submitted on.
    pub(super) owner: Option<LoopHandle>,
    /// Whether a cancellation or a timeout gives it its result at once, while the kernel still runs.
    pub(super) detach: bool,
    pub(super) blocking: AtomicBool,
    pub(super) process: Process,
    /// While it is locked, no Python code runs and no object is dropped.
    pub(super) state: Mutex<State>,
    /// What queues call; it depends on the subclass.
    pub(super) vtable: &'static FutureVTable,
}

impl NativeAwaitable {
    pub fn new(
        owner: Option<LoopHandle>,
        detach: bool,
        guards: BufferGuards,
        engine: Arc<Engine>,
        vtable: &'static FutureVTable,
    ) -> Self {
        Self {
            work: OnceLock::new(),
            owner,
            detach,
            blocking: AtomicBool::new(false),
            process: Process::current(),
            state: Mutex::new(State {
                guards,
                engine: Some(engine),
                ..State::default()
            }),
            vtable,
        }
    }

    pub fn owner(&self) -> Option<&LoopHandle> {
        self.owner.as_ref()
    }

    /// The job or batch; `None` only until it is submitted.
    pub fn work(&self) -> Option<&Work> {
        self.work.get()
    }

    /// Whether this process has submitted the work.
    #[inline]
    pub fn is_current_process(&self) -> bool {
        self.process.is_current()
    }

    /// The queue that dispatches the events of the work: of the loop it was submitted on, or of detached jobs.
    pub(super) fn queue(&self) -> Arc<CompletionQueue> {
        self.owner
            .as_ref()
            .map_or_else(detached_queue, |owner| owner.queue.clone())
    }

    /// What is registered with a queue.
    pub(super) fn pending(&self, slf: &Bound<'_, Self>) -> PendingFuture {
        PendingFuture {
            object: slf.into(),
            vtable: self.vtable,
        }
    }

    /// The result, if it is set.
    pub fn peek(&self) -> Option<FutureResult> {
        lock(&self.state).result.clone()
    }

    /// Sets the result; returns false if the future has one already.
    pub(super) fn set_result(&self, result: FutureResult) -> bool {
        let mut state = lock(&self.state);
        if state.result.is_some() {
            drop(state);
            drop(result);
            return false;
        }
        state.result = Some(result);
        true
    }

    /// What `concurrent.futures` reads; made on first use.
    pub(super) fn view<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        if let Some(view) = lock(&this.state).view.clone() {
            return Ok(view.bind(py).clone());
        }
        let new = Ref::from(package::future_view(py)?.call0()?);
        let mut state = lock(&this.state);
        let view = state.view.get_or_insert_with(|| new.clone()).clone();
        drop(state);
        Ok(view.bind(py).clone())
    }

    pub fn mark_retrieved(&self) {
        lock(&self.state).retrieved = true;
    }

    /// The value of a result; an exception is raised.
    pub fn unwrap_result(&self, py: Python<'_>, result: FutureResult) -> PyResult<Ref> {
        match result {
            FutureResult::Value(value) => Ok(value),
            FutureResult::Cancelled => Err(self.cancelled_error(py)),
            FutureResult::Error(error) => {
                self.mark_retrieved();
                // The exception may be raised several times: without this, each raise would add frames to one traceback.
                // SAFETY: `py` proves attachment, and a `Ref` is a live object; only exceptions are in `Error`.
                unsafe { ffi::PyException_SetTraceback(error.as_ptr(), ffi::Py_None()) };
                Err(PyErr::from_value(error.bind(py).clone()))
            }
        }
    }

    pub(super) fn cancelled_error(&self, py: Python<'_>) -> PyErr {
        let class = Stdlib::get().cancelled_error.bind(py);
        let message = lock(&self.state).cancel_message.clone();
        let created = match message {
            Some(message) => class.call1((message.bind(py),)),
            None => class.call0(),
        };
        created.map_or_else(|error| error, PyErr::from_value)
    }
}
