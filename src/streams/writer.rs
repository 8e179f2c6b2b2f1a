//! `StreamWriterCore`: writing, and waiting until there is room for more.

use std::ffi::c_int;

use pyo3::exceptions::PyConnectionResetError;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::PyTraverseError;

use crate::event_loop::install;
use crate::python::coroutine::{self, Class, Operation, Step, Visit};
use crate::python::stdlib::Stdlib;
use crate::python::{nested_drop, Args, Cell, FfiResult, Ref, SlotCell};
use crate::streams::protocol::StreamProtocolCore;
use crate::streams::reader::{raise, StreamReaderCore};
use crate::streams::waiter::call;
use crate::transports::stream::fast_path;
use crate::{fastcall, noargs};

/// Native base of `hybridloop.StreamWriter`, in front of `asyncio.StreamWriter`.
#[pyclass(frozen, subclass, module = "hybridloop._core")]
#[derive(Default)]
pub struct StreamWriterCore {
    transport: SlotCell<Ref>,
    protocol: SlotCell<Ref>,
    /// The protocol is a `StreamProtocolCore` whose `_drain_helper()` is asyncio's.
    is_plain: Cell<bool>,
    reader: SlotCell<Ref>,
    /// The reader is a `StreamReaderCore`.
    is_core: Cell<bool>,
    event_loop: SlotCell<Ref>,
}

// Python's allocator aligns objects to 16 bytes and no more.
const _: () = assert!(align_of::<StreamWriterCore>() <= 16);

// SAFETY: as for `LoopCore`: cells are touched by the thread that holds the loop, under the interpreter lock.
unsafe impl Sync for StreamWriterCore {}
// SAFETY: as for `Sync`.
unsafe impl Send for StreamWriterCore {}

impl Drop for StreamWriterCore {
    fn drop(&mut self) {
        let slots = [
            &self.transport,
            &self.protocol,
            &self.reader,
            &self.event_loop,
        ];
        nested_drop::drop_content(slots.map(SlotCell::take));
    }
}

impl StreamWriterCore {
    unsafe fn of<'a>(object: *mut PyObject) -> &'a Self {
        // SAFETY: the caller's object is a live instance; `get` of a frozen class is a fixed offset.
        unsafe {
            Borrowed::from_ptr(Python::assume_attached(), object)
                .cast_unchecked::<Self>()
                .get()
        }
    }

    fn transport(&self) -> Ref {
        self.transport.get().unwrap_or_else(Ref::none)
    }

    /// Whether `reader`, which was in its place, is a reader of ours. Another thread may have put it there after the flag was
    /// set for another one.
    #[inline]
    fn is_core(&self, reader: &Ref) -> bool {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        self.is_core.get()
            && (!cfg!(Py_GIL_DISABLED) || reader.bind(py).is_instance_of::<StreamReaderCore>())
    }

    /// The same for a protocol of ours that waits in asyncio's way.
    #[inline]
    fn is_plain(&self, protocol: &Ref) -> bool {
        self.is_plain.get()
            && (!cfg!(Py_GIL_DISABLED) || StreamProtocolCore::find(protocol).is_some())
    }

    /// Raises what the reader's `exception()` gives.
    #[inline]
    fn check_reader(&self) -> FfiResult<()> {
        let Some(reader) = self.reader.get() else {
            return Ok(());
        };
        if self.is_core(&reader) {
            // SAFETY: seen when it was set.
            return unsafe { StreamReaderCore::of(reader.as_ptr()) }.check();
        }
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        let error = call(&Stdlib::get().names.exception, [reader.as_ptr()])?;
        if error.bind(py).is_none() {
            Ok(())
        } else {
            Err(raise(&error))
        }
    }

    #[inline]
    fn is_closing(&self) -> FfiResult<bool> {
        let transport = self.transport();
        if let Some(stream) = fast_path::stream(&transport) {
            return Ok(stream.is_closing());
        }
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        let answer = call(&Stdlib::get().names.is_closing, [transport.as_ptr()])?;
        Ok(answer.bind(py).is_truthy()?)
    }
}

