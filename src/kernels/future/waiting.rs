//! Waiting for a `NativeAwaitable`: `await`, and threads without a loop, which block.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyTimeoutError;
use pyo3::prelude::*;

use crate::kernels::detached::drain_detached;
use crate::kernels::future::state::NativeAwaitable;
use crate::kernels::loop_handle::running_loop;
use crate::kernels::numbers::duration;
use crate::kernels::result::FutureResult;
use crate::python::coroutine::{Class, Kind, Operation, Step, Visit};
use crate::python::finalization::hang_at_exit;
use crate::python::stdlib::Stdlib;
use crate::python::{FfiResult, Ref};

/// How often a blocked thread checks for signals.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

impl NativeAwaitable {
    /// Blocks until the work is done, in a thread that runs no loop.
    pub(super) fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<FutureResult> {
        hang_at_exit();
        drain_detached(py);
        if let Some(result) = self.poll_result(py)? {
            return Ok(result);
        }
        self.check_process(py)?;
        if running_loop(py)?.is_some() {
            let class = Stdlib::get().invalid_state_error.bind(py);
            let text = "the job is not done, and an event loop runs in this thread, which waiting would block: await the job";
            return Err(PyErr::from_value(class.call1((text,))?));
        }
        let timeout = timeout.map(duration).transpose()?;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let slice = Instant::now() + SIGNAL_INTERVAL;
            let until = deadline.map_or(slice, |deadline| deadline.min(slice));
            let is_done = py.detach(|| self.work().is_some_and(|work| work.wait(Some(until))));
            if is_done {
                self.finish_here(py);
            }
            if let Some(result) = self.peek() {
                return Ok(result);
            }
            py.check_signals()?;
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(PyTimeoutError::new_err(()));
            }
        }
    }
}

/// `await`: the iterator that `__await__()` returns.
pub struct Await(pub Ref);

static CLASS: Class = Class::new();

impl Operation for Await {
    const KIND: Kind = Kind::Iterator;

    fn class() -> &'static Class {
        &CLASS
    }

    fn step(&self) -> FfiResult<Step> {
        // SAFETY: the coroutine calls `step()` from `send()`, which CPython calls attached.
        let py = unsafe { Python::assume_attached() };
        let slf = self
            .0
            .bind(py)
            .cast::<NativeAwaitable>()
            .map_err(PyErr::from)?;
        let this = slf.get();
        this.check_process(py)?;
        match this.peek() {
            Some(result) => Ok(Step::Done(this.unwrap_result(py, result)?)),
            None => Ok(Step::Wait(self.0.clone())),
        }
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        visit(&self.0)
    }
}

/// Creates the class of the iterator.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    CLASS.init::<Await>(module.py(), c"hybridloop._core.NativeWait")
}
