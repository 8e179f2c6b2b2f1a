//! The iterations of the loop.
//!
//! An iteration polls for I/O, then runs the handles that were ready before, then the callbacks of I/O events, then due timers
//! (the order of asyncio). At the end it sends the corked writes of streams.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hybridloop_reactor::{Event, Poller};
use hybridloop_sync::is_uniprocessor;
use hybridloop_sync::tsc::ticks;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::event_loop::handles::mark_unscheduled;
use crate::event_loop::stats::CallbackTimer;
use crate::event_loop::{current_thread, exceptions, CompletionSource, LoopContext, LoopCore};
use crate::python::context::Contexts;
use crate::python::finalization::hang_at_exit;
use crate::python::handle::{track_if_shared, HandlePool, HandleRef, CANCELLED, COUNTED};
use crate::python::package;
use crate::python::FfiResult;

/// How long a busy loop may run without polling …
pub const POLL_SKIP_NS: u64 = 50_000;
/// … and for how many iterations.
pub const POLL_SKIP_ITERATIONS: u32 = 16;

/// How long a running callback may cork writes: the default of `cork_interval`.
pub const CORK_NS: u64 = 1_000_000;

/// How often one iteration flushes. Streams that write again while they are flushed must not keep the loop from polling: their
/// last writes are sent in the next iteration.
const FLUSH_PASSES: u32 = 8;
/// The longest wait of one poll: a day, as in asyncio.
const MAX_WAIT_NS: u64 = 24 * 3600 * 1_000_000_000;

fn is_counted(timer: &HandleRef) -> bool {
    timer.has(COUNTED)
}

/// Called by `run_forever()`: runs iterations until `stop()`, or until an exception ends the loop. If it is called during an
/// iteration, or while the loop does not run, it runs one iteration, as in asyncio.
pub fn run_once(slf: &Bound<'_, LoopCore>) -> PyResult<()> {
    let (py, core, object) = (slf.py(), slf.get(), slf.as_ptr());
    let before = core.lock_run("This event loop is already running")?;
    let result = core.check_open().map_err(PyErr::from).and_then(|()| {
        if core.is_iterating() {
            return match package::run_on_stacks() {
                Some(run) => run.bind(py).call1((slf, true)).map(drop),
                None => core.iterate(py, object),
            };
        }
        hang_at_exit();
        core.iterating_process.set(u64::from(std::process::id()));
        // A loop that starts to run polls first.
        core.poll_next_iteration();
        core.stats.run_begins();
        let result = match package::run_on_stacks() {
            Some(run) => run.bind(py).call1((slf,)).map(drop),
            None => run_iterations(py, core, object),
        };
        core.stats.run_ends();
        core.on_stop();
        core.iterating_process.set(0);
        result
    });
    core.unlock_run(before);
    result
}

/// Runs iterations until the loop is stopped.
pub fn run_iterations(py: Python<'_>, core: &LoopCore, object: *mut PyObject) -> PyResult<()> {
    loop {
        core.iterate(py, object)?;
        if core.stopping.get() || !core.is_running() {
            return Ok(());
        }
    }
}

/// The current `select.select`.
pub fn select(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("select")?.getattr("select")
}

impl LoopCore {
    /// Keeps other threads from running or closing the loop until [`LoopCore::unlock_run`], which takes the returned number.
    /// asyncio's own check is a read followed by a write, so two threads may pass it at the same time.
    pub fn lock_run(&self, refusal: &str) -> PyResult<u64> {
        let me = current_thread();
        let before = self
            .running_thread
            .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
            .unwrap_or_else(|running| running);
        if before != 0 && before != me {
            return Err(PyRuntimeError::new_err(refusal.to_owned()));
        }
        Ok(before)
    }

    pub fn unlock_run(&self, before: u64) {
        self.running_thread.store(before, Ordering::Release);
    }

    /// Drops cached contexts and buffers, and makes the collector track the handles in the queues: a stopped loop may be
    /// garbage.
    fn on_stop(&self) {
        drop(Contexts::take_all(&self.contexts));
        self.spare_bytes.clear();
        if self.inbox.is_pending() {
            self.drain_inbox();
        }
        self.ready.with_taken(|ready| {
            for handle in ready.iter() {
                track_if_shared(handle, false);
            }
        });
    }

    /// Runs an iteration. After an exception, writes that are corked are still sent.
    #[inline]
    pub fn iterate(&self, py: Python<'_>, object: *mut PyObject) -> PyResult<()> {
        self.iteration(py, object).map_err(|raised| {
            let error = PyErr::from(raised);
            let flushed = self.flush_all(py, object);
            flushed.err().map_or(error, PyErr::from)
        })
    }