fn or_none(py: Python<'_>, slot: &SlotCell<Ref>) -> Py<PyAny> {
    slot.get()
        .map_or_else(|| py.None(), |object| object.bind(py).clone().unbind())
}

fn unless_none(object: &Bound<'_, PyAny>) -> Option<Ref> {
    (!object.is_none()).then(|| object.into())
}

#[pymethods]
impl StreamWriterCore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyAny>, _kwargs: Option<&Bound<'_, PyAny>>) -> Self {
        Self::default()
    }

    #[getter]
    fn _transport(&self, py: Python<'_>) -> Py<PyAny> {
        or_none(py, &self.transport)
    }

    #[setter(_transport)]
    fn set_transport(&self, transport: &Bound<'_, PyAny>) {
        drop(self.transport.replace(unless_none(transport)));
    }

    #[getter]
    fn _protocol(&self, py: Python<'_>) -> Py<PyAny> {
        or_none(py, &self.protocol)
    }

    #[setter(_protocol)]
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) {
        let protocol = unless_none(protocol);
        let core = protocol.as_ref().and_then(StreamProtocolCore::find);
        self.is_plain
            .set(core.is_some_and(StreamProtocolCore::is_plain));
        drop(self.protocol.replace(protocol));
    }

    #[getter]
    fn _reader(&self, py: Python<'_>) -> Py<PyAny> {
        or_none(py, &self.reader)
    }

    #[setter(_reader)]
    fn set_reader(&self, reader: &Bound<'_, PyAny>) {
        self.is_core
            .set(reader.is_instance_of::<StreamReaderCore>());
        drop(self.reader.replace(unless_none(reader)));
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Py<PyAny> {
        or_none(py, &self.event_loop)
    }

    #[setter(_loop)]
    fn set_loop(&self, event_loop: &Bound<'_, PyAny>) {
        drop(self.event_loop.replace(unless_none(event_loop)));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for slot in [
            &self.transport,
            &self.protocol,
            &self.reader,
            &self.event_loop,
        ] {
            slot.visit(&visit)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        // What `__del__` looks at has been looked at: finalizers run before this.
        drop(self.transport.take());
        drop(self.protocol.take());
        drop(self.reader.take());
        drop(self.event_loop.take());
    }
}

unsafe fn write(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let data = crate::streams::args::required(&args, "write", "data")?;
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    let transport = unsafe { StreamWriterCore::of(slf) }.transport();
    // SAFETY: as above.
    if let Some(written) = unsafe { fast_path::write(Python::assume_attached(), &transport, data) }
    {
        return written;
    }
    call(&Stdlib::get().names.write, [transport.as_ptr(), data])?;
    Ok(Ref::none())
}

unsafe fn writelines(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let data = crate::streams::args::required(&args, "writelines", "data")?;
    // SAFETY: the method descriptor has checked `self`.
    let transport = unsafe { StreamWriterCore::of(slf) }.transport();
    call(&Stdlib::get().names.writelines, [transport.as_ptr(), data])?;
    Ok(Ref::none())
}

unsafe fn is_closing(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: the method descriptor has checked `self`.
    Ok(Ref::bool(
        unsafe { StreamWriterCore::of(slf) }.is_closing()?,
    ))
}

unsafe fn drain(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: the method descriptor has checked `self`.
    let it = unsafe { StreamWriterCore::of(slf) };
    // SAFETY: as above.
    let writer = unsafe { Ref::borrowed(slf) };
    let protocol = it.protocol.get().unwrap_or_else(Ref::none);
    if !it.is_plain(&protocol) {
        // Whose protocol has its own way of waiting.
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        let drain = Stdlib::get().stream_writer_drain.bind(py);
        return Ok(drain.call1((writer.bind(py),))?.into());
    }
    let drain = Drain {
        writer,
        protocol,
        stage: Cell::new(Stage::Fresh),
        waiter: SlotCell::default(),
    };
    coroutine::new(drain, c"StreamWriter.drain")
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Fresh,
    /// The transport was closing: the loop has had an iteration to say what ended the connection.
    Closing,
    Waiting,
}

/// One call of `drain()`.
struct Drain {
    writer: Ref,
    /// A `StreamProtocolCore`.
    protocol: Ref,
    stage: Cell<Stage>,
    waiter: SlotCell<Ref>,
}

static CLASS: Class = Class::new();

impl Drain {
    #[inline]
    fn protocol(&self) -> &StreamProtocolCore {
        // SAFETY: made with one.
        unsafe { StreamProtocolCore::of(self.protocol.as_ptr()) }
    }

    /// Takes its future out of those that `resume_writing()` resolves.
    fn leave(&self) -> FfiResult<()> {
        let Some(waiter) = self.waiter.take() else {
            return Ok(());
        };
        if let Some(waiters) = self.protocol().drain_waiters.get() {
            call(
                &Stdlib::get().names.remove,
                [waiters.as_ptr(), waiter.as_ptr()],
            )?;
        }
        Ok(())
    }

    fn wait_for_room(&self) -> FfiResult<Step> {
        let protocol = self.protocol();
        if protocol.lost.get() {
            return Err(PyConnectionResetError::new_err("Connection lost").into());
        }
        let (true, Some(event_loop)) = (protocol.paused.get(), protocol.event_loop.get()) else {
            return Ok(Step::Done(Ref::none()));
        };
        let waiter = event_loop.create_future()?;
        if let Some(waiters) = protocol.drain_waiters.get() {
            call(
                &Stdlib::get().names.append,
                [waiters.as_ptr(), waiter.as_ptr()],
            )?;
        }
        drop(self.waiter.replace(Some(waiter.clone())));
        self.stage.set(Stage::Waiting);
        Ok(Step::Wait(waiter))
    }
}

impl Operation for Drain {
    fn class() -> &'static Class {
        &CLASS
    }

    #[inline]
    fn step(&self) -> FfiResult<Step> {
        match self.stage.get() {
            Stage::Fresh => {
                // SAFETY: made with a writer.
                let writer = unsafe { StreamWriterCore::of(self.writer.as_ptr()) };
                writer.check_reader()?;
                if writer.is_closing()? {
                    self.stage.set(Stage::Closing);
                    return Ok(Step::Yield);
                }
                self.wait_for_room()
            }
            Stage::Closing => self.wait_for_room(),
            Stage::Waiting => {
                self.leave()?;
                Ok(Step::Done(Ref::none()))
            }
        }
    }

    fn abandon(&self) {
        if self.leave().is_err() {
            // SAFETY: attached.
            let py = unsafe { Python::assume_attached() };
            PyErr::fetch(py).write_unraisable(py, Some(self.writer.bind(py)));
        }
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        let waiter = self.waiter.as_ptr();
        for object in [&self.writer, &self.protocol] {
            let stop = visit(object);
            if stop != 0 {
                return stop;
            }
        }
        waiter.map_or(0, |waiter| {
            // SAFETY: live as long as the operation has it; not counted, not dropped.
            let waiter = std::mem::ManuallyDrop::new(unsafe { Ref::unowned(waiter) });
            visit(&waiter)
        })
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    CLASS.init::<Drain>(py, c"hybridloop._core.StreamWriterCoroutine")?;
    module.add_class::<StreamWriterCore>()?;
    install(
        &py.get_type::<StreamWriterCore>(),
        [
            (
                fastcall!(c"write", write),
                "(self, data)",
                "Send bytes, with whatever else is written in this iteration of the loop.",
            ),
            (
                fastcall!(c"writelines", writelines),
                "(self, data)",
                "Send several pieces.",
            ),
            (
                noargs!(c"is_closing", is_closing),
                "(self)",
                "Whether the transport is closed or being closed.",
            ),
            (
                noargs!(c"drain", drain),
                "(self)",
                "Wait until there is room for more.",
            ),
        ],
    )
}
