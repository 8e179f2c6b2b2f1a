//! `LoopHandle`: an event loop of any implementation, with the queue that its completions go to.

use std::sync::Arc;

use hybridloop_sync::WakeFn;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::event_loop::LoopCore;
use crate::kernels::completion_queue::{CompletionQueue, LoopCompletions};
use crate::kernels::detached::detached_queue;
use crate::kernels::foreign_loop;
use crate::python::future::resolve;
use crate::python::stdlib::Stdlib;
use crate::python::Ref;

/// An event loop and the queue that its completions go to.
#[derive(Clone)]
pub struct LoopHandle {
    pub event_loop: Ref,
    pub queue: Arc<CompletionQueue>,
    /// Whether the loop is a [`LoopCore`].
    is_core: bool,
}

impl LoopHandle {
    /// The handle of an event loop; creates its queue on first use.
    pub fn new(event_loop: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(core) = event_loop.cast::<LoopCore>() {
            return Self::from_core(event_loop, core.get());
        }
        Ok(Self {
            event_loop: event_loop.into(),
            queue: foreign_loop::completion_queue(event_loop)?,
            is_core: false,
        })
    }

    fn from_core(event_loop: &Bound<'_, PyAny>, core: &LoopCore) -> PyResult<Self> {
        core.check_open()?;
        let installed = || {
            let source = core.completions()?.as_any();
            Some(source.downcast_ref::<LoopCompletions>()?.0.clone())
        };
        let queue = match installed() {
            Some(queue) if queue.is_current_process() => queue,
            // After a fork: a loop of the parent process does not run in the child.
            Some(_) => detached_queue(),
            None => {
                let waker = core.loop_waker();
                let wake = waker.map(|waker| Box::new(move || waker.wake()) as WakeFn);
                core.set_completions(Box::new(LoopCompletions(CompletionQueue::new(wake))));
                installed().unwrap_or_else(detached_queue)
            }
        };
        Ok(Self {
            event_loop: event_loop.into(),
            queue,
            is_core: true,
        })
    }

    /// The handle of the loop that runs in this thread.
    pub fn running(py: Python<'_>) -> PyResult<Option<Self>> {
        match running_loop(py)? {
            Some(event_loop) => Self::new(&event_loop).map(Some),
            None => Ok(None),
        }
    }

    fn core(&self) -> Option<&LoopCore> {
        // SAFETY: `is_core` is set only for a `LoopCore`, and this handle owns a reference to it.
        self.is_core
            .then(|| unsafe { LoopCore::of(self.event_loop.as_ptr()) })
    }

    /// Whether this thread runs the loop. It does not ask asyncio, so it is always `false` for loops of other
    /// implementations.
    pub fn runs_here(&self) -> bool {
        self.core().is_some_and(LoopCore::runs_here)
    }

    /// Whether the loop is closed.
    fn is_closed(&self, py: Python<'_>) -> PyResult<bool> {
        match self.core() {
            Some(core) => Ok(core.is_closed()),
            None => self
                .event_loop
                .bind(py)
                .call_method0("is_closed")?
                .is_truthy(),
        }
    }

    /// `loop.call_soon(callback, *args, context=context)`, from the loop's thread. The pointers in `args` are live objects.
    pub fn call_soon(
        &self,
        py: Python<'_>,
        callback: &Ref,
        args: &[*mut PyObject],
        context: &Ref,
    ) -> PyResult<()> {
        match self.core() {
            Some(core) if !core.is_closed() => {
                // SAFETY: `py` proves attachment; this handle owns a reference to the loop, and the caller to the callback and
                // the arguments.
                unsafe {
                    core.soon(
                        self.event_loop.as_ptr(),
                        callback.as_ptr(),
                        args,
                        Some(context.clone()),
                    )?;
                }
                Ok(())
            }
            _ => self.call_method(py, "call_soon", callback, args, context),
        }
    }

    /// `loop.call_soon_threadsafe(…)`, from any thread. Does nothing if the loop is closed.
    pub fn call_soon_threadsafe(
        &self,
        py: Python<'_>,
        callback: &Ref,
        args: &[*mut PyObject],
        context: &Ref,
    ) -> PyResult<()> {
        if self.is_closed(py)? {
            return Ok(());
        }
        self.call_method(py, "call_soon_threadsafe", callback, args, context)
    }

    fn call_method(
        &self,
        py: Python<'_>,
        method: &str,
        callback: &Ref,
        args: &[*mut PyObject],
        context: &Ref,
    ) -> PyResult<()> {
        let keywords = pyo3::types::PyDict::new(py);
        keywords.set_item("context", context.bind(py))?;
        let args = args
            .iter()
            // SAFETY: `py` proves attachment, and the caller owns references to the arguments.
            .map(|arg| unsafe { Bound::from_borrowed_ptr(py, *arg) });
        let all: Vec<_> = std::iter::once(callback.bind(py).clone())
            .chain(args)
            .collect();
        let all = pyo3::types::PyTuple::new(py, all)?;
        self.event_loop
            .bind(py)
            .call_method(method, all, Some(&keywords))
            .map(drop)
    }

    /// `loop.create_future()`
    pub fn create_future(&self, py: Python<'_>) -> PyResult<Ref> {
        if let Some(core) = self.core() {
            // SAFETY: `py` proves attachment, and this handle owns a reference to the loop.
            return Ok(unsafe { core.new_future(self.event_loop.as_ptr()) }?);
        }
        Ok(self
            .event_loop
            .bind(py)
            .call_method0("create_future")?
            .into())
    }

    /// Calls `future.set_result(None)` unless the future is done. The future belongs to this loop; `here` is the queue of the
    /// loop that runs in this thread.
    pub fn resolve(&self, py: Python<'_>, future: &Ref, here: &CompletionQueue) -> PyResult<()> {
        static RESOLVE: PyOnceLock<Ref> = PyOnceLock::new();
        if std::ptr::eq(&raw const *self.queue, here) {
            return Ok(resolve(future)?);
        }
        let function = RESOLVE.get_or_try_init(py, || {
            wrap_pyfunction!(_resolve, py).map(|function| Ref::from(function.into_any()))
        })?;
        let context = current_context(py)?;
        self.call_soon_threadsafe(py, function, &[future.as_ptr()], &context)
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
pub fn _resolve(future: &Bound<'_, PyAny>) -> PyResult<()> {
    Ok(resolve(&Ref::from(future))?)
}