    fn iteration(&self, py: Python<'_>, object: *mut PyObject) -> FfiResult<()> {
        if self.inbox.is_pending() {
            self.drain_inbox();
        }
        self.stats.iteration();
        self.check_run_override();
        self.drop_cancelled_timers();
        self.poll_for_io(py, object)?;
        if self.lookups.is_pending() {
            self.lookups.deliver(object)?;
            self.stats.callbacks_begin();
        }
        if let Some(completions) = self.completions() {
            if completions.is_pending() {
                exceptions::report_unless_fatal(object, completions.dispatch(self.cx(py, object)))?;
                self.stats.callbacks_begin();
            }
        }
        if self.inbox.is_pending() {
            self.drain_inbox();
        }
        let ready = self.ready.len();
        let due = self.collect_due_timers(object)?;
        self.run_ready(py, object, ready)?;
        self.dispatch(py, object)?;
        if due > 0 && !self.stacks.ended.get() {
            let now = self.stats.callback_over();
            self.flush_if_due(py, object, now)?;
            self.run_ready(py, object, due)?;
        }
        self.flush_all(py, object)
    }

    /// Runs the `count` oldest handles, or fewer if a callback has run some of them by a nested iteration.
    fn run_ready(&self, py: Python<'_>, object: *mut PyObject, count: usize) -> FfiResult<()> {
        let mut timer = CallbackTimer::new();
        // Iterations on other stacks run the same handles.
        let budget = &self.stacks.budget;
        budget.set(count);
        while budget.get() > 0 {
            let Some(handle) = self.ready.pop_front() else {
                budget.set(0);
                break;
            };
            budget.set(budget.get() - 1);
            self.stats.callback();
            exceptions::report_unless_fatal(object, self.run_handle(object, handle))?;
            if budget.get() > 0 {
                if let Some(now) = self.stats.next_callback(&mut timer) {
                    self.flush_if_due(py, object, now)?;
                }
            }
        }
        Ok(())
    }

    /// Removes cancelled timers from the head of the heap, so that they do not wake the loop.
    fn drop_cancelled_timers(&self) {
        while let Some(timer) = self.timers.with(|timers| {
            let (_, timer) = timers.peek()?;
            if timer.has(CANCELLED) {
                timers.pop(is_counted)
            } else {
                None
            }
        }) {
            mark_unscheduled(&timer);
        }
    }

    /// Moves due timers to the end of the ready queue, and returns their number.
    fn collect_due_timers(&self, object: *mut PyObject) -> FfiResult<usize> {
        if self.timers.with(|timers| timers.is_empty()) {
            return Ok(0);
        }
        // SAFETY: `object` is the loop object of this core, which the caller of the iteration holds.
        let now = unsafe { self.latest_due(object)? };
        let due = self.timers.with(|timers| {
            self.ready.with_taken(|ready| {
                let before = ready.len();
                let due = timers.take_due(now, is_counted, ready);
                ready.range(before..).for_each(mark_unscheduled);
                due
            })
        });
        if due > 0 {
            self.stats.callbacks_begin();
        }
        Ok(due)
    }

    /// Polls. If nothing is ready, waits until an event, a timer or a wake-up.
    fn poll_for_io(&self, py: Python<'_>, object: *mut PyObject) -> FfiResult<()> {
        let busy = self.stopping.get()
            || !self.ready.is_empty()
            || !self.to_resume.is_empty()
            || !self.to_flush.is_empty()
            || !self.events.is_empty()
            // The inbox may have been cleared after this completion arrived.
            || self.completions().is_some_and(CompletionSource::is_pending);
        if busy {
            return self.poll_if_due(py, object);
        }
        let wait = match self
            .timers
            .with(|timers| timers.peek().map(|(when, _)| when))
        {
            None => None,
            Some(when) => {
                // SAFETY: `object` is the loop object of this core, which the caller of the iteration holds.
                let now = unsafe { self.now_for_timeout(object)? };
                if when <= now {
                    return self.poll_now(py, object);
                }
                Some(Duration::from_nanos((when - now).min(MAX_WAIT_NS)))
            }
        };
        if let Some(completions) = self.completions() {
            // Detached, so that other Python threads can run.
            if completions.should_spin()
                && py.detach(|| completions.spin(&|| self.inbox.is_pending()))
            {
                return self.poll_if_due(py, object);
            }
        }
        if self
            .handle_pool
            .with(|handle_pool| handle_pool.has_too_many())
        {
            let spare = self.handle_pool.with(HandlePool::trim);
            drop(spare);
        }
        drop(Contexts::take_all(&self.contexts));
        if self.is_select_replaced() {
            return self.poll_selector(object, wait);
        }
        self.wait_for_io(py, wait)
    }

