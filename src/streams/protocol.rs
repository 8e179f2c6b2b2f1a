//! `StreamProtocolCore`: the protocol between a transport and a stream's reader and writer.

use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::PyTraverseError;

use crate::event_loop::{install, LoopContext};
use crate::fastcall;
use crate::python::args::{bind, Parameter};
use crate::python::bytes::{to_bytes, with_bytes};
use crate::python::refs::referent;
use crate::python::stdlib::Stdlib;
use crate::python::{nested_drop, Args, Cell, FfiResult, Ref, SlotCell};
use crate::streams::reader::StreamReaderCore;
use crate::streams::waiter::{call_method, or_none, unless_none, EventLoop};
use crate::transports::stream::native_protocol::{self, NativeProtocol, Received};

/// Native base of `hybridloop.loop.streams.StreamReaderProtocol`, in front of `asyncio.StreamReaderProtocol`. It holds the part
/// of that state which each message needs.
#[pyclass(frozen, subclass, module = "hybridloop._core")]
#[derive(Default)]
pub struct StreamProtocolCore {
    /// `pause_writing()` was called and `resume_writing()` was not.
    pub paused: Cell<bool>,
    /// `connection_lost()` was called.
    pub lost: Cell<bool>,
    /// A weak reference: a reader that nobody else holds is deallocated.
    reader: SlotCell<Ref>,
    /// The futures that `drain()` waits for, a `collections.deque`.
    pub drain_waiters: SlotCell<Ref>,
    pub event_loop: SlotCell<EventLoop>,
    /// The class does not override `_drain_helper()`, so `drain()` need not call it.
    has_native_drain: Cell<bool>,
}

// Python's allocator aligns objects to 16 bytes and no more.
const _: () = assert!(align_of::<StreamProtocolCore>() <= 16);

// SAFETY: `LoopCell` lets one thread in at a time. A `Cell` is used with the interpreter lock held, and locks by itself on
// free-threaded builds.
unsafe impl Sync for StreamProtocolCore {}
// SAFETY: the references may be dropped in any attached thread.
unsafe impl Send for StreamProtocolCore {}

impl Drop for StreamProtocolCore {
    fn drop(&mut self) {
        let slots = self.slots().map(SlotCell::take);
        nested_drop::drop_content((self.event_loop.take(), slots));
    }
}

impl StreamProtocolCore {
    /// The state of a protocol.
    ///
    /// # Safety
    /// The thread is attached, and `object` is a live instance of `StreamProtocolCore` or of a subclass.
    #[inline]
    pub unsafe fn of<'a>(object: *mut PyObject) -> &'a Self {
        // SAFETY: the caller guarantees the class. `get` of a frozen class adds a fixed offset.
        unsafe {
            Borrowed::from_ptr(Python::assume_attached(), object)
                .cast_unchecked::<Self>()
                .get()
        }
    }

    /// The state of a protocol, if it is of this class or of a subclass.
    pub fn find<'a>(py: Python<'_>, object: &'a Ref) -> Option<&'a Self> {
        if object.bind(py).cast::<Self>().is_err() {
            return None;
        }
        // SAFETY: `cast` has checked the class, and `object` keeps the protocol alive.
        Some(unsafe { Self::of(object.as_ptr()) })
    }

    /// Whether `drain()` need not call `_drain_helper()`.
    pub fn has_native_drain(&self) -> bool {
        self.has_native_drain.get()
    }

    fn slots(&self) -> [&SlotCell<Ref>; 2] {
        [&self.reader, &self.drain_waiters]
    }

    /// `data_received(data)`
    #[inline]
    fn feed(&self, py: Python<'_>, data: &[u8]) -> FfiResult<()> {
        let Some(weak) = self.reader.get() else {
            return Ok(());
        };
        let Some(reader) = referent(&weak)? else {
            return Ok(());
        };
        if let Ok(core) = reader.bind(py).cast::<StreamReaderCore>() {
            if core.get().has_native_feed.get() {
                return core.get().feed(py, data);
            }
        }
        call_method(&Stdlib::get().names.feed_data, [&reader, &to_bytes(data)?])?;
        Ok(())
    }
}

