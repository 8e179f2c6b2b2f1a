//! `StreamWriterCore`: writing, and waiting until the transport has room for more.

use std::ffi::c_int;

use pyo3::exceptions::PyConnectionResetError;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::PyTraverseError;

use crate::event_loop::install;
use crate::python::args::{bind, Parameter};
use crate::python::coroutine::{self, Class, Operation, Step, Visit};
use crate::python::stdlib::Stdlib;
use crate::python::{nested_drop, Args, Cell, FfiResult, Ref, SlotCell};
use crate::streams::protocol::StreamProtocolCore;
use crate::streams::reader::{raise, StreamReaderCore};
use crate::streams::waiter::{call_method, or_none, unless_none};
use crate::transports::stream::fast_path;
use crate::{fastcall, noargs};

/// Native base of `hybridloop.StreamWriter`, in front of `asyncio.StreamWriter`.
#[pyclass(frozen, subclass, module = "hybridloop._core")]
#[derive(Default)]
pub struct StreamWriterCore {
    transport: SlotCell<Ref>,
    protocol: SlotCell<Ref>,
    /// The protocol is a `StreamProtocolCore` with asyncio's `_drain_helper()`.
    has_native_drain: Cell<bool>,
    reader: SlotCell<Ref>,
    /// The reader is a `StreamReaderCore`.
    has_native_reader: Cell<bool>,
    event_loop: SlotCell<Ref>,
}

// Python's allocator aligns objects to 16 bytes and no more.
const _: () = assert!(align_of::<StreamWriterCore>() <= 16);

// SAFETY: `LoopCell` lets one thread in at a time. A `Cell` is used with the interpreter lock held, and locks by itself on
// free-threaded builds.
unsafe impl Sync for StreamWriterCore {}
// SAFETY: the references may be dropped in any attached thread.
unsafe impl Send for StreamWriterCore {}

impl Drop for StreamWriterCore {
    fn drop(&mut self) {
        nested_drop::drop_content(self.slots().map(SlotCell::take));
    }
}

impl StreamWriterCore {
    /// The state of a writer.
    ///
    /// # Safety
    /// The thread is attached, and `object` is a live instance of `StreamWriterCore` or of a subclass.
    unsafe fn of<'a>(object: *mut PyObject) -> &'a Self {
        // SAFETY: the caller guarantees the class. `get` of a frozen class adds a fixed offset.
        unsafe {
            Borrowed::from_ptr(Python::assume_attached(), object)
                .cast_unchecked::<Self>()
                .get()
        }
    }

    fn slots(&self) -> [&SlotCell<Ref>; 4] {
        [
            &self.transport,
            &self.protocol,
            &self.reader,
            &self.event_loop,
        ]
    }

    fn transport(&self) -> Ref {
        self.transport.get().unwrap_or_else(Ref::none)
    }

    /// Whether `reader`, which was just read from its slot, is a `StreamReaderCore`. On free-threaded builds another thread may
    /// have set both the slot and the flag since.
    #[inline]
    fn is_native_reader(&self, py: Python<'_>, reader: &Ref) -> bool {
        self.has_native_reader.get()
            && (!cfg!(Py_GIL_DISABLED) || reader.bind(py).is_instance_of::<StreamReaderCore>())
    }

    /// Whether `protocol`, which was just read from its slot, is a `StreamProtocolCore` with asyncio's `_drain_helper()`.
    #[inline]
    fn has_native_drain(&self, py: Python<'_>, protocol: &Ref) -> bool {
        self.has_native_drain.get()
            && (!cfg!(Py_GIL_DISABLED) || StreamProtocolCore::find(py, protocol).is_some())
    }

    /// Raises what the reader's `exception()` returns.
    #[inline]
    fn check_reader(&self, py: Python<'_>) -> FfiResult<()> {
        let Some(reader) = self.reader.get() else {
            return Ok(());
        };
        if self.is_native_reader(py, &reader) {
            // SAFETY: `is_native_reader` has found the class, and `reader` keeps the object alive.
            return unsafe { StreamReaderCore::of(reader.as_ptr()) }.check_exception(py);
        }
        let error = call_method(&Stdlib::get().names.exception, [&reader])?;
        if error.bind(py).is_none() {
            Ok(())
        } else {
            Err(raise(py, &error))
        }
    }

