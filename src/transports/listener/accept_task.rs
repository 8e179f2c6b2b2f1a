//! A task for connections that have just been accepted, for `asyncio.all_tasks()`.
//!
//! asyncio has a task for each connection that it accepts, until the transport has started. A program that cancels all tasks
//! cancels it too, and so closes the connection. Later, it cancels the tasks that the protocol has started. Here, one task
//! stands for all connections that are accepted at a time. It ends when what `connection_made()` has scheduled has run.

use std::ffi::c_int;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::event_loop::{LoopContext, LoopRef};
use crate::python::coroutine::{self, Class, Operation, Step, Visit};
use crate::python::stdlib::Stdlib;
use crate::python::{Cell, ErrSet, FfiResult, Ref};
use crate::transports::stream::fast_path;

/// The transports of the task: a Python list.
pub struct AcceptTask(Ref);

impl AcceptTask {
    /// Starts the task.
    pub fn new(cx: LoopContext<'_>) -> FfiResult<Self> {
        // SAFETY: this runs in an attached thread, and the result is a new reference or null.
        let transports = unsafe { Ref::new(ffi::PyList_New(0))? };
        let operation = AcceptOperation {
            event_loop: cx.loop_ref(),
            transports: transports.clone(),
            started: Cell::new(false),
        };
        let coroutine = coroutine::suspended(operation, c"Listener.accept")?;
        let names = &Stdlib::get().names;
        let args = [cx.event_loop, coroutine.as_ptr()];
        // SAFETY: the loop of a context is live, and the references keep the other objects alive.
        unsafe {
            let task = Ref::new(ffi::PyObject_VectorcallMethod(
                names.create_task.as_ptr(),
                args.as_ptr(),
                args.len(),
                std::ptr::null_mut(),
            ))?;
            // No message about this task if the loop is closed before it ends: the program does not know it.
            if ffi::PyObject_SetAttr(
                task.as_ptr(),
                names._log_destroy_pending.as_ptr(),
                ffi::Py_False(),
            ) < 0
            {
                // A task factory may make objects without the attribute.
                ffi::PyErr_Clear();
            }
        }
        Ok(Self(transports))
    }

    /// Adds a transport, which is closed if the task is cancelled.
    pub fn push(&self, transport: &Ref) -> FfiResult<()> {
        // SAFETY: `new` has made a list, and both references keep their objects alive.
        if unsafe { ffi::PyList_Append(self.0.as_ptr(), transport.as_ptr()) } < 0 {
            return Err(ErrSet);
        }
        Ok(())
    }
}

/// The body of the task.
struct AcceptOperation {
    event_loop: LoopRef,
    /// A list.
    transports: Ref,
    /// The task was scheduled before what `connection_made()` schedules, so it waits for one more iteration.
    started: Cell<bool>,
}

static CLASS: Class = Class::new();

impl Operation for AcceptOperation {
    fn class() -> &'static Class {
        &CLASS
    }

    fn step(&self) -> FfiResult<Step> {
        if self.started.replace(true) {
            return Ok(Step::Done(Ref::none()));
        }
        Ok(Step::Yield)
    }

    fn abandon(&self) {
        if self.event_loop.core().is_closed() {
            return;
        }
        // SAFETY: CPython ends coroutines in attached threads, and `AcceptTask::new` has made a list.
        let (py, transports) = unsafe {
            let py = Python::assume_attached();
            (py, self.transports.bind(py).cast_unchecked::<PyList>())
        };
        for transport in transports {
            let transport = Ref::from(transport);
            if fast_path::close(py, &transport).is_err() {
                PyErr::fetch(py).write_unraisable(py, Some(transport.bind(py)));
            }
        }
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        match visit(self.event_loop.object()) {
            0 => visit(&self.transports),
            stop => stop,
        }
    }
}

/// Makes the class of the task's coroutine.
pub fn register(py: Python<'_>) -> PyResult<()> {
    CLASS.init::<AcceptOperation>(py, c"hybridloop._core.ListenerCoroutine")
}
