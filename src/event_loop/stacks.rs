//! Stacks that wait while the loop goes on: `hybridloop.sync` leaves the stack of a callback in another greenlet, and runs
//! further iterations on a new one. So several stacks have an iteration under way, and one of them runs.
//!
//! What an iteration decides before it calls Python is shared by all stacks, or found again after the call.

use hybridloop_reactor::Token;
use hybridloop_sync::clock::now_ns;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple, PyType};

use crate::event_loop::{install, run_once, LoopCore};
use crate::python::context::{enter_contexts, leave_contexts};
use crate::python::vectorcall::missing;
use crate::python::{Args, Cell, FfiResult, Ref, RelaxedU64};
use crate::{fastcall, noargs, onearg};

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

/// `_leave_stack(get_context, greenlet, base)`: the running stack, that of `greenlet`, begins to wait. Leaves the contexts that
/// it has entered since `base`. Returns what `_return_to_stack()` takes, or `None` if the stack must not wait.
unsafe fn leave(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let &[get_context, greenlet, base] = args.positional else {
        return Err(missing("_leave_stack", "base"));
    };
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    let (py, core, [get_context, greenlet, base]) = unsafe {
        let py = Python::assume_attached();
        let objects = [get_context, greenlet, base];
        (
            py,
            LoopCore::of(slf),
            objects.map(|object| Bound::from_borrowed_ptr(py, object)),
        )
    };
    let stacks = &core.stacks;
    if stacks.checks_signals.get() {
        return Ok(Ref::none());
    }
    core.uncork(py, slf)?;
    let contexts = leave_contexts(&get_context, &greenlet, &base)?;
    stacks.waiting.set(stacks.waiting.get() + 1);
    stacks.switches.set(stacks.switches.get() + 1);
    let clock = stop(py, core)?;
    if !clock.bind(py).is_none() {
        contexts.insert(0, clock.bind(py))?;
    }
    Ok(contexts.into_any().into())
}

/// `_return_to_stack(left)`: the stack goes on.
unsafe fn return_to(slf: *mut PyObject, left: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. The
    // argument is live during the call.
    let (core, left) = unsafe {
        let py = Python::assume_attached();
        (LoopCore::of(slf), Bound::from_borrowed_ptr(py, left))
    };
    let left = left.cast_into::<PyList>().map_err(PyErr::from)?;
    let waiting = &core.stacks.waiting;
    waiting.set(waiting.get().saturating_sub(1));
    let clock = left
        .get_item(0)
        .ok()
        .filter(PyAnyMethods::is_instance_of::<PyTuple>);
    if clock.is_some() {
        left.del_item(0)?;
    }
    restart(core, clock)?;
    enter_contexts(&left)?;
    Ok(Ref::none())
}

/// What the running stack, which is left, gets back by [`restart`]: in debug mode a tuple, else `None`.
fn stop(py: Python<'_>, core: &LoopCore) -> FfiResult<Ref> {
    core.stats.callback_over();
    if !core.is_debug() {
        return Ok(Ref::none());
    }
    let handle = core.current_handle.take().unwrap_or_else(Ref::none);
    let left = (handle.bind(py), now_ns(), core.stacks.waited.get());
    Ok(left.into_pyobject(py)?.into_any().into())
}

/// The stack is the running one again. What it has waited does not count as work.
fn restart(core: &LoopCore, left: Option<Bound<'_, PyAny>>) -> FfiResult<()> {
    core.stats.callbacks_begin();
    let Some(left) = left else { return Ok(()) };
    let (handle, since, waited): (Bound<'_, PyAny>, u64, u64) = left.extract()?;
    let waited = waited + now_ns().saturating_sub(since);
    core.stacks.waited.set(waited);
    drop(core.current_handle.take());
    if !handle.is_none() {
        drop(core.current_handle.replace(Some(handle.into())));
    }
    Ok(())
}

/// `_stop_clock()`: the running stack is left, and does not wait. Returns what `_restart_clock()` takes.
unsafe fn stop_clock(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked.
    unsafe { stop(Python::assume_attached(), LoopCore::of(slf)) }
}

/// `_restart_clock(left)`: the stack is the running one again.
unsafe fn restart_clock(slf: *mut PyObject, left: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. The
    // argument is live during the call.
    let (core, left) = unsafe {
        let py = Python::assume_attached();
        (LoopCore::of(slf), Bound::from_borrowed_ptr(py, left))
    };
    restart(core, (!left.is_none()).then_some(left))?;
    Ok(Ref::none())
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
                fastcall!(c"_leave_stack", leave),
                "(self, get_context, greenlet, base, /)",
                "The running stack begins to wait. Returns None if it must not.",
            ),
            (
                onearg!(c"_return_to_stack", return_to),
                "(self, left)",
                "A stack goes on, with what _leave_stack() has returned.",
            ),
            (
                noargs!(c"_stop_clock", stop_clock),
                "(self)",
                "The running stack is left. Returns what _restart_clock() takes.",
            ),
            (
                onearg!(c"_restart_clock", restart_clock),
                "(self, left)",
                "The stack is the running one again.",
            ),
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
