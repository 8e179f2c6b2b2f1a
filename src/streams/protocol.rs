//! `StreamProtocolCore`: what the transport and `drain()` ask of a stream's protocol.

use std::ptr;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::PyTraverseError;

use crate::event_loop::{install, LoopContext};
use crate::fastcall;
use crate::python::bytes::{to_bytes, with_bytes};
use crate::python::{nested_drop, Args, Cell, ErrSet, FfiResult, Ref, SlotCell};
use crate::streams::reader::StreamReaderCore;
use crate::streams::waiter::{call, EventLoop};
use crate::transports::stream::native_protocol::{self, NativeProtocol};

/// Native base of `hybridloop.loop.streams.StreamReaderProtocol`, in front of `asyncio.StreamReaderProtocol`, whose state it
/// keeps as far as it is asked for with each message.
#[pyclass(frozen, subclass, module = "hybridloop._core")]
#[derive(Default)]
pub struct StreamProtocolCore {
    /// `pause_writing()` was called and `resume_writing()` was not.
    pub paused: Cell<bool>,
    pub lost: Cell<bool>,
    /// A weak reference, so that a reader that nobody holds goes away.
    reader: SlotCell<Ref>,
    pub drain_waiters: SlotCell<Ref>,
    pub event_loop: SlotCell<EventLoop>,
    /// Nobody has overridden `_drain_helper()`.
    is_plain: Cell<bool>,
}

// Python's allocator aligns objects to 16 bytes and no more.
const _: () = assert!(align_of::<StreamProtocolCore>() <= 16);

// SAFETY: as for `LoopCore`: cells are touched by the thread that holds the loop, under the interpreter lock.
unsafe impl Sync for StreamProtocolCore {}
// SAFETY: as for `Sync`.
unsafe impl Send for StreamProtocolCore {}

impl Drop for StreamProtocolCore {
    fn drop(&mut self) {
        let slots = [&self.reader, &self.drain_waiters];
        nested_drop::drop_content((self.event_loop.take(), slots.map(SlotCell::take)));
    }
}

impl StreamProtocolCore {
    /// The state of a protocol.
    ///
    /// # Safety
    /// `object` is a live instance of the class or a subclass.
    #[inline]
    pub unsafe fn of<'a>(object: *mut PyObject) -> &'a Self {
        // SAFETY: the caller's promise; `get` of a frozen class is a fixed offset.
        unsafe {
            Borrowed::from_ptr(Python::assume_attached(), object)
                .cast_unchecked::<Self>()
                .get()
        }
    }

    /// The state of a protocol, if it is of this class or a subclass.
    pub fn find(object: &Ref) -> Option<&Self> {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        Some(object.bind(py).cast::<Self>().ok()?.get())
    }

    /// Whether `drain()` need not ask `_drain_helper()`.
    pub fn is_plain(&self) -> bool {
        self.is_plain.get()
    }

    /// The reader, while somebody holds it.
    #[inline]
    fn reader(&self) -> FfiResult<Option<Ref>> {
        let Some(weak) = self.reader.get() else {
            return Ok(None);
        };
        let mut object = ptr::null_mut::<PyObject>();
        // SAFETY: attached; gives a new reference, or null if the object is gone.
        unsafe {
            match ffi::compat::PyWeakref_GetRef(weak.as_ptr(), &raw mut object) {
                0 => Ok(None),
                1 => Ref::new(object).map(Some),
                _ => Err(ErrSet),
            }
        }
    }

    /// `data_received(data)`
    #[inline]
    fn feed(&self, data: &[u8]) -> FfiResult<()> {
        let Some(reader) = self.reader()? else {
            return Ok(());
        };
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        if let Ok(core) = reader.bind(py).cast::<StreamReaderCore>() {
            if core.get().is_plain() {
                return core.get().feed(data);
            }
        }
        let data = to_bytes(data)?;
        let name = &crate::python::stdlib::Stdlib::get().names.feed_data;
        call(name, [reader.as_ptr(), data.as_ptr()])?;
        Ok(())
    }
}

