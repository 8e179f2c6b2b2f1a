//! `NativeJob`: one call of a kernel, with the items and the progress of the kernel while it runs.

use std::ffi::c_int;
use std::sync::{Arc, Mutex, PoisonError};

use hybridloop_kernels::{Engine, Event, Job, JobState};
use hybridloop_sync::primitives::lock;
use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration};
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::PyTraverseError;

use crate::kernels::buffer_guards::BufferGuards;
use crate::kernels::completion_queue::{CompletionQueue, FutureVTable};
use crate::kernels::convert::to_python;
use crate::kernels::exceptions::{cannot_pickle, forked_error};
use crate::kernels::future::iteration::{IterationWait, IterationWaiters};
use crate::kernels::future::state::NativeAwaitable;
use crate::kernels::future::work::Work;
use crate::kernels::loop_handle::LoopHandle;
use crate::kernels::result::FutureResult;
use crate::python::coroutine::{self, Class, Operation, Step, Visit};
use crate::python::{nested_drop, FfiResult, Ref};

/// What the kernel has emitted and reported, as far as the events were dispatched.
#[derive(Default)]
struct JobOutput {
    /// How many of the items that the job keeps may be taken now. The rest waits for the next iteration of the loop.
    items: usize,
    progress: (u64, u64),
    /// The number of progress events.
    version: u64,
    /// Whether the job is done.
    ended: bool,
    /// Futures to resolve when any of this changes.
    waiters: IterationWaiters,
}

/// The callback for progress, and its context.
pub struct OnProgress {
    pub callback: Ref,
    pub context: Ref,
}

/// One call of a native kernel. It can be awaited from any event loop, any number of times. As with futures, cancelling a task
/// that awaits it cancels it.
#[pyclass(frozen, extends = NativeAwaitable, module = "hybridloop._core")]
pub struct NativeJob {
    output: Mutex<JobOutput>,
    on_progress: Option<OnProgress>,
}

impl Drop for NativeJob {
    fn drop(&mut self) {
        let output = self
            .output
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let waiters = std::mem::take(&mut output.waiters);
        nested_drop::drop_content((self.on_progress.take(), waiters));
    }
}

impl NativeJob {
    pub fn create(
        py: Python<'_>,
        owner: Option<LoopHandle>,
        detach: bool,
        guards: BufferGuards,
        engine: Arc<Engine>,
        on_progress: Option<OnProgress>,
    ) -> PyResult<Bound<'_, Self>> {
        let base = NativeAwaitable::new(owner, detach, guards, engine, &VTABLE);
        let this = Self {
            output: Mutex::default(),
            on_progress,
        };
        Bound::new(py, PyClassInitializer::from(base).add_subclass(this))
    }

    /// Resolves the futures that wait for output; `queue` belongs to the loop that runs in this thread.
    fn wake_waiters(&self, py: Python<'_>, queue: &CompletionQueue) -> PyResult<()> {
        let waiters = std::mem::take(&mut lock(&self.output).waiters);
        waiters.resolve(py, queue)
    }
}

static VTABLE: FutureVTable = FutureVTable {
    completed: NativeAwaitable::completed,
    progressed,
    emitted,
    ended,
    detached: NativeAwaitable::detached,
};

fn job(slf: &Bound<'_, NativeJob>) -> PyResult<Arc<Job>> {
    match slf.as_super().get().work() {
        Some(Work::Job(job)) => Ok(job.clone()),
        _ => Err(PyRuntimeError::new_err("the job was not submitted")),
    }
}

/// The kernel has reported progress.
fn progressed(py: Python<'_>, object: &Ref, progress: (u64, u64)) -> PyResult<()> {
    let Ok(slf) = object.bind(py).cast::<NativeJob>() else {
        return Ok(());
    };
    let this = slf.get();
    let mut output = lock(&this.output);
    output.progress = progress;
    output.version += 1;
    drop(output);
    let Some(owner) = slf.as_super().get().owner() else {
        return Ok(());
    };
    if let Some(OnProgress { callback, context }) = &this.on_progress {
        let done: Ref = progress.0.into_pyobject(py)?.into_any().into();
        let total: Ref = progress.1.into_pyobject(py)?.into_any().into();
        owner.call_soon(py, callback, [&done, &total], context)?;
    }
    this.wake_waiters(py, &owner.queue)
}

/// The kernel has emitted items.
fn emitted(py: Python<'_>, object: &Ref, items: usize) -> PyResult<()> {
    let Ok(slf) = object.bind(py).cast::<NativeJob>() else {
        return Ok(());
    };
    let this = slf.get();
    lock(&this.output).items = items;
    match slf.as_super().get().owner() {
        Some(owner) => this.wake_waiters(py, &owner.queue),
        None => Ok(()),
    }
}

/// The job is done.
fn ended(py: Python<'_>, object: &Ref, queue: &CompletionQueue) -> PyResult<()> {
    let Ok(slf) = object.bind(py).cast::<NativeJob>() else {
        return Ok(());
    };
    let mut output = lock(&slf.get().output);
    output.ended = true;
    output.items = usize::MAX;
    drop(output);
    slf.get().wake_waiters(py, queue)
}

