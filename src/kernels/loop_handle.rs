//! `LoopHandle`: an event loop of any implementation, with the queue that its completions go to; or the thread for callbacks.

use std::sync::{Arc, OnceLock};

use hybridloop_sync::WakeFn;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::event_loop::{LoopCore, LoopRef};
use crate::kernels::callback_thread::callback_queue;
use crate::kernels::completion_queue::{CompletionQueue, LoopCompletions};
use crate::kernels::detached::detached_queue;
use crate::kernels::foreign_loop;
use crate::python::future::resolve;
use crate::python::once::get_or_try_set;
use crate::python::stdlib::Stdlib;
use crate::python::Ref;

#[derive(Clone)]
enum EventLoop {
    Core(LoopRef),
    Foreign(Ref),
    /// No loop, but the thread that calls the callbacks of plain threads.
    Thread,
}

/// An event loop and the queue that its completions go to.
#[derive(Clone)]
pub struct LoopHandle {
    event_loop: EventLoop,
    pub queue: Arc<CompletionQueue>,
}

impl LoopHandle {
    /// The handle of an event loop; creates its queue on first use.
    pub fn new(event_loop: &Bound<'_, PyAny>) -> PyResult<Self> {
        match event_loop.cast::<LoopCore>() {
            Ok(core) => Ok(Self {
                queue: core_queue(core.get())?,
                event_loop: EventLoop::Core(core.into()),
            }),
            Err(_) => Ok(Self {
                queue: foreign_loop::completion_queue(event_loop)?,
                event_loop: EventLoop::Foreign(event_loop.into()),
            }),
        }
    }

    /// The handle of the loop that runs in this thread.
    pub fn running(py: Python<'_>) -> PyResult<Option<Self>> {
        match running_loop(py)? {
            Some(event_loop) => Self::new(&event_loop).map(Some),
            None => Ok(None),
        }
    }

    /// The thread for callbacks of plain threads: it calls them at once.
    pub fn callback_thread(py: Python<'_>) -> PyResult<Self> {
        Ok(Self {
            event_loop: EventLoop::Thread,
            queue: callback_queue(py)?,
        })
    }

    /// The loop as an object of any class; `None` of Python for the thread.
    pub fn object(&self) -> &Ref {
        match &self.event_loop {
            EventLoop::Core(event_loop) => event_loop.object(),
            EventLoop::Foreign(object) => object,
            EventLoop::Thread => &Stdlib::get().none,
        }
    }

    /// Whether this thread runs the loop. It does not ask asyncio, so it is always `false` for loops of other
    /// implementations.
    pub fn runs_here(&self) -> bool {
        match &self.event_loop {
            EventLoop::Core(event_loop) => event_loop.core().runs_here(),
            EventLoop::Foreign(_) | EventLoop::Thread => false,
        }
    }

    fn is_closed(&self, py: Python<'_>) -> PyResult<bool> {
        match &self.event_loop {
            EventLoop::Core(event_loop) => Ok(event_loop.core().is_closed()),
            EventLoop::Foreign(object) => object.bind(py).call_method0("is_closed")?.is_truthy(),
            EventLoop::Thread => Ok(false),
        }
    }

    /// `loop.call_soon(callback, *args, context=context)`, from the loop's thread.
    pub fn call_soon<const N: usize>(
        &self,
        py: Python<'_>,
        callback: &Ref,
        args: [&Ref; N],
        context: &Ref,
    ) -> PyResult<()> {
        match &self.event_loop {
            EventLoop::Core(event_loop) if !event_loop.core().is_closed() => {
                let cx = event_loop.cx(py);
                Ok(cx.call_soon(callback, args, Some(context.clone()))?)
            }
            EventLoop::Thread => {
                call_now(py, callback, args, context);
                Ok(())
            }
            _ => self.call_method(py, "call_soon", callback, args, context),
        }
    }

    /// `loop.call_soon_threadsafe(…)`, from any thread. Does nothing if the loop is closed.
    pub fn call_soon_threadsafe<const N: usize>(
        &self,
        py: Python<'_>,
        callback: &Ref,
        args: [&Ref; N],
        context: &Ref,
    ) -> PyResult<()> {
        if let EventLoop::Thread = self.event_loop {
            call_now(py, callback, args, context);
            return Ok(());
        }
        if self.is_closed(py)? {
            return Ok(());
        }
        self.call_method(py, "call_soon_threadsafe", callback, args, context)
    }

