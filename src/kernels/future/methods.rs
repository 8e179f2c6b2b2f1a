//! The methods of `NativeAwaitable` that Python calls.

use std::sync::atomic::Ordering;

use hybridloop_sync::primitives::lock;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::types::{PyGenericAlias, PyType};
use pyo3::PyTraverseError;

use crate::kernels::exceptions::cannot_pickle;
use crate::kernels::future::state::NativeAwaitable;
use crate::kernels::future::waiting::Await;
use crate::kernels::future::work::Work;
use crate::kernels::loop_handle::{running_loop, LoopHandle};
use crate::kernels::numbers::duration;
use crate::kernels::result::FutureResult;
use crate::python::coroutine;
use crate::python::{normalized, Ref};

#[pymethods]
impl NativeAwaitable {
    /// Raises `TypeError`: the object belongs to this process.
    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        Err(cannot_pickle(slf.as_any()))
    }

    #[classmethod]
    #[pyo3(signature = (item, /))]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyGenericAlias>> {
        PyGenericAlias::new(cls.py(), cls, item)
    }

    /// Whether there is a result: the kernel has returned, or will not run.
    fn done(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.poll_result(py)?.is_some())
    }

    /// Whether it is done and was cancelled.
    fn cancelled(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(matches!(
            self.poll_result(py)?,
            Some(FutureResult::Cancelled)
        ))
    }

    /// Request cancellation; return False if it is done already.
    ///
    /// A queued job never runs. A running kernel sees `cancelled()`, and the job is cancelled when the kernel returns; with
    /// `cancel_policy="detach"` the job is cancelled at once, and its buffers stay in use until the kernel returns.
    #[pyo3(signature = (msg=None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let this = slf.get();
        let Some(work) = this.work() else {
            return Ok(false);
        };
        if this.peek().is_some() {
            return Ok(false);
        }
        // Before the end, which another thread may dispatch.
        let before = std::mem::replace(&mut lock(&this.state).cancel_requested, true);
        let mut requested = false;
        for job in work.jobs() {
            requested |= job.cancel();
        }
        if !requested {
            lock(&this.state).cancel_requested = before;
            return Ok(false);
        }
        let before = std::mem::replace(&mut lock(&this.state).cancel_message, msg.map(Ref::from));
        drop(before);
        if this.detach && !work.is_done() {
            this.finish_early(slf, FutureResult::Cancelled)?;
        }
        Ok(true)
    }

    /// Return the result, or raise the exception.
    ///
    /// In a thread that runs no event loop, wait until it is done; raise `TimeoutError` after `timeout` seconds. In a thread
    /// that runs a loop, raise `asyncio.InvalidStateError` if it is not done: await it there.
    #[pyo3(signature = (timeout=None))]
    fn result<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let result = match self.peek() {
            Some(result) => result,
            None => self.wait(py, timeout)?,
        };
        Ok(self.unwrap_result(py, result)?.into_bound(py))
    }

    /// Return the exception, or None; wait as `result()` does.
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
                self.mark_retrieved();
                Ok(Some(error.bind(py).clone().unbind()))
            }
        }
    }

    /// Schedule `fn(self)` when it is done, on the loop that runs in this thread, or else on the loop it was submitted on. Without
    /// either, a thread of hybridloop calls it, or this one if it is done.
    #[pyo3(signature = (fn_, /, *, context=None), text_signature = "($self, fn, /, *, context=None)")]
    fn add_done_callback(
        slf: &Bound<'_, Self>,
        fn_: &Bound<'_, PyAny>,
        context: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        slf.get().check_process(slf.py())?;
        Self::add_callback(slf, fn_, context)
    }

    /// Call `fn(self)` when it is done, in a thread of hybridloop, or now if it is done.
    #[pyo3(signature = (fn_, /), text_signature = "($self, fn, /)")]
    fn _add_thread_callback(slf: &Bound<'_, Self>, fn_: &Bound<'_, PyAny>) -> PyResult<()> {
        slf.get().check_process(slf.py())?;
        let handle = LoopHandle::callback_thread(slf.py())?;
        Self::add_callback_on(slf, handle, fn_, None)
    }

    /// For `concurrent.futures`.
    #[getter]
    fn _condition<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::view(slf)?.call_method1("publish", (slf,))
    }

    /// For `concurrent.futures`.
    #[getter]
    fn _state<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::view(slf)?.call_method1("state_of", (slf,))
    }

    /// For `concurrent.futures`.
    #[getter]
    fn _waiters<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::view(slf)?.call_method1("waiters_of", (slf,))
    }

    /// Remove all callbacks that are equal to `fn`; return how many.
    #[pyo3(signature = (fn_, /), text_signature = "($self, fn, /)")]
    fn remove_done_callback(&self, fn_: &Bound<'_, PyAny>) -> PyResult<usize> {
        self.remove_callbacks(fn_)
    }

    /// The loop that runs in this thread, or else the loop it was submitted on.
    fn get_loop<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(owner) = &self.owner {
            if owner.runs_here() {
                return Ok(owner.object().bind(py).clone());
            }
        }
        if let Some(running) = running_loop(py)? {
            return Ok(running);
        }
        match &self.owner {
            Some(owner) => Ok(owner.object().bind(py).clone()),
            None => Err(PyRuntimeError::new_err("no running event loop")),
        }
    }

    #[getter(_asyncio_future_blocking)]
    fn is_blocking(&self) -> bool {
        // Without the GIL, tasks of several threads may set the flag before the first of them reads it.
        cfg!(Py_GIL_DISABLED) || self.blocking.load(Ordering::Relaxed)
    }

    #[setter(_asyncio_future_blocking)]
    fn set_blocking(&self, value: bool) {
        self.blocking.store(value, Ordering::Relaxed);
    }

    /// The message of `cancel()`; `asyncio.gather()` reads it.
    #[getter]
    fn _cancel_message<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let message = lock(&self.state).cancel_message.clone();
        message.map(|message| message.bind(py).clone())
    }

    fn _make_cancelled_error<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        normalized(self.cancelled_error(py))
            .into_value(py)
            .into_bound(py)
            .into_any()
    }

    /// The deadline has passed.
    fn _expire(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::expire(slf)
    }

    /// Start the timer of the deadline, on the loop's thread.
    fn _start_timer(slf: &Bound<'_, Self>, seconds: f64) -> PyResult<()> {
        let this = slf.get();
        match (&this.owner, this.peek()) {
            (Some(owner), None) => Self::start_timer(slf, owner, duration(seconds)?),
            _ => Ok(()),
        }
    }

    fn __await__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let iterator = coroutine::new(Await(slf.into()), c"NativeAwaitable.__await__")?;
        Ok(iterator.into_bound(slf.py()))
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

    /// Reports an exception that was never retrieved. The collector calls this before it clears any object of the garbage; when
    /// it drops the future, the exception may have been cleared already.
    fn __del__(&self, py: Python<'_>) {
        self.report_unretrieved(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(owner) = &self.owner {
            owner.object().visit(&visit)?;
        }
        let Ok(state) = self.state.try_lock() else {
            return Ok(());
        };
        state.guards.traverse(|object| object.visit(&visit))?;
        if let Some(object) = state.result.as_ref().and_then(FutureResult::object) {
            object.visit(&visit)?;
        }
        let objects = state.timer.iter().chain(&state.cancel_message);
        for object in objects.chain(&state.view) {
            object.visit(&visit)?;
        }
        for callback in &state.callbacks {
            callback.handle.object().visit(&visit)?;
            callback.function.visit(&visit)?;
            callback.context.visit(&visit)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        // The result and the guards stay: while the work is not done, a queue holds the future, so it is no garbage.
        let mut state = lock(&self.state);
        let callbacks = std::mem::take(&mut state.callbacks);
        let (timer, message) = (state.timer.take(), state.cancel_message.take());
        let view = state.view.take();
        drop(state);
        drop((callbacks, timer, message, view));
    }
}