    /// Polls, and waits for events if other threads have scheduled nothing.
    #[inline]
    pub fn wait_for_io(&self, py: Python<'_>, wait: Option<Duration>) -> FfiResult<()> {
        let busy = self.busy_poll.get();
        if busy.is_zero() || self.green_threads || is_uniprocessor() {
            return self.sleep(py, wait);
        }
        if self.busy_poll(py, wait.map_or(busy, |wait| wait.min(busy)))? {
            return Ok(());
        }
        self.sleep(py, wait.map(|wait| wait.saturating_sub(busy)))
    }

    /// Polls without waiting for so long. Returns whether something is to be done now.
    #[cold]
    fn busy_poll(&self, py: Python<'_>, time: Duration) -> FfiResult<bool> {
        self.stats.polling(true);
        let mut poller = self.poller.take();
        // Detached, so that other Python threads can run.
        let result = py.detach(|| {
            poller.as_mut().map_or(Ok(true), |poller| {
                poller.busy_poll(time, || self.inbox.is_pending())
            })
        });
        let found = result.as_ref().map_or(true, |found| *found);
        self.polled(py, poller, result.map(drop))?;
        if !found {
            // A signal does not interrupt a poll that does not wait.
            self.check_signals(py)?;
        }
        Ok(found)
    }

    /// Waits until an event, a wake-up or the end of the time.
    fn sleep(&self, py: Python<'_>, wait: Option<Duration>) -> FfiResult<()> {
        if !self.inbox.begin_poll() {
            return self.poll_nonblocking(py);
        }
        self.stats.polling(true);
        if self.green_threads {
            let waited = self.wait_with_green_threads(py, wait);
            self.inbox.end_poll();
            return waited.and_then(|()| self.poll_nonblocking(py));
        }
        let mut poller = self.poller.take();
        let result = py.detach(|| Self::poll(&mut poller, wait));
        self.inbox.end_poll();
        self.polled(py, poller, result)?;
        if self.stacks.waiting.get() > 0 {
            // A signal that came just before the wait: the stack that waits gets its exception, not the next callback.
            self.check_signals(py)?;
        }
        Ok(())
    }

    /// Waits in `select.select()`, which a green-thread library has replaced, so that other green threads can run.
    #[cold]
    fn wait_with_green_threads(&self, py: Python<'_>, wait: Option<Duration>) -> FfiResult<()> {
        let (none, seconds) = (PyTuple::empty(py), wait.map(|wait| wait.as_secs_f64()));
        select(py)?.call1(([self.registrar.selector()], &none, &none, seconds))?;
        Ok(())
    }

    /// Makes the next iteration poll. Called when a descriptor is registered: as in asyncio, its events are handled before the
    /// handles that callbacks of the next iteration schedule.
    pub fn poll_next_iteration(&self) {
        self.polls_skipped.set(u32::MAX - 1);
    }

    /// Polls without waiting, unless the loop has polled a short time ago.
    #[inline]
    fn poll_if_due(&self, py: Python<'_>, object: *mut PyObject) -> FfiResult<()> {
        let skipped = self.polls_skipped.get() + 1;
        if skipped < self.poll_skip_iterations.get() {
            let now = ticks();
            if now.wrapping_sub(self.last_poll.get()) < self.poll_skip_ticks.get() {
                self.polls_skipped.set(skipped);
                self.stats.poll_skipped(now);
                self.flushed.set(now);
                return Ok(());
            }
        }
        self.poll_now(py, object)
    }

    #[inline(never)]
    fn poll_now(&self, py: Python<'_>, object: *mut PyObject) -> FfiResult<()> {
        if self.is_select_replaced() {
            return self.poll_selector(object, Some(Duration::ZERO));
        }
        self.poll_nonblocking(py)
    }

    /// Polls without waiting and without detaching from the interpreter.
    pub fn poll_nonblocking(&self, py: Python<'_>) -> FfiResult<()> {
        self.stats.polling(false);
        let mut poller = self.poller.take();
        let result = Self::poll(&mut poller, Some(Duration::ZERO));
        self.polled(py, poller, result)
    }

