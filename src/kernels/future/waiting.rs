//! Waiting: `await`, and threads without a loop, which block.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyTimeoutError, PyValueError};
use pyo3::prelude::*;

use crate::kernels::completion_queue::drain_detached;
use crate::kernels::future::NativeAwaitable;
use crate::kernels::loop_handle::running_loop;
use crate::kernels::result::FutureResult;
use crate::python::coroutine::{Class, Kind, Operation, Step, Visit};
use crate::python::finalization::hang_at_exit;
use crate::python::stdlib::Stdlib;
use crate::python::{FfiResult, Ref};

/// How long a thread that waits goes without looking for signals.
const SIGNALS_EVERY: Duration = Duration::from_millis(50);

impl NativeAwaitable {
    /// Waits, in a thread that runs no loop.
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
        let timeout = timeout.map(seconds).transpose()?;
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let slice = Instant::now() + SIGNALS_EVERY;
            let next = until.map_or(slice, |until| until.min(slice));
            let over = py.detach(|| self.work().is_some_and(|work| work.wait(Some(next))));
            if over {
                self.finish_here(py);
            }
            if let Some(result) = self.peek() {
                return Ok(result);
            }
            py.check_signals()?;
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(PyTimeoutError::new_err(()));
            }
        }
    }
}

/// A number of seconds that somebody waits at most.
pub fn seconds(timeout: f64) -> PyResult<Duration> {
    if timeout.is_nan() {
        return Err(PyValueError::new_err("timeout must not be NaN"));
    }
    Ok(Duration::try_from_secs_f64(timeout.max(0.0)).unwrap_or(Duration::MAX))
}

/// `await`: one that waits.
pub struct Await(pub Ref);

static CLASS: Class = Class::new();

impl Operation for Await {
    const KIND: Kind = Kind::Iterator;

    fn class() -> &'static Class {
        &CLASS
    }

    fn step(&self) -> FfiResult<Step> {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        let slf = self
            .0
            .bind(py)
            .cast::<NativeAwaitable>()
            .map_err(PyErr::from)?;
        let this = slf.get();
        this.check_process(py)?;
        match this.peek() {
            Some(result) => Ok(Step::Done(this.into_value(py, result)?)),
            None => Ok(Step::Wait(self.0.clone())),
        }
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        visit(&self.0)
    }
}

/// Makes the class of what waits.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    CLASS.init::<Await>(module.py(), c"hybridloop._core.NativeWait")
}
