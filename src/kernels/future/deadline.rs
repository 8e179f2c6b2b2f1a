//! The timeout of a `NativeAwaitable`: a timer of the loop that the work was submitted on. A running kernel checks its deadline
//! itself; the timer ends jobs that are still queued then. With `cancel_policy="detach"` it also gives the future its result
//! while the kernel runs.

use std::time::Duration;

use hybridloop_sync::primitives::lock;
use pyo3::prelude::*;

use crate::kernels::future::state::NativeAwaitable;
use crate::kernels::loop_handle::{running_loop, LoopHandle};
use crate::kernels::result::FutureResult;

impl NativeAwaitable {
    /// Starts the timer, if there is a timeout and a loop.
    pub fn start_timeout(slf: &Bound<'_, Self>, timeout: Option<Duration>) -> PyResult<()> {
        match (timeout, &slf.get().owner) {
            (Some(timeout), Some(owner)) => Self::start_timer(slf, owner, timeout),
            _ => Ok(()),
        }
    }

    pub(super) fn start_timer(
        slf: &Bound<'_, Self>,
        owner: &LoopHandle,
        timeout: Duration,
    ) -> PyResult<()> {
        let py = slf.py();
        if timeout.is_zero() {
            return Self::expire(slf);
        }
        let expire = slf.getattr("_expire")?;
        // The deadline of the job was computed before, with a clock that is finer than the loop's: the timer must not fire
        // before it.
        let seconds = timeout.as_secs_f64() + 1e-6;
        let event_loop = owner.object().bind(py);
        let runs_here =
            owner.runs_here() || running_loop(py)?.is_none_or(|running| running.is(event_loop));
        if !runs_here {
            let start = slf.getattr("_start_timer")?;
            event_loop.call_method1("call_soon_threadsafe", (start, seconds))?;
            return Ok(());
        }
        let timer = event_loop.call_method1("call_later", (seconds, expire))?;
        let before = lock(&slf.get().state).timer.replace(timer.into());
        drop(before);
        Ok(())
    }

    /// The deadline has passed.
    pub(super) fn expire(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let Some(work) = this.work() else {
            return Ok(());
        };
        if !this.is_current_process() {
            return Ok(());
        }
        for job in work.jobs() {
            job.expire();
        }
        if this.detach && !work.is_done() {
            let result = FutureResult::timed_out(slf.py(), work.kernel());
            this.finish_early(slf, result)?;
        }
        Ok(())
    }
}