#[pymethods]
impl NativeJob {
    /// Its number, unique in this process. Keys of the bus that belong to it are called `job:<id>:<name>`.
    #[getter]
    fn id(slf: &Bound<'_, Self>) -> PyResult<u64> {
        Ok(job(slf)?.id())
    }

    /// The name of its kernel.
    #[getter]
    fn kernel(slf: &Bound<'_, Self>) -> PyResult<String> {
        Ok(job(slf)?.kernel().name().to_owned())
    }

    /// Whether the kernel runs now, in this process.
    fn running(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let job = job(slf)?;
        Ok(job.is_current_process() && job.state() == JobState::Running)
    }

    /// The progress that the kernel reports: `async for done, total in job.progress()`. Only the newest state is kept.
    fn progress(slf: &Bound<'_, Self>) -> NativeStream {
        NativeStream {
            job: slf.clone().unbind(),
            seen: Some(Mutex::new(0)),
        }
    }

    /// The items that the kernel emits: `async for item in job`. If several tasks iterate, each item goes to one of them. After
    /// the last item, a job that has failed raises its exception. Cancelling a task that iterates cancels the job.
    fn __aiter__(slf: &Bound<'_, Self>) -> NativeStream {
        NativeStream {
            job: slf.clone().unbind(),
            seen: None,
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(OnProgress { callback, context }) = &self.on_progress {
            callback.visit(&visit)?;
            context.visit(&visit)?;
        }
        let Ok(output) = self.output.try_lock() else {
            return Ok(());
        };
        output.waiters.traverse(&visit)
    }

    fn __clear__(&self) {
        let waiters = std::mem::take(&mut lock(&self.output).waiters);
        drop(waiters);
    }
}

/// Items or progress of a job, for `async for`.
#[pyclass(frozen, module = "hybridloop._core")]
pub struct NativeStream {
    job: Py<NativeJob>,
    /// The version of the progress that was seen last; `None` for items.
    seen: Option<Mutex<u64>>,
}

#[pymethods]
impl NativeStream {
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
        Ok(coroutine::new(next, c"NativeStream.__anext__")?.into_bound(slf.py()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.job)
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
            .cast::<NativeStream>()
            .map_err(PyErr::from)?;
        let stream = stream.get();
        let slf = stream.job.bind(py);
        let this = slf.get();
        let job = job(slf)?;
        let is_cancelled = self.wait.end(py)?;
        let mut output = lock(&this.output);
        // Before an item is taken: nothing is emitted after the end.
        let ended = output.ended;
        match &stream.seen {
            // What is left does not count.
            None if is_cancelled => {}
            None => {
                if let Some(value) = (output.items > 0).then(|| job.take_item()).flatten() {
                    output.items -= 1;
                    drop(output);
                    return Ok(Step::Done(to_python(py, &value)?.into()));
                }
                output.items = 0;
            }
            Some(seen) => {
                let (version, state) = (output.version, output.progress);
                let before = std::mem::replace(&mut *lock(seen), version);
                if before != version {
                    drop(output);
                    return Ok(Step::Done(state.into_pyobject(py)?.into_any().into()));
                }
            }
        }
        if ended {
            drop(output);
            let base = slf.as_super().get();
            if let (None, Some(result @ (FutureResult::Error(_) | FutureResult::Cancelled))) =
                (&stream.seen, base.peek())
            {
                base.unwrap_result(py, result)?;
            }
            return Err(PyStopAsyncIteration::new_err(()).into());
        }
        drop(output);
        if !slf.as_super().get().is_current_process() {
            // Its output may be in events that the parent process dispatches.
            return Err(forked_error(py, "job").into());
        }
        let Some(handle) = LoopHandle::running(py)? else {
            return Err(PyRuntimeError::new_err("no running event loop").into());
        };
        let Some(owner) = slf.as_super().get().owner() else {
            return Err(PyRuntimeError::new_err(
                "the job was submitted without a running event loop, so its items and progress cannot be consumed",
            )
            .into());
        };
        let future = match &stream.seen {
            None => self.wait.begin(slf.as_any(), &handle, is_cancelled)?,
            // Progress may be shown by another task than the one that needs the result.
            Some(_) => handle.create_future(py)?,
        };
        let mut output = lock(&this.output);
        // On free-threaded Pythons another thread may have added output since the check above.
        let is_ready = output.ended || (output.items > 0 && !is_cancelled);
        output.waiters.push(handle.clone(), future.clone());
        drop(output);
        if is_ready {
            this.wake_waiters(py, &handle.queue)?;
        } else if stream.seen.is_none() && job.has_items() {
            owner.queue.events().push(Event::Items(job));
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

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    CLASS.init::<Next>(module.py(), c"hybridloop._core.NativeNext")?;
    module.add_class::<NativeJob>()?;
    module.add_class::<NativeStream>()
}