    #[inline]
    fn is_closing(&self, py: Python<'_>) -> FfiResult<bool> {
        let transport = self.transport();
        if let Some(stream) = fast_path::stream(&transport) {
            return Ok(stream.is_closing());
        }
        let answer = call_method(&Stdlib::get().names.is_closing, [&transport])?;
        Ok(answer.bind(py).is_truthy()?)
    }
}

#[pymethods]
impl StreamWriterCore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn __new__(_args: &Bound<'_, PyAny>, _kwargs: Option<&Bound<'_, PyAny>>) -> Self {
        Self::default()
    }

    #[getter]
    fn _transport<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        or_none(py, &self.transport)
    }

    #[setter(_transport)]
    fn set_transport(&self, transport: &Bound<'_, PyAny>) {
        drop(self.transport.replace(unless_none(transport)));
    }

    #[getter]
    fn _protocol<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        or_none(py, &self.protocol)
    }

    #[setter(_protocol)]
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) {
        let core = protocol.cast::<StreamProtocolCore>();
        self.has_native_drain
            .set(core.is_ok_and(|core| core.get().has_native_drain()));
        drop(self.protocol.replace(unless_none(protocol)));
    }

    #[getter]
    fn _reader<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        or_none(py, &self.reader)
    }

    #[setter(_reader)]
    fn set_reader(&self, reader: &Bound<'_, PyAny>) {
        self.has_native_reader
            .set(reader.is_instance_of::<StreamReaderCore>());
        drop(self.reader.replace(unless_none(reader)));
    }

    #[getter]
    fn _loop<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        or_none(py, &self.event_loop)
    }

    #[setter(_loop)]
    fn set_loop(&self, event_loop: &Bound<'_, PyAny>) {
        drop(self.event_loop.replace(unless_none(event_loop)));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for slot in self.slots() {
            slot.visit(&visit)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        // `__del__` has run: the collector calls finalizers first.
        for slot in self.slots() {
            drop(slot.take());
        }
    }
}

/// The receiver of a method: the token of the thread, the object, and its state.
///
/// # Safety
/// CPython is calling a method of `StreamWriterCore` on `*slf`: it has checked the class, keeps the object alive during the
/// call, and the thread is attached.
#[inline]
unsafe fn receiver(slf: &*mut PyObject) -> (Python<'_>, &Ref, &StreamWriterCore) {
    // SAFETY: the caller guarantees an attached thread and a live `StreamWriterCore`.
    unsafe {
        (
            Python::assume_attached(),
            Ref::from_ptr_ref(slf),
            StreamWriterCore::of(*slf),
        )
    }
}

const DATA: Parameter = Parameter::required(c"data");

unsafe fn write(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method, and `args` are its arguments, which are live during the call.
    let (transport, data, written) = unsafe {
        let [data] = bind(c"write", [DATA], &args)?;
        let (py, _, writer) = receiver(&slf);
        let transport = writer.transport();
        let written = fast_path::write(py, &transport, data);
        (transport, data, written)
    };
    if let Some(written) = written {
        return written;
    }
    // SAFETY: `data` is live during the call.
    let data = unsafe { Ref::from_ptr_ref(&data) };
    call_method(&Stdlib::get().names.write, [&transport, data])?;
    Ok(Ref::none())
}

unsafe fn writelines(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: `args` are the arguments of this call.
    let [data] = unsafe { bind(c"writelines", [DATA], &args)? };
    // SAFETY: `slf` is the receiver of a method, and `data` is live during the call.
    let ((_, _, writer), data) = unsafe { (receiver(&slf), Ref::from_ptr_ref(&data)) };
    let transport = writer.transport();
    call_method(&Stdlib::get().names.writelines, [&transport, data])?;
    Ok(Ref::none())
}

