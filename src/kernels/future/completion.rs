//! How a `NativeAwaitable` ends: by what has come in, early, or seen first by a thread that looks for itself.

use pyo3::ffi;
use pyo3::prelude::*;

use crate::kernels::completion_queue::{detached_queue, drain_detached, lock};
use crate::kernels::exceptions::forked;
use crate::kernels::future::callbacks::call_all;
use crate::kernels::future::{NativeAwaitable, Work};
use crate::kernels::loop_handle::{running_loop, LoopHandle};
use crate::kernels::result::FutureResult;
use crate::python::stdlib::Stdlib;
use crate::python::Ref;

impl NativeAwaitable {
    /// Sets the result of the work, unless the future has one already.
    pub(super) fn finish(&self, py: Python<'_>) {
        if lock(&self.state).result.is_some() {
            return;
        }
        let Some(work) = self.work() else { return };
        let result = work
            .outcome(py)
            .unwrap_or_else(|error| FutureResult::error(py, error));
        self.set_result(result);
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

    /// Sets a result before the kernel has returned. Its buffers stay pinned until it returns.
    pub(super) fn finish_early(&self, slf: &Bound<'_, Self>, result: FutureResult) -> PyResult<()> {
        let py = slf.py();
        if !self.set_result(result) {
            return Ok(());
        }
        let callbacks = self.take_callbacks(|_| true);
        let called = call_all(py, callbacks, slf.as_any(), false);
        let here = LoopHandle::running(py)?;
        let none = detached_queue();
        let queue = here.as_ref().map_or(&none, |handle| &handle.queue);
        crate::kernels::job::ended(py, &slf.into(), queue)?;
        called
    }

    /// The deadline has passed.
    pub(super) fn expire(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let Some(work) = this.work() else {
            return Ok(());
        };
        if !this.is_here() {
            return Ok(());
        }
        for job in work.jobs() {
            job.expire();
        }
        if this.detach && !work.is_over() {
            let result = FutureResult::timed_out(slf.py(), work.kernel());
            this.finish_early(slf, result)?;
        }
        Ok(())
    }

    /// Lets go of what the kernels have used and of the timer.
    pub(super) fn release(&self) {
        let mut state = lock(&self.state);
        let (guards, timer) = (std::mem::take(&mut state.guards), state.timer.take());
        drop(state);
        drop(guards);
        if let Some(timer) = timer {
            // SAFETY: whoever releases is attached.
            let py = unsafe { Python::assume_attached() };
            if let Err(error) = timer.bind(py).call_method0("cancel") {
                error.write_unraisable(py, None);
            }
        }
    }

    /// Whether this process has submitted it.
    #[inline]
    pub fn is_here(&self) -> bool {
        self.process.is_here()
    }

    /// Refuses in the child of a fork, where nobody is told of what the parent has submitted, unless it was over before.
    #[inline]
    pub fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_here() || self.poll_result(py)?.is_some() {
            return Ok(());
        }
        Err(forked(py, self.work().map_or("job", Work::describe)))
    }

    /// How it has ended. A thread without a loop, which cannot be told, looks for itself.
    pub(super) fn poll_result(&self, py: Python<'_>) -> PyResult<Option<FutureResult>> {
        if let Some(result) = self.peek() {
            return Ok(Some(result));
        }
        if self.work().is_some_and(Work::is_over)
            && (!self.is_here() || running_loop(py)?.is_none())
        {
            self.finish_here(py);
        }
        Ok(self.peek())
    }

    /// It is over, and this thread has seen it first.
    pub(super) fn finish_here(&self, py: Python<'_>) {
        self.finish(py);
        self.release();
        if let (None, Some(work)) = (&self.owner, self.work()) {
            // No loop has to be told, so nothing keeps it.
            drop(detached_queue().deregister(work));
            drain_detached(py);
        }
    }

    pub fn peek(&self) -> Option<FutureResult> {
        lock(&self.state).result.clone()
    }

    pub(super) fn retrieve(&self) {
        lock(&self.state).retrieved = true;
    }

    /// The result, or the exception that it has ended with.
    pub fn into_value(&self, py: Python<'_>, result: FutureResult) -> PyResult<Ref> {
        match result {
            FutureResult::Value(value) => Ok(value),
            FutureResult::Cancelled => Err(self.cancelled_error(py)),
            FutureResult::Error(error) => {
                self.retrieve();
                // The same exception may be raised to many: none gets the frames of the others.
                // SAFETY: attached; the exception is live.
                unsafe { ffi::PyException_SetTraceback(error.as_ptr(), ffi::Py_None()) };
                Err(PyErr::from_value(error.bind(py).clone()))
            }
        }
    }

    pub(super) fn cancelled_error(&self, py: Python<'_>) -> PyErr {
        let class = Stdlib::get().cancelled_error.bind(py);
        let message = lock(&self.state).cancel_message.clone();
        let made = match message {
            Some(message) => class.call1((message.bind(py),)),
            None => class.call0(),
        };
        made.map_or_else(|error| error, PyErr::from_value)
    }
}