#[pymethods]
impl StreamProtocolCore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn __new__(_args: &Bound<'_, PyAny>, _kwargs: Option<&Bound<'_, PyAny>>) -> Self {
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
    fn _stream_reader_wr<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        or_none(py, &self.reader)
    }

    #[setter(_stream_reader_wr)]
    fn set_reader(&self, value: &Bound<'_, PyAny>) {
        drop(self.reader.replace(unless_none(value)));
    }

    #[getter]
    fn _drain_waiters<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        or_none(py, &self.drain_waiters)
    }

    #[setter(_drain_waiters)]
    fn set_drain_waiters(&self, value: &Bound<'_, PyAny>) {
        drop(self.drain_waiters.replace(unless_none(value)));
    }

    #[getter]
    fn _loop<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        let event_loop = self.event_loop.get();
        let object = event_loop.map_or_else(Ref::none, |event_loop| event_loop.object().clone());
        object.bind(py).clone()
    }

    #[setter(_loop)]
    fn set_loop(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let protocol = slf.get();
        let event_loop = EventLoop::new(value.into())?;
        drop(protocol.event_loop.replace(Some(event_loop)));
        // `FlowControlMixin.__init__()` sets the loop before anything else.
        let helper = slf
            .py()
            .import("asyncio.streams")?
            .getattr("FlowControlMixin")?
            .getattr("_drain_helper")?;
        protocol
            .has_native_drain
            .set(slf.get_type().getattr("_drain_helper")?.is(&helper));
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.event_loop.visit(&visit)?;
        for slot in self.slots() {
            slot.visit(&visit)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        drop(self.event_loop.take());
        for slot in self.slots() {
            drop(slot.take());
        }
    }
}

unsafe fn data_received(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    const DATA: Parameter = Parameter::required(c"data");
    // SAFETY: `args` are the arguments of this call.
    let [data] = unsafe { bind(c"data_received", [DATA], &args)? };
    // SAFETY: CPython calls a method of the `StreamProtocolCore` `slf` in an attached thread.
    let (py, protocol) = unsafe { (Python::assume_attached(), StreamProtocolCore::of(slf)) };
    with_bytes(data, |data| protocol.feed(py, data))?;
    Ok(Ref::none())
}

/// How stream transports and TLS protocols give a `StreamProtocolCore` the bytes that they have received.
static NATIVE_PROTOCOL: NativeProtocol = NativeProtocol {
    data_received: feed_protocol,
    uncork: |_, _| Ok(()),
    error_message: "Fatal error: protocol.data_received() call failed.",
};

/// # Safety
/// `protocol` is a `StreamProtocolCore`.
unsafe fn feed_protocol(cx: LoopContext<'_>, protocol: &Ref, data: Received<'_>) -> FfiResult<()> {
    // SAFETY: the caller guarantees the class, and has a token of this thread.
    let protocol = unsafe { StreamProtocolCore::of(protocol.as_ptr()) };
    protocol.feed(cx.py, &data)
}

/// The lookup of protocols of this class, as long as they do not override `data_received()`.
fn find_native(protocol: &Ref) -> Option<&'static NativeProtocol> {
    // SAFETY: the holder of a `Ref` is attached.
    let py = unsafe { Python::assume_attached() };
    StreamProtocolCore::find(py, protocol)?;
    let core = py
        .get_type::<StreamProtocolCore>()
        .getattr("data_received")
        .ok()?;
    let own = protocol.bind(py).get_type().getattr("data_received").ok()?;
    own.is(&core).then_some(&NATIVE_PROTOCOL)
}

/// Adds the class to the module, and the lookup of its protocols to stream transports.
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
    native_protocol::register(find_native);
    Ok(())
}