unsafe fn is_closing(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (py, _, writer) = unsafe { receiver(&slf) };
    Ok(Ref::bool(writer.is_closing(py)?))
}

unsafe fn drain(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (py, slf, writer) = unsafe { receiver(&slf) };
    let protocol = writer.protocol.get().unwrap_or_else(Ref::none);
    if !writer.has_native_drain(py, &protocol) {
        let drain = Stdlib::get().stream_writer_drain.bind(py);
        return Ok(drain.call1((slf.bind(py),))?.into());
    }
    let drain = DrainOperation {
        writer: slf.clone(),
        protocol,
        stage: Cell::new(Stage::Start),
        waiter: SlotCell::default(),
    };
    coroutine::new(drain, c"StreamWriter.drain")
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Start,
    /// The transport was closing. As in asyncio, the loop got one iteration to report why.
    Closing,
    Waiting,
}

/// One call of `drain()`.
struct DrainOperation {
    /// A `StreamWriterCore`.
    writer: Ref,
    /// A `StreamProtocolCore`.
    protocol: Ref,
    stage: Cell<Stage>,
    waiter: SlotCell<Ref>,
}

static CLASS: Class = Class::new();

impl DrainOperation {
    #[inline]
    fn protocol(&self) -> &StreamProtocolCore {
        // SAFETY: `drain` has checked the class, and the reference keeps the object alive. Coroutines run in attached threads.
        unsafe { StreamProtocolCore::of(self.protocol.as_ptr()) }
    }

    /// Removes the future from those that `resume_writing()` resolves.
    fn stop_waiting(&self) -> FfiResult<()> {
        let Some(waiter) = self.waiter.take() else {
            return Ok(());
        };
        if let Some(waiters) = self.protocol().drain_waiters.get() {
            call_method(&Stdlib::get().names.remove, [&waiters, &waiter])?;
        }
        Ok(())
    }

    /// asyncio's `_drain_helper()`
    fn wait_unless_resumed(&self) -> FfiResult<Step> {
        let protocol = self.protocol();
        if protocol.lost.get() {
            return Err(PyConnectionResetError::new_err("Connection lost").into());
        }
        let (true, Some(event_loop)) = (protocol.paused.get(), protocol.event_loop.get()) else {
            return Ok(Step::Done(Ref::none()));
        };
        let waiter = event_loop.create_future()?;
        if let Some(waiters) = protocol.drain_waiters.get() {
            call_method(&Stdlib::get().names.append, [&waiters, &waiter])?;
        }
        drop(self.waiter.replace(Some(waiter.clone())));
        self.stage.set(Stage::Waiting);
        Ok(Step::Wait(waiter))
    }
}

impl Operation for DrainOperation {
    fn class() -> &'static Class {
        &CLASS
    }

    #[inline]
    fn step(&self) -> FfiResult<Step> {
        match self.stage.get() {
            Stage::Start => {
                // SAFETY: coroutines run in attached threads. `drain` is a method of `StreamWriterCore`, and the reference
                // keeps the object alive.
                let (py, writer) = unsafe {
                    let writer = StreamWriterCore::of(self.writer.as_ptr());
                    (Python::assume_attached(), writer)
                };
                writer.check_reader(py)?;
                if writer.is_closing(py)? {
                    self.stage.set(Stage::Closing);
                    return Ok(Step::Yield);
                }
                self.wait_unless_resumed()
            }
            Stage::Closing => self.wait_unless_resumed(),
            Stage::Waiting => {
                self.stop_waiting()?;
                Ok(Step::Done(Ref::none()))
            }
        }
    }

    fn abandon(&self) {
        if self.stop_waiting().is_err() {
            // SAFETY: coroutines end in attached threads.
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
            // SAFETY: the cell keeps the future alive while the collector looks.
            visit(unsafe { Ref::from_ptr_ref(&waiter) })
        })
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    CLASS.init::<DrainOperation>(py, c"hybridloop._core.StreamWriterCoroutine")?;
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
