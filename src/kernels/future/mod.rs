//! `NativeAwaitable`: what jobs and batches have in common. It does what an `asyncio.Future` does, and belongs to whichever
//! loop looks at it, so tasks of several loops can wait for the same job.
//!
//! asyncio takes for a future what has `_asyncio_future_blocking`, and asks it for its loop, for `add_done_callback()` and
//! `cancel()`. Here the loop is the one that runs in the calling thread; each loop with a callback hears of the end through its
//! own queue.
//!
//! * [`work`] — what there is to wait for: a job, or the jobs of a batch.
//! * [`completion`] — how it gets its result.
//! * [`callbacks`] — those of `add_done_callback()`; [`waiting`] — `await`, and threads that block.
//! * [`unretrieved`] — exceptions that nobody has asked for.
//! * [`methods`] — what Python calls.

mod callbacks;
mod completion;
mod methods;
mod unretrieved;
mod waiting;
mod work;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use hybridloop_kernels::Process;
use pyo3::prelude::*;

use self::callbacks::{call_all, Callback};
use crate::kernels::buffer_guards::BufferGuards;
use crate::kernels::completion_queue::{detached_queue, lock, CompletionQueue};
use crate::kernels::loop_handle::{running_loop, LoopHandle};
use crate::kernels::result::FutureResult;
use crate::python::Ref;

pub use self::unretrieved::add_class;
pub use self::waiting::seconds;
pub use self::work::Work;

#[derive(Default)]
struct State {
    result: Option<FutureResult>,
    callbacks: Vec<Callback>,
    guards: BufferGuards,
    timer: Option<Ref>,
    cancel_message: Option<Ref>,
    /// Somebody has seen how it ended.
    retrieved: bool,
}

/// The common base of `NativeJob` and `NativeBatch`.
#[pyclass(frozen, subclass, weakref, module = "hybridloop._core")]
pub struct NativeAwaitable {
    work: OnceLock<Work>,
    /// The loop it was submitted on.
    owner: Option<LoopHandle>,
    /// Whether `cancel()` and a timeout end it at once, while the kernel runs on.
    detach: bool,
    blocking: AtomicBool,
    process: Process,
    /// Locked for moments in which no Python runs and nothing is dropped.
    state: Mutex<State>,
}

impl NativeAwaitable {
    pub fn new(owner: Option<LoopHandle>, detach: bool, guards: BufferGuards) -> Self {
        Self {
            work: OnceLock::new(),
            owner,
            detach,
            blocking: AtomicBool::new(false),
            process: Process::current(),
            state: Mutex::new(State {
                guards,
                ..State::default()
            }),
        }
    }

    pub fn owner(&self) -> Option<&LoopHandle> {
        self.owner.as_ref()
    }

    /// What it waits for; `None` only until it was submitted.
    pub fn work(&self) -> Option<&Work> {
        self.work.get()
    }

    /// It was submitted: what comes in for it finds it from now on.
    pub fn begin(slf: &Bound<'_, Self>, work: Work, timeout: Option<Duration>) -> PyResult<()> {
        let this = slf.get();
        let work = this.work.get_or_init(|| work);
        let queue = this.owner_queue();
        drop(queue.register(work, slf.into()));
        let is_here = this.owner.as_ref().is_some_and(LoopHandle::runs_here);
        if work.is_over() && (work.jobs().is_empty() || !is_here) {
            // Another thread may have seen the end before there was anybody to tell; of nothing, nobody tells.
            work.subscribe(queue.mailbox().clone());
        }
        if let (Some(timeout), Some(owner)) = (timeout, &this.owner) {
            this.arm(slf, owner, timeout)?;
        }
        Ok(())
    }

    fn owner_queue(&self) -> Arc<CompletionQueue> {
        self.owner
            .as_ref()
            .map_or_else(detached_queue, |owner| owner.queue.clone())
    }

    /// Has the loop look after the deadline: nobody else watches that of a job that waits.
    fn arm(&self, slf: &Bound<'_, Self>, owner: &LoopHandle, timeout: Duration) -> PyResult<()> {
        let py = slf.py();
        if timeout.is_zero() {
            return Self::expire(slf);
        }
        let expire = slf.getattr("_expire")?;
        // The job's own clock was read before, and is finer than the loop's.
        let seconds = timeout.as_secs_f64() + 1e-6;
        let event_loop = owner.event_loop.bind(py);
        let is_here =
            owner.runs_here() || running_loop(py)?.is_none_or(|running| running.is(event_loop));
        if !is_here {
            let arm = slf.getattr("_arm")?;
            event_loop.call_method1("call_soon_threadsafe", (arm, seconds))?;
            return Ok(());
        }
        let timer = event_loop.call_method1("call_later", (seconds, expire))?;
        let before = lock(&self.state).timer.replace(timer.into());
        drop(before);
        Ok(())
    }

    /// Its work is over: a queue has dispatched the event.
    pub fn completed(py: Python<'_>, waiting: &Ref, queue: &CompletionQueue) -> PyResult<()> {
        let slf = waiting.bind(py).cast::<Self>()?;
        let this = slf.get();
        this.finish(py);
        this.release();
        let mine = |callback: &Callback| std::ptr::eq(&raw const *callback.handle.queue, queue);
        let callbacks = this.take_callbacks(mine);
        let called = call_all(py, callbacks, slf.as_any(), true);
        if this
            .owner
            .as_ref()
            .is_none_or(|owner| std::ptr::eq(&raw const *owner.queue, queue))
        {
            crate::kernels::job::ended(py, waiting, queue)?;
        }
        called
    }

    /// Moves it to the queue of detached jobs: its loop was closed.
    pub fn move_to_detached(py: Python<'_>, waiting: &Ref) {
        let Ok(slf) = waiting.bind(py).cast::<Self>() else {
            return;
        };
        let Some(work) = slf.get().work() else { return };
        let queue = detached_queue();
        drop(queue.register(work, waiting.clone()));
        work.subscribe(queue.mailbox().clone());
    }
}

/// Makes the classes.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    waiting::register(module)?;
    add_class::<NativeAwaitable>(module)
}
