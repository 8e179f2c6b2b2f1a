//! How a `NativeAwaitable` gets its result: from a queue that dispatches the end of its work, from a thread without a loop that
//! finds the work done, or early, by a cancellation or a timeout.

use hybridloop_sync::primitives::lock;
use pyo3::prelude::*;

use crate::kernels::completion_queue::CompletionQueue;
use crate::kernels::detached::{detached_queue, drain_detached};
use crate::kernels::exceptions::forked_error;
use crate::kernels::future::callbacks::schedule;
use crate::kernels::future::state::{Callback, NativeAwaitable};
use crate::kernels::future::work::Work;
use crate::kernels::loop_handle::{running_loop, LoopHandle};
use crate::kernels::result::FutureResult;
use crate::python::Ref;

impl NativeAwaitable {
    /// Sets what it waits for, which was submitted just now, and registers it with its queue.
    pub fn begin(slf: &Bound<'_, Self>, work: Work) {
        let this = slf.get();
        let work = this.work.get_or_init(|| work);
        let queue = this.queue();
        drop(queue.register(work.id(), this.pending(slf)));
        let runs_here = this.owner.as_ref().is_some_and(LoopHandle::runs_here);
        if work.is_done() && (work.jobs().is_empty() || !runs_here) {
            // Another thread may have dispatched the end before the future was registered; an empty batch has no end at all.
            work.subscribe(queue.events().clone());
        }
    }

    /// A queue has dispatched the end of the work.
    pub fn completed(py: Python<'_>, object: &Ref, queue: &CompletionQueue) -> PyResult<()> {
        let slf = object.bind(py).cast::<Self>()?;
        let this = slf.get();
        this.finish(py);
        this.release(py);
        let is_queue = |handle: &LoopHandle| std::ptr::eq(&raw const *handle.queue, queue);
        let callbacks = this.take_callbacks(|callback: &Callback| is_queue(&callback.handle));
        let scheduled = schedule(py, callbacks, object, true);
        if this.owner.as_ref().is_none_or(is_queue) {
            (this.vtable.ended)(py, object, queue)?;
        }
        scheduled
    }

    /// The loop of its queue was closed: it is registered with the queue of detached jobs.
    pub fn detached(py: Python<'_>, object: &Ref) {
        let Ok(slf) = object.bind(py).cast::<Self>() else {
            return;
        };
        let this = slf.get();
        let Some(work) = this.work() else { return };
        let queue = detached_queue();
        drop(queue.register(work.id(), this.pending(slf)));
        for job in work.jobs() {
            // Their events go to the loop. A kernel that waits until they are taken goes on.
            job.discard_items();
        }
        work.subscribe(queue.events().clone());
    }

    /// Sets the result of the work, unless the future has one already.
    fn finish(&self, py: Python<'_>) {
        let state = lock(&self.state);
        let (is_set, cancel_requested) = (state.result.is_some(), state.cancel_requested);
        drop(state);
        let Some(work) = self.work().filter(|_| !is_set) else {
            return;
        };
        let result = if cancel_requested && work.was_cancelled() {
            // Also if exceptions are results, as with `asyncio.gather()`: a task that waits must not lose its cancellation.
            FutureResult::Cancelled
        } else {
            work.result(py)
                .unwrap_or_else(|error| FutureResult::error(py, error))
        };
        self.set_result(result);
    }

    /// Sets a result before the kernel has returned. The guards of its buffers stay until it returns.
    pub(super) fn finish_early(&self, slf: &Bound<'_, Self>, result: FutureResult) -> PyResult<()> {
        let py = slf.py();
        if !self.set_result(result) {
            return Ok(());
        }
        let callbacks = self.take_callbacks(|_| true);
        let object = slf.into();
        let scheduled = schedule(py, callbacks, &object, false);
        let running = LoopHandle::running(py)?;
        let queue = running.map_or_else(detached_queue, |handle| handle.queue);
        (self.vtable.ended)(py, &object, &queue)?;
        scheduled
    }

    /// Sets the result in a thread that has found the work done.
    pub(super) fn finish_here(&self, py: Python<'_>) {
        self.finish(py);
        self.release(py);
        if let (None, Some(work)) = (&self.owner, self.work()) {
            // No loop waits for the event, so the queue need not hold the future.
            drop(detached_queue().deregister(work.id()));
            drain_detached(py);
        }
    }

    /// Drops the guards of the buffers and the engine, and cancels the timer.
    fn release(&self, py: Python<'_>) {
        let mut state = lock(&self.state);
        let (guards, timer) = (std::mem::take(&mut state.guards), state.timer.take());
        let engine = state.engine.take();
        drop(state);
        drop((guards, engine));
        if let Some(timer) = timer {
            if let Err(error) = timer.bind(py).call_method0("cancel") {
                error.write_unraisable(py, None);
            }
        }
    }

    /// The result, if the work is done. In a thread that runs a loop the result is set by the queue only, as with other
    /// futures; a thread without a loop sets it here.
    pub(super) fn poll_result(&self, py: Python<'_>) -> PyResult<Option<FutureResult>> {
        if let Some(result) = self.peek() {
            return Ok(Some(result));
        }
        if self.work().is_some_and(Work::is_done)
            && (!self.is_current_process() || running_loop(py)?.is_none())
        {
            self.finish_here(py);
        }
        Ok(self.peek())
    }

    /// Fails in the child of a fork, where no event of the parent's jobs arrives, unless the work was done before the fork.
    #[inline]
    pub fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_current_process() || self.poll_result(py)?.is_some() {
            return Ok(());
        }
        Err(forked_error(py, self.work().map_or("job", Work::describe)))
    }
}