#[pymethods]
impl StreamProtocolCore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyAny>, _kwargs: Option<&Bound<'_, PyAny>>) -> Self {
        Self::default()
    }

    #[getter]
    fn _paused(&self) -> bool {
        self.paused.get()
    }

    #[setter(_paused)]
    fn set_paused(&self, value: bool) {
        self.paused.set(value);
    }

    #[getter]
    fn _connection_lost(&self) -> bool {
        self.lost.get()
    }

    #[setter(_connection_lost)]
    fn set_lost(&self, value: bool) {
        self.lost.set(value);
    }

    #[getter]
    fn _stream_reader_wr(&self, py: Python<'_>) -> Py<PyAny> {
        or_none(py, self.reader.get())
    }

    #[setter(_stream_reader_wr)]
    fn set_reader(&self, value: &Bound<'_, PyAny>) {
        drop(self.reader.replace(unless_none(value)));
    }

    #[getter]
    fn _drain_waiters(&self, py: Python<'_>) -> Py<PyAny> {
        or_none(py, self.drain_waiters.get())
    }

    #[setter(_drain_waiters)]
    fn set_drain_waiters(&self, value: &Bound<'_, PyAny>) {
        drop(self.drain_waiters.replace(unless_none(value)));
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Py<PyAny> {
        or_none(py, self.event_loop.get().map(|it| it.object().clone()))
    }

    #[setter(_loop)]
    fn set_loop(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let it = slf.get();
        let event_loop = EventLoop::new(value.into())?;
        drop(it.event_loop.replace(Some(event_loop)));
        // The base class sets this first, when it is made.
        let helper = slf
            .py()
            .import("asyncio.streams")?
            .getattr("FlowControlMixin")?
            .getattr("_drain_helper")?;
        it.is_plain
            .set(slf.get_type().getattr("_drain_helper")?.is(&helper));
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.event_loop.visit(&visit)?;
        for slot in [&self.reader, &self.drain_waiters] {
            slot.visit(&visit)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        drop(self.event_loop.take());
        drop(self.reader.take());
        drop(self.drain_waiters.take());
    }
}

fn or_none(py: Python<'_>, object: Option<Ref>) -> Py<PyAny> {
    object.map_or_else(|| py.None(), |object| object.bind(py).clone().unbind())
}

fn unless_none(object: &Bound<'_, PyAny>) -> Option<Ref> {
    (!object.is_none()).then(|| object.into())
}

unsafe fn data_received(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let data = crate::streams::args::required(&args, "data_received", "data")?;
    // SAFETY: the method descriptor has checked `self`.
    let it = unsafe { StreamProtocolCore::of(slf) };
    with_bytes(data, |data| it.feed(data))?;
    Ok(Ref::none())
}

static NATIVE_PROTOCOL: NativeProtocol = NativeProtocol {
    data_received: feed_protocol,
    error_message: "Fatal error: protocol.data_received() call failed.",
};

unsafe fn feed_protocol(_: LoopContext<'_>, protocol: &Ref, data: &[u8]) -> FfiResult<()> {
    // SAFETY: `protocol` is a live `StreamProtocolCore`: `find` returns this function for no other class.
    let it = unsafe { StreamProtocolCore::of(protocol.as_ptr()) };
    it.feed(data)
}

/// Protocols of this class whose `data_received()` nobody has overridden.
fn find(protocol: &Ref) -> Option<&'static NativeProtocol> {
    StreamProtocolCore::find(protocol)?;
    // SAFETY: attached.
    let py = unsafe { Python::assume_attached() };
    let core = py
        .get_type::<StreamProtocolCore>()
        .getattr("data_received")
        .ok()?;
    let own = protocol.bind(py).get_type().getattr("data_received").ok()?;
    own.is(&core).then_some(&NATIVE_PROTOCOL)
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<StreamProtocolCore>()?;
    install(
        &module.py().get_type::<StreamProtocolCore>(),
        [(
            fastcall!(c"data_received", data_received),
            "(self, data)",
            "Feed the reader.",
        )],
    )?;
    native_protocol::register(find);
    Ok(())
}
