//! Connections that have just been accepted, as `asyncio.all_tasks()` shows them.
//!
//! asyncio has a task for each connection that it accepts, until the transport has started. Whoever cancels all tasks ends
//! such a connection with it; whoever does so later ends it by the tasks that its protocol has started. Here one task stands
//! for all connections of one look at a listener. It lasts until what `connection_made()` has scheduled has run.

use std::ffi::c_int;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::event_loop::{LoopContext, LoopRef};
use crate::python::coroutine::{self, Class, Operation, Step, Visit};
use crate::python::stdlib::Stdlib;
use crate::python::{Cell, FfiResult, Ref};
use crate::transports::stream::methods::close_stream;
use crate::transports::stream::Stream;

/// The streams of the task, a Python list.
pub struct Accepted(Ref);

impl Accepted {
    /// Makes the task.
    pub fn new(cx: LoopContext<'_>) -> FfiResult<Self> {
        // SAFETY: attached; the loop object is live.
        unsafe {
            let streams = Ref::new(ffi::PyList_New(0))?;
            let operation = Accepting {
                event_loop: cx.loop_ref(),
                streams: streams.clone(),
                lasts: Cell::new(true),
            };
            let coroutine = coroutine::suspended(operation, c"Listener.accept")?;
            let names = &Stdlib::get().names;
            let arguments = [cx.event_loop, coroutine.as_ptr()];
            let task = Ref::new(ffi::PyObject_VectorcallMethod(
                names.create_task.as_ptr(),
                arguments.as_ptr(),
                arguments.len(),
                std::ptr::null_mut(),
            ))?;
            // A loop that is closed before is no reason to name a task that nobody knows.
            if ffi::PyObject_SetAttr(
                task.as_ptr(),
                names._log_destroy_pending.as_ptr(),
                ffi::Py_False(),
            ) < 0
            {
                // The task of a factory need not have this.
                ffi::PyErr_Clear();
            }
            Ok(Self(streams))
        }
    }

    pub fn push(&self, stream: &Ref) -> FfiResult<()> {
        // SAFETY: attached; a live list and a live object.
        if unsafe { ffi::PyList_Append(self.0.as_ptr(), stream.as_ptr()) } < 0 {
            return Err(crate::python::ErrSet);
        }
        Ok(())
    }
}

/// The body of the task.
struct Accepting {
    event_loop: LoopRef,
    streams: Ref,
    /// The task is in front of what `connection_made()` schedules, so it lasts for another iteration.
    lasts: Cell<bool>,
}

static CLASS: Class = Class::new();

impl Operation for Accepting {
    fn class() -> &'static Class {
        &CLASS
    }

    fn step(&self) -> FfiResult<Step> {
        if self.lasts.replace(false) {
            return Ok(Step::Yield);
        }
        Ok(Step::Done(Ref::none()))
    }

    fn abandon(&self) {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        if self.event_loop.core().is_closed() {
            return;
        }
        // SAFETY: `Accepted::new` has made a list.
        let streams = unsafe { self.streams.bind(py).cast_unchecked::<PyList>() };
        for stream in streams {
            let stream = Ref::from(stream);
            // SAFETY: `Accepted::push` puts in nothing but streams.
            let it = unsafe { Stream::of(stream.as_ptr()) };
            if close_stream(&stream, it).is_err() {
                PyErr::fetch(py).write_unraisable(py, Some(stream.bind(py)));
            }
        }
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        match visit(self.event_loop.object()) {
            0 => visit(&self.streams),
            stop => stop,
        }
    }
}

/// Makes the class of the task's coroutine.
pub fn register(py: Python<'_>) -> PyResult<()> {
    CLASS.init::<Accepting>(py, c"hybridloop._core.ListenerCoroutine")
}
