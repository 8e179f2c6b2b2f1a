//! The attributes and cold methods of `LoopCore` that Python sees.
//!
//! `asyncio.BaseEventLoop` keeps its state in attributes such as `_closed` and `_debug`. Those that the core needs are
//! descriptors here, so that inherited code and the core use the same value.

use std::time::Duration;

use hybridloop_sync::tsc::{ns_to_ticks, seconds_to_ticks, ticks_to_seconds};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::types::PyTuple;
use pyo3::PyTraverseError;

use crate::event_loop::{current_thread, overrides, run_once, LoopCore};
use crate::python::finalization::hang_at_exit;
use crate::python::handle::{visit_owned, HandleRef};
use crate::python::Ref;

fn get_or_none(py: Python<'_>, slot: Option<Ref>) -> Bound<'_, PyAny> {
    slot.map_or_else(
        || py.None().into_bound(py),
        |object| object.bind(py).clone(),
    )
}

fn some_unless_none(value: &Bound<'_, PyAny>) -> Option<Ref> {
    (!value.is_none()).then(|| value.into())
}

#[pymethods]
impl LoopCore {
    #[new]
    #[pyo3(signature = (*args, **_kwargs))]
    fn new(args: &Bound<'_, PyAny>, _kwargs: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        hang_at_exit();
        Self::create(args.py())
    }

    fn __setattr__(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        overrides::set_attribute(slf, name, Some(value))
    }

    fn __delattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyAny>) -> PyResult<()> {
        overrides::set_attribute(slf, name, None)
    }

    /// Runs iterations until `stop()` is called; called by the inherited `run_forever()`. For other callers it runs one
    /// iteration.
    fn _run_once(slf: &Bound<'_, Self>) -> PyResult<()> {
        run_once::run_once(slf)
    }

    /// Polls; called by the selector's `select()`.
    #[pyo3(signature = (timeout=None))]
    fn _select(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<()> {
        slf.get().select(slf.py(), timeout)
    }

    #[getter(_select_replaced)]
    fn get_select_replaced(&self) -> bool {
        self.is_select_replaced()
    }

    /// Sets whether the loop polls by its selector's `select()`.
    #[setter(_select_replaced)]
    fn put_select_replaced(&self, value: bool) {
        self.set_select_replaced(value);
    }

    /// Keeps other threads from running or closing the loop. Returns a number for `_unlock_run()`. Raises
    /// `RuntimeError(refusal)` if another thread has done so, and during an iteration.
    fn _lock_run(&self, refusal: &str) -> PyResult<u64> {
        if self.is_iterating() {
            return Err(PyRuntimeError::new_err(refusal.to_owned()));
        }
        self.lock_run(refusal)
    }

    fn _unlock_run(&self, before: u64) {
        self.unlock_run(before);
    }

    /// Drops pending callbacks and closes the poller; called at the end of `close()`.
    fn _close_core(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        if this.is_iterating() || this.is_running() {
            return Err(PyRuntimeError::new_err("Cannot close a running event loop"));
        }
        this.close();
        Ok(())
    }

    /// The fields of `LoopStats`.
    fn _stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        self.stats_tuple(py)
    }

    /// Wakes the loop from any thread.
    fn _write_to_self(&self) {
        if self.inbox.notify() {
            self.wake();
        }
    }

    #[getter(_closed)]
    fn get_closed(&self) -> bool {
        self.closed.get()
    }

    #[setter(_closed)]
    fn set_closed(&self, value: bool) {
        self.closed.set(value);
    }

    #[getter(_stopping)]
    fn get_stopping(&self) -> bool {
        self.stopping.get()
    }

    #[setter(_stopping)]
    fn set_stopping(&self, value: bool) {
        self.stopping.set(value);
    }

    #[getter(_debug)]
    fn get_debug(&self) -> bool {
        self.debug.get()
    }

    #[setter(_debug)]
    fn set_debug(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.debug.set(value.is_truthy()?);
        self.update_run_path();
        Ok(())
    }

    #[getter(_thread_id)]
    fn get_thread_id(&self) -> Option<u64> {
        Some(self.thread_id.get()).filter(|id| *id != 0)
    }

    #[setter(_thread_id)]
    fn set_thread_id(&self, value: Option<u64>) {
        // In a green thread `threading.get_ident()` returns another number.
        self.thread_id.set(match value {
            Some(_) if self.green_threads => current_thread(),
            value => value.unwrap_or(0),
        });
    }

    #[getter(_task_factory)]
    fn get_task_factory<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        get_or_none(py, self.task_factory.get())
    }

    #[setter(_task_factory)]
    fn set_task_factory(&self, value: &Bound<'_, PyAny>) {
        drop(self.task_factory.replace(some_unless_none(value)));
    }

    #[getter(_current_handle)]
    fn get_current_handle<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        get_or_none(py, self.current_handle.get())
    }

    #[setter(_current_handle)]
    fn set_current_handle(&self, value: &Bound<'_, PyAny>) {
        drop(self.current_handle.replace(some_unless_none(value)));
    }

    /// The duration in seconds from which debug mode logs a callback as slow.
    #[getter]
    fn get_slow_callback_duration<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        get_or_none(py, self.slow_callback_duration.get())
    }

    #[setter]
    fn set_slow_callback_duration(&self, value: &Bound<'_, PyAny>) {
        drop(self.slow_callback_duration.replace(Some(value.into())));
    }

    /// The longest time in seconds for which a busy loop may run without polling.
    #[getter]
    fn get_poll_skip_interval(&self) -> f64 {
        self.poll_skip_interval.get()
    }

    #[setter]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn set_poll_skip_interval(&self, value: f64) {
        // The conversion clamps: NaN and negative numbers to 0, large ones to the largest.
        self.poll_skip_ticks.set(ns_to_ticks((value * 1e9) as u64));
        self.poll_skip_interval.set(value);
    }

    /// The number of iterations for which a busy loop may run without polling.
    #[getter]
    fn get_poll_skip_iterations(&self) -> u32 {
        self.poll_skip_iterations.get()
    }

    #[setter]
    fn set_poll_skip_iterations(&self, value: u32) {
        self.poll_skip_iterations.set(value);
    }

    /// For how many seconds the loop polls again and again, without the interpreter, before it sleeps; 0 by default.
    #[getter]
    fn get_busy_poll(&self) -> f64 {
        self.busy_poll.get().as_secs_f64()
    }

    #[setter]
    fn set_busy_poll(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let time = Duration::try_from_secs_f64(value.extract()?).map_err(|_| {
            PyValueError::new_err(format!(
                "busy_poll must be a number of seconds that is not negative, not {value}"
            ))
        })?;
        self.busy_poll.set(time);
        Ok(())
    }

    /// The longest time in seconds for which writes of a running callback are corked. It applies to connections that are made
    /// later. 0 sends every write at once.
    #[getter]
    fn get_cork_interval(&self) -> f64 {
        ticks_to_seconds(self.cork.get())
    }

    #[setter]
    fn set_cork_interval(&self, value: f64) {
        self.cork.set(seconds_to_ticks(value));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        fn handles<'a>(
            mut all: impl Iterator<Item = &'a HandleRef>,
            visit: &PyVisit<'_>,
        ) -> Result<(), PyTraverseError> {
            all.try_for_each(|handle| visit_owned(handle, visit))
        }
        fn objects<'a>(
            mut all: impl Iterator<Item = &'a Ref>,
            visit: &PyVisit<'_>,
        ) -> Result<(), PyTraverseError> {
            all.try_for_each(|object| object.visit(visit))
        }
        if !self.is_running() && self.inbox.is_pending() {
            // The inbox cannot be traversed, the ready queue can.
            self.drain_inbox();
        }
        self.ready
            .with_taken(|ready| handles(ready.iter(), &visit))?;
        self.timers.with(|timers| handles(timers.iter(), &visit))?;
        self.handle_pool.with(|handle_pool| {
            objects(
                handle_pool.last().map(HandleRef::as_object).into_iter(),
                &visit,
            )
        })?;
        for pending in [&self.to_flush, &self.to_resume] {
            pending.with_taken(|list| objects(list.iter().map(|source| &source.object), &visit))?;
        }
        self.contexts
            .with(|contexts| objects(contexts.iter(), &visit))?;
        self.descriptors.with(|all| all.traverse(&visit))?;
        self.lookups.each(|future| future.visit(&visit))?;
        if let Some(completions) = self.completions() {
            completions.traverse(&mut |object| object.visit(&visit))?;
        }
        for slot in [
            &self.slow_callback_duration,
            &self.task_factory,
            &self.current_handle,
            &self.future_keywords,
            &self.transport_class,
        ] {
            slot.visit(&visit)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.close();
        drop(self.slow_callback_duration.take());
        drop(self.task_factory.take());
        drop(self.current_handle.take());
        drop(self.future_keywords.take());
        drop(self.transport_class.take());
    }
}
