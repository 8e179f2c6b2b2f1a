//! What Python calls of a `NativeAwaitable`.

use std::sync::atomic::Ordering;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::types::PyType;
use pyo3::PyTraverseError;

use crate::kernels::completion_queue::lock;
use crate::kernels::future::waiting::{self, Await};
use crate::kernels::future::{NativeAwaitable, Work};
use crate::kernels::loop_handle::running_loop;
use crate::kernels::result::FutureResult;
use crate::python::coroutine;
use crate::python::Ref;

#[pymethods]
impl NativeAwaitable {
    #[classmethod]
    #[pyo3(signature = (item, /))]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let alias = cls.py().import("types")?.getattr("GenericAlias")?;
        alias.call1((cls, item))
    }

    /// Whether there is a result: the kernel has returned, or will not run.
    fn done(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.poll_result(py)?.is_some())
    }

    /// Whether it was cancelled, and has ended.
    fn cancelled(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(matches!(
            self.poll_result(py)?,
            Some(FutureResult::Cancelled)
        ))
    }

    /// Ask it to end; False if it is done already.
    ///
    /// What has not begun never runs. A running kernel is told, and the job ends, as cancelled, when the kernel returns; with
    /// `cancel_policy="detach"` it ends at once, and its buffers stay in use until the kernel returns.
    #[pyo3(signature = (msg=None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let this = slf.get();
        let Some(work) = this.work() else {
            return Ok(false);
        };
        if this.peek().is_some() {
            return Ok(false);
        }
        let mut asked = false;
        for job in work.jobs() {
            asked |= job.cancel();
        }
        if !asked {
            return Ok(false);
        }
        let before = std::mem::replace(&mut lock(&this.state).cancel_message, msg.map(Ref::from));
        drop(before);
        if this.detach && !work.is_over() {
            this.finish_early(slf, FutureResult::Cancelled)?;
        }
        Ok(true)
    }

    /// The result, or the exception that it has ended with.
    ///
    /// A thread that runs no event loop waits for it, at most `timeout` seconds, then it gets `TimeoutError`. In a thread that
    /// runs one, a job that is not done raises `asyncio.InvalidStateError`: await it there.
    #[pyo3(signature = (timeout=None))]
    fn result<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let result = match self.peek() {
            Some(result) => result,
            None => self.wait(py, timeout)?,
        };
        let value = self.into_value(py, result)?;
        // SAFETY: an owned reference.
        Ok(unsafe { Bound::from_owned_ptr(py, value.into_ptr()) })
    }

    /// The exception that it has ended with, or None; waits as `result()` does.
    #[pyo3(signature = (timeout=None))]
    fn exception(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Py<PyAny>>> {
        let result = match self.peek() {
            Some(result) => result,
            None => self.wait(py, timeout)?,
        };
        match result {
            FutureResult::Value(_) => Ok(None),
            FutureResult::Cancelled => Err(self.cancelled_error(py)),
            FutureResult::Error(error) => {
                self.retrieve();
                Ok(Some(error.bind(py).clone().unbind()))
            }
        }
    }

    /// Have `fn(self)` called by the loop that runs in this thread, or by the loop it was submitted on, once it is done.
    #[pyo3(signature = (fn_, /, *, context=None), text_signature = "($self, fn, /, *, context=None)")]
    fn add_done_callback(
        slf: &Bound<'_, Self>,
        fn_: &Bound<'_, PyAny>,
        context: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Self::add_callback(slf, fn_, context)
    }

    /// Take all callbacks that are equal to `fn` out again; how many they were.
    #[pyo3(signature = (fn_, /), text_signature = "($self, fn, /)")]
    fn remove_done_callback(&self, fn_: &Bound<'_, PyAny>) -> PyResult<usize> {
        self.remove_callbacks(fn_)
    }

    /// The loop that runs in this thread, or the loop it was submitted on.
    fn get_loop<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(owner) = &self.owner {
            if owner.runs_here() {
                return Ok(owner.event_loop.bind(py).clone());
            }
        }
        if let Some(running) = running_loop(py)? {
            return Ok(running);
        }
        match &self.owner {
            Some(owner) => Ok(owner.event_loop.bind(py).clone()),
            None => Err(PyRuntimeError::new_err("no running event loop")),
        }
    }

    #[getter(_asyncio_future_blocking)]
    fn is_blocking(&self) -> bool {
        // Tasks of several threads may come to wait between the setting and the look: then one flag does not tell whose it is.
        cfg!(Py_GIL_DISABLED) || self.blocking.load(Ordering::Relaxed)
    }

    #[setter(_asyncio_future_blocking)]
    fn set_blocking(&self, value: bool) {
        self.blocking.store(value, Ordering::Relaxed);
    }

    /// What `cancel()` was given; `asyncio.gather()` asks for it.
    #[getter]
    fn _cancel_message<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let message = lock(&self.state).cancel_message.clone();
        message.map(|message| message.bind(py).clone())
    }

    fn _make_cancelled_error<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.cancelled_error(py)
            .into_value(py)
            .into_bound(py)
            .into_any()
    }

    /// The deadline has passed.
    fn _expire(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::expire(slf)
    }

    /// Look after the deadline, on the thread of the loop.
    fn _arm(slf: &Bound<'_, Self>, seconds: f64) -> PyResult<()> {
        let this = slf.get();
        match (&this.owner, this.peek()) {
            (Some(owner), None) => this.arm(slf, owner, waiting::seconds(seconds)?),
            _ => Ok(()),
        }
    }

    fn __await__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let waiting = Await(slf.into());
        let coroutine = coroutine::new(waiting, c"NativeAwaitable.__await__")?;
        // SAFETY: an owned reference.
        Ok(unsafe { Bound::from_owned_ptr(slf.py(), coroutine.into_ptr()) }.unbind())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let this = slf.get();
        let state = match this.peek() {
            None => "pending",
            Some(FutureResult::Value(_)) => "finished",
            Some(FutureResult::Error(_)) => "failed",
            Some(FutureResult::Cancelled) => "cancelled",
        };
        let name = slf.get_type().name()?;
        let kernel = this.work().map_or("", Work::kernel);
        Ok(format!("<{name} '{kernel}' {state}>"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(owner) = &self.owner {
            owner.event_loop.visit(&visit)?;
        }
        let Ok(state) = self.state.try_lock() else {
            return Ok(());
        };
        state.guards.traverse(|object| object.visit(&visit))?;
        if let Some(object) = state.result.as_ref().and_then(FutureResult::object) {
            object.visit(&visit)?;
        }
        for object in state.timer.iter().chain(&state.cancel_message) {
            object.visit(&visit)?;
        }
        for known in &state.callbacks {
            known.handle.event_loop.visit(&visit)?;
            known.function.visit(&visit)?;
            known.context.visit(&visit)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        // What jobs under way need stays: a queue holds those, so they are not garbage.
        let mut state = lock(&self.state);
        let callbacks = std::mem::take(&mut state.callbacks);
        let (timer, message) = (state.timer.take(), state.cancel_message.take());
        drop(state);
        drop((callbacks, timer, message));
    }
}