    /// May run detached from the interpreter, so the poller is out of its cell meanwhile: a child that is forked then has none.
    fn poll(poller: &mut Option<Box<Poller>>, wait: Option<Duration>) -> std::io::Result<()> {
        poller.as_mut().map_or(Ok(()), |poller| poller.poll(wait))
    }

    fn polled(
        &self,
        py: Python<'_>,
        poller: Option<Box<Poller>>,
        result: std::io::Result<()>,
    ) -> FfiResult<()> {
        if let (Some(poller), Ok(())) = (&poller, &result) {
            for event in poller.events() {
                self.events.push_back(event);
            }
        }
        self.poller.replace(poller);
        self.polls_skipped.set(0);
        let now = ticks();
        self.last_poll.set(now);
        self.flushed.set(now);
        self.stats.polled(now);
        match result {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => self.check_signals(py),
            Err(error) => Err(exceptions::os_error(&error).into()),
        }
    }

    #[cold]
    fn check_signals(&self, py: Python<'_>) -> FfiResult<()> {
        self.stacks.checks_signals.set(true);
        let checked = py.check_signals();
        self.stacks.checks_signals.set(false);
        checked.map_err(|error| {
            self.stacks.interrupted.set(true);
            error.into()
        })
    }

    /// Dispatches events to their sources. Each event is removed from the queue before its callback runs, so an exception that
    /// ends the loop loses no other event.
    fn dispatch(&self, py: Python<'_>, object: *mut PyObject) -> FfiResult<()> {
        let more = self.to_resume.len();
        while let Some(event) = self.events.pop_front() {
            let now = self.stats.callback_over();
            if let Err(raised) = self.flush_if_due(py, object, now) {
                self.events.push_front(event);
                return Err(raised);
            }
            self.stats.callback();
            exceptions::report_unless_fatal(object, self.dispatch_event(py, object, event))?;
        }
        for _ in 0..more {
            let Some(source) = self.to_resume.pop_front() else {
                break;
            };
            if self.stacks.ended.get() {
                break;
            }
            // SAFETY: queued and registered objects are held by `IoRef`, which is made with the vtable of the object's class.
            let resumed = unsafe { (source.vtable.resume)(self.cx(py, object), &source.object) };
            exceptions::report_unless_fatal(object, resumed)?;
        }
        Ok(())
    }

    /// Sends corked writes of streams if they have waited for the cork interval.
    #[inline]
    fn flush_if_due(&self, py: Python<'_>, object: *mut PyObject, now: u64) -> FfiResult<()> {
        if now.wrapping_sub(self.flushed.get()) < self.cork.get() {
            return Ok(());
        }
        self.flush_all(py, object)
    }

    /// Sends the corked writes of all streams.
    fn flush_all(&self, py: Python<'_>, object: *mut PyObject) -> FfiResult<()> {
        for _ in 0..FLUSH_PASSES {
            let count = self.to_flush.len();
            if count == 0 {
                break;
            }
            self.stats.callback_over();
            for _ in 0..count {
                let Some(stream) = self.to_flush.pop_front() else {
                    break;
                };
                // SAFETY: queued and registered objects are held by `IoRef`, which is made with the vtable of the object's
                // class.
                let flushed = unsafe { (stream.vtable.flush)(self.cx(py, object), &stream.object) };
                exceptions::report_unless_fatal(object, flushed)?;
            }
            self.flushed.set(self.stats.callbacks_begin());
        }
        Ok(())
    }

    #[inline]
    fn dispatch_event(&self, py: Python<'_>, object: *mut PyObject, event: Event) -> FfiResult<()> {
        if let Some(native) = self.descriptors.with(|all| all.native(event.token)) {
            let cx = self.cx(py, object);
            // SAFETY: queued and registered objects are held by `IoRef`, which is made with the vtable of the object's class.
            let body = || unsafe { (native.vtable.ready)(cx, &native.object, event) };
            if self.is_debug() {
                return self.timed(body, |py| {
                    native.object.bind(py).repr().map(Bound::into_any)
                });
            }
            return body();
        }
        // The source may have been removed after the kernel had queued the event.
        match self.descriptors.with(|all| all.ready(event)) {
            Some(ready) => ready.run(self, object),
            None => Ok(()),
        }
    }

    pub fn cx<'a>(&'a self, py: Python<'a>, event_loop: *mut PyObject) -> LoopContext<'a> {
        LoopContext {
            py,
            core: self,
            event_loop,
        }
    }
}
