//! Stacks that wait while the loop goes on: `hybridloop.sync` leaves the stack of a callback in another greenlet, and runs
//! further iterations on a new one. So several stacks have an iteration under way, and one of them runs.
//!
//! What an iteration decides before it calls Python is shared by all stacks, or found again after the call.

use hybridloop_reactor::Token;
use hybridloop_sync::clock::now_ns;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::event_loop::{install, run_once, LoopCore};
use crate::noargs;
use crate::python::{Cell, FfiResult, Ref, RelaxedU64};

/// What the stacks of a loop share.
#[derive(Default)]
pub struct Stacks {
    /// How many handles the current iteration has still to run.
    pub budget: Cell<usize>,
    /// The stream that was read last.
    served: Cell<Option<Token>>,
    /// How long the running stack has waited, in nanoseconds. Debug mode does not count that as slow.
    pub waited: Cell<u64>,
    /// Callbacks of `add_reader()` or `add_writer()` were due again before they had returned.
    pub busy_watchers: Cell<bool>,
    /// A poll calls Python's signal handlers, so that there is nothing that could wait.
    pub checks_signals: Cell<bool>,
    /// The exception that ends the run was raised by a poll, and not by a callback.
    pub interrupted: Cell<bool>,
    /// The loop is being closed: iterations under way end without calling anything.
    pub ended: Cell<bool>,
    pub waiting: RelaxedU64,
    pub switches: RelaxedU64,
}

impl Stacks {
    /// Called before a stream is read: its protocol is about to be called.
    #[inline]
    pub fn serve(&self, stream: Option<Token>) {
        self.served.set(stream);
    }
}

impl LoopCore {
    /// Sends at the end of an iteration what a stream has deferred until its protocol returns.
    fn uncork(&self, py: Python<'_>, object: *mut PyObject) -> FfiResult<()> {
        let token = self.stacks.served.replace(None);
        let stream = token.and_then(|token| {
            self.descriptors
                .with(|descriptors| descriptors.native(token))
        });
        match stream {
            // SAFETY: registered objects are held by `IoRef`, which is made with the vtable of the object's class.
            Some(stream) => unsafe { (stream.vtable.uncork)(self.cx(py, object), &stream.object) },
            None => Ok(()),
        }
    }
}

/// What a stack gets back that was left in debug mode.
pub struct Clock {
    handle: Option<Ref>,
    since: u64,
    waited: u64,
}

impl LoopCore {
    /// The running stack begins to wait: nothing that it has deferred stays behind. Returns false if it must not wait.
    pub fn leave_stack(&self, py: Python<'_>, object: *mut PyObject) -> FfiResult<bool> {
        if self.stacks.checks_signals.get() {
            return Ok(false);
        }
        self.uncork(py, object)?;
        let stacks = &self.stacks;
        stacks.waiting.set(stacks.waiting.get() + 1);
        stacks.switches.set(stacks.switches.get() + 1);
        Ok(true)
    }

    /// A stack that has waited goes on.
    pub fn return_to_stack(&self) {
        let waiting = &self.stacks.waiting;
        waiting.set(waiting.get().saturating_sub(1));
    }

    /// The running stack is left: it does no work.
    pub fn stop_clock(&self) -> Option<Clock> {
        self.stats.callback_over();
        self.is_debug().then(|| Clock {
            handle: self.current_handle.take(),
            since: now_ns(),
            waited: self.stacks.waited.get(),
        })
    }

    /// The stack is the running one again. What it has waited does not count as work.
    pub fn restart_clock(&self, clock: Option<Clock>) {
        self.stats.callbacks_begin();
        let Some(clock) = clock else { return };
        let waited = now_ns().saturating_sub(clock.since);
        self.stacks.waited.set(clock.waited + waited);
        drop(self.current_handle.replace(clock.handle));
    }
}

/// `_run_iterations()`: what a run of the loop does, on the stack that calls it.
unsafe fn run_iterations(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked.
    let (py, core) = unsafe { (Python::assume_attached(), LoopCore::of(slf)) };
    core.stacks.interrupted.set(false);
    run_once::run_iterations(py, core, slf)?;
    Ok(Ref::none())
}

/// `_iterate_within()`: one iteration within a callback.
unsafe fn iterate_within(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked.
    let (py, core) = unsafe { (Python::assume_attached(), LoopCore::of(slf)) };
    core.iterate(py, slf)?;
    Ok(Ref::none())
}

/// `_end_iterations()`: has the iterations under way end, for `close()`. What is queued is discarded.
unsafe fn end_iterations(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked.
    let core = unsafe { LoopCore::of(slf) };
    core.stopping.set(true);
    core.stacks.ended.set(true);
    core.stacks.budget.set(0);
    drop(core.events.take());
    drop(core.to_resume.take());
    Ok(Ref::none())
}

/// `_poll_interrupted()`: whether a poll has raised the exception that ended `_run_iterations()`.
unsafe fn poll_interrupted(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked.
    let core = unsafe { LoopCore::of(slf) };
    Ok(Ref::bool(core.stacks.interrupted.replace(false)))
}

/// Adds the methods to the class.
pub fn add_methods(class: &Bound<'_, PyType>) -> PyResult<()> {
    install(
        class,
        [
            (
                noargs!(c"_run_iterations", run_iterations),
                "(self)",
                "Run iterations on this stack until the loop is stopped.",
            ),
            (
                noargs!(c"_iterate_within", iterate_within),
                "(self)",
                "Run one iteration within a callback.",
            ),
            (
                noargs!(c"_end_iterations", end_iterations),
                "(self)",
                "Have the iterations that are under way call nothing more.",
            ),
            (
                noargs!(c"_poll_interrupted", poll_interrupted),
                "(self)",
                "Whether a poll has raised the exception that ended _run_iterations().",
            ),
        ],
    )
}