    fn call_method<const N: usize>(
        &self,
        py: Python<'_>,
        method: &str,
        callback: &Ref,
        args: [&Ref; N],
        context: &Ref,
    ) -> PyResult<()> {
        let keywords = PyDict::new(py);
        keywords.set_item("context", context.bind(py))?;
        let all: Vec<_> = std::iter::once(callback)
            .chain(args)
            .map(|object| object.bind(py))
            .collect();
        self.object()
            .bind(py)
            .call_method(method, PyTuple::new(py, all)?, Some(&keywords))
            .map(drop)
    }

    /// `loop.create_future()`
    pub fn create_future(&self, py: Python<'_>) -> PyResult<Ref> {
        match &self.event_loop {
            // SAFETY: the pointer and the core are those of the same loop, which `event_loop` keeps alive.
            EventLoop::Core(event_loop) => unsafe {
                Ok(event_loop.core().new_future(event_loop.as_ptr())?)
            },
            EventLoop::Foreign(object) => Ok(object.bind(py).call_method0("create_future")?.into()),
            EventLoop::Thread => Err(PyRuntimeError::new_err("no running event loop")),
        }
    }

    /// Calls `future.set_result(None)` unless the future is done. The future belongs to this loop; `here` is the queue of the
    /// loop that runs in this thread.
    pub fn resolve(&self, py: Python<'_>, future: &Ref, here: &CompletionQueue) -> PyResult<()> {
        static RESOLVE: OnceLock<Ref> = OnceLock::new();
        if std::ptr::eq(&raw const *self.queue, here) {
            return Ok(resolve(future)?);
        }
        let function = get_or_try_set(&RESOLVE, || {
            wrap_pyfunction!(_resolve, py).map(|function| Ref::from(function.into_any()))
        })?;
        let context = current_context(py)?;
        self.call_soon_threadsafe(py, function, [future], &context)
    }
}

/// `context.run(callback, *args)`. An exception is reported.
fn call_now<const N: usize>(py: Python<'_>, callback: &Ref, args: [&Ref; N], context: &Ref) {
    let all: Vec<_> = std::iter::once(callback)
        .chain(args)
        .map(|object| object.bind(py))
        .collect();
    let called = PyTuple::new(py, all).and_then(|all| context.bind(py).call_method1("run", all));
    if let Err(error) = called {
        error.write_unraisable(py, Some(callback.bind(py)));
    }
}

/// The queue of a `LoopCore`, which is its completion source.
fn core_queue(core: &LoopCore) -> PyResult<Arc<CompletionQueue>> {
    core.check_open()?;
    let installed = || {
        let source = core.completions()?.as_any();
        Some(source.downcast_ref::<LoopCompletions>()?.0.clone())
    };
    match installed() {
        Some(queue) if queue.is_current_process() => Ok(queue),
        // After a fork: a loop of the parent process does not run in the child.
        Some(_) => Ok(detached_queue()),
        None => {
            let waker = core.loop_waker();
            let wake = waker.map(|waker| Box::new(move || waker.wake()) as WakeFn);
            core.set_completions(Box::new(LoopCompletions(CompletionQueue::new(wake))));
            Ok(installed().unwrap_or_else(detached_queue))
        }
    }
}

/// A copy of the current context.
pub fn current_context(_py: Python<'_>) -> PyResult<Ref> {
    // SAFETY: `_py` proves attachment. The result is a new reference or null.
    Ok(unsafe { Ref::new(ffi::PyContext_CopyCurrent()) }?)
}

/// The loop that runs in this thread.
pub fn running_loop(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    let event_loop = Stdlib::get().get_running_loop.bind(py).call0()?;
    Ok((!event_loop.is_none()).then_some(event_loop))
}

/// Resolve a future unless it is done.
#[pyfunction]
fn _resolve(future: &Bound<'_, PyAny>) -> PyResult<()> {
    Ok(resolve(&Ref::from(future))?)
}
