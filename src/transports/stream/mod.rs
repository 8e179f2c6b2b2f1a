//! The stream transport: state, lifetime and protocol.
//!
//! * [`methods`], [`attributes`] — what Python calls on it, and reads.
//! * [`read`] — from the socket to the protocol.
//! * [`write`] — from the protocol to the socket, one system call an iteration of the loop.
//! * [`native_protocol`] — handing bytes to native protocols.
//! * [`fast_path`] — calling stream transports without their Python methods.

pub mod attributes;
pub mod fast_path;
pub mod methods;
pub mod native_protocol;
pub mod read;
pub mod write;

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::size_of;
use std::ops::Deref;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use hybridloop_reactor::{Event, Interest};
use pyo3::exceptions::PyImportError;
use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::event_loop::{exceptions, IoRef, LoopContext, LoopCore, LoopRef, SourceVTable};
use crate::python::package;
use crate::python::stdlib::Stdlib;
use crate::python::typespec::Slots;
use crate::python::{Cell, FfiResult, LoopCell, Ref};
use crate::transports::address::{Address, Side};
use crate::transports::base::{
    FdGuard, Transport, TransportBase, BLOCKED, CLOSING, FIRST_SUBTYPE_FLAG, LOST, PAUSED, STARTED,
};
use crate::transports::object::{self, Header};
use crate::transports::stream::native_protocol::NativeProtocol;
use crate::transports::stream::write::WriteQueue;

/// `write_eof()` was called.
pub const EOF_WRITTEN: u32 = FIRST_SUBTYPE_FLAG;
/// The peer has ended its side, and the protocol knows.
pub const EOF_READ: u32 = FIRST_SUBTYPE_FLAG << 1;
/// The socket may have data: set by an event, cleared by a read that came back short.
pub const READABLE: u32 = FIRST_SUBTYPE_FLAG << 2;
/// The last event told of an end of file or an error behind the data: a short read is not the last.
pub const HANGUP: u32 = FIRST_SUBTYPE_FLAG << 3;
/// The protocol is being called with data: what it writes leaves when it returns.
pub const CORKED: u32 = FIRST_SUBTYPE_FLAG << 4;
const IN_FLUSH_LIST: u32 = FIRST_SUBTYPE_FLAG << 5;
const IN_RESUME_LIST: u32 = FIRST_SUBTYPE_FLAG << 6;
/// The protocol is a `BufferedProtocol`.
pub const BUFFERED: u32 = FIRST_SUBTYPE_FLAG << 7;
/// Whether it can be written is watched only while writes wait: a Unix socket tells of it whenever the peer has read.
const WATCHES_ON_DEMAND: u32 = FIRST_SUBTYPE_FLAG << 8;
const WATCHES_WRITES: u32 = FIRST_SUBTYPE_FLAG << 9;

#[repr(C)]
struct StreamObject {
    header: Header,
    stream: Stream,
}

// Python's allocator aligns objects to 16 bytes and no more.
const _: () = assert!(align_of::<StreamObject>() <= 16);

pub static STREAM_TYPE: AtomicPtr<PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// State of one stream transport.
pub struct Stream {
    base: TransportBase,
    /// How the protocol takes bytes, if it is native.
    native_protocol: Cell<Option<&'static NativeProtocol>>,
    pub server: LoopCell<Option<Ref>>,
    pub empty_waiter: LoopCell<Option<Ref>>,
    pub queue: LoopCell<WriteQueue>,
    /// How long a callback may hold back what it writes, in ticks of the processor's counter.
    pub cork: Cell<u64>,
    /// The poll before the socket took less than it was given: only an event of a later one says that it takes more.
    pub blocked_after: Cell<u64>,
    pub peer: LoopCell<Address>,
    pub local: LoopCell<Address>,
}

impl Deref for Stream {
    type Target = TransportBase;

    #[inline]
    fn deref(&self) -> &TransportBase {
        &self.base
    }
}

/// What a new stream is made of.
pub struct Parts {
    pub fd: RawFd,
    pub socket: Option<Ref>,
    pub protocol: Ref,
    pub server: Option<Ref>,
    pub extra: Option<Ref>,
    pub context: Ref,
    pub peer: Address,
}

impl Stream {
    /// The state of a transport object.
    ///
    /// # Safety
    /// `object` is a live stream transport.
    #[inline]
    pub unsafe fn of<'a>(object: *mut PyObject) -> &'a Self {
        // SAFETY: the caller's promise.
        unsafe { &(*object.cast::<StreamObject>()).stream }
    }

    /// `is_reading()`, once the stream has started and until the end of file.
    #[inline]
    pub fn wants_to_read(&self) -> bool {
        self.is(STARTED | PAUSED | CLOSING | EOF_READ | LOST, STARTED)
    }

    pub fn is_readable(&self) -> bool {
        self.has(READABLE)
    }

    #[inline]
    pub fn has_blocked_writes(&self) -> bool {
        self.has(BLOCKED)
    }

    #[inline]
    pub fn note_ready(&self, event: Event) {
        if event.readable {
            self.set(READABLE, true);
        }
        if event.closed {
            self.set(HANGUP, true);
        }
    }

    /// Whether what is written now waits for what else is, until the protocol returns or the iteration ends. It does not when
    /// the loop does not run, or in another thread, or when the callback under way has run for long.
    #[inline]
    pub fn gathers(&self, core: &LoopCore) -> bool {
        core.runs_here() && core.callback_ticks() < self.cork.get()
    }

    /// Has the loop send what was written when this iteration ends.
    #[inline]
    pub fn flush_later(&self, core: &LoopCore, me: *mut PyObject) {
        if !self.has(IN_FLUSH_LIST) {
            self.set(IN_FLUSH_LIST, true);
            // SAFETY: a method runs on a live object.
            let me = unsafe { Ref::borrowed(me) };
            let pending = IoRef {
                object: me,
                vtable: &STREAM,
            };
            core.to_flush.with(|list| list.push_back(pending));
        }
    }

    /// Has the loop read on in its next iteration.
    pub fn read_later(&self, core: &LoopCore, me: *mut PyObject) {
        if !self.has(IN_RESUME_LIST) {
            self.set(IN_RESUME_LIST, true);
            // SAFETY: a method runs on a live object.
            let me = unsafe { Ref::borrowed(me) };
            let pending = IoRef {
                object: me,
                vtable: &STREAM,
            };
            core.to_resume.with(|list| list.push_back(pending));
        }
    }

    /// How the protocol takes bytes, if it is native.
    #[inline]
    pub fn native_protocol(&self) -> Option<&'static NativeProtocol> {
        self.native_protocol.get()
    }

    /// Takes a protocol; data goes to it from now on.
    pub fn set_protocol(&self, protocol: &Ref) -> FfiResult<()> {
        // SAFETY: attached; both objects are live.
        let buffered = unsafe {
            ffi::PyObject_IsInstance(protocol.as_ptr(), Stdlib::get().buffered_protocol.as_ptr())
        };
        if buffered < 0 {
            return Err(crate::python::ErrSet);
        }
        self.set(BUFFERED, buffered == 1);
        self.native_protocol.set(native_protocol::find(protocol));
        drop(self.protocol.replace(Some(protocol.clone())));
        Ok(())
    }

    /// Registers the descriptor with the selector, once for its lifetime, and lets reading begin.
    pub fn start(&self, core: &LoopCore, me: *mut PyObject) -> FfiResult<()> {
        // What a protocol wrote before it closed has still to be sent.
        let is_over = self.is_closing() && self.queue.with(|queue| queue.is_empty());
        if self.has(STARTED | LOST) || is_over {
            return Ok(());
        }
        let fd = self.open_fd();
        let Some(token) = self.token() else {
            return Ok(());
        };
        let is_tcp = self.peer.with(|peer| matches!(peer, Address::Inet(_)));
        self.set(WATCHES_ON_DEMAND, !is_tcp);
        self.set(WATCHES_WRITES, is_tcp || self.has(BLOCKED));
        core.register_edge(fd, token, self.interest(), false)
            .map_err(|error| exceptions::os_error(&error))?;
        self.set(STARTED, true);
        self.update_hold(me);
        Ok(())
    }

    /// Breaks cycles for the collector.
    fn let_go(&self) {
        self.clear();
        drop(self.server.take());
        drop(self.empty_waiter.take());
    }

    fn interest(&self) -> Interest {
        Interest {
            readable: true,
            writable: self.has(WATCHES_WRITES),
        }
    }

    /// Has an event tell when the socket can be written, or no longer.
    pub fn watch_writes(&self, core: &LoopCore, wanted: bool) -> io::Result<()> {
        if !self.is(
            WATCHES_ON_DEMAND | STARTED | LOST,
            WATCHES_ON_DEMAND | STARTED,
        ) || self.has(WATCHES_WRITES) == wanted
        {
            return Ok(());
        }
        let Some(token) = self.token() else {
            return Ok(());
        };
        self.set(WATCHES_WRITES, wanted);
        core.register_edge(self.open_fd(), token, self.interest(), true)
    }
}

impl Transport for Stream {
    fn is_active(&self) -> bool {
        self.wants_to_read() || self.queue.with(|queue| !queue.is_empty())
    }

    fn discard(&self) {
        drop(self.queue.take());
    }

    fn send_gathered(&self) {
        write::send_last(self);
    }

    fn before_close(&self) {
        // `get_extra_info("sockname")` still answers when the connection is gone.
        let fd = self.open_fd();
        self.local.with(|local| local.fill(fd, Side::Local));
    }

    fn after_close(&self, me: *mut PyObject) -> FfiResult<()> {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        if let Some(server) = self.server.take() {
            detach(py, &server, me)?;
        }
        if let Some(waiter) = self.empty_waiter.get() {
            let error =
                pyo3::exceptions::PyConnectionError::new_err("Connection is closed by peer");
            let waiter = waiter.bind(py);
            if !waiter.call_method0("done")?.is_truthy()? {
                waiter.call_method1("set_exception", (error.into_value(py),))?;
            }
        }
        Ok(())
    }
}

/// `server._detach(transport)`, or without the argument before Python 3.13.
fn detach(py: Python<'_>, server: &Ref, me: *mut PyObject) -> PyResult<()> {
    let server = server.bind(py);
    if Stdlib::get().attach_takes_transport {
        // SAFETY: the transport is live.
        server.call_method1("_detach", (unsafe { Bound::from_borrowed_ptr(py, me) },))?;
    } else {
        server.call_method0("_detach")?;
    }
    Ok(())
}

/// Makes a transport for a connected, non-blocking socket. It starts with [`Stream::start`].
///
/// The descriptor belongs to the transport from here on: when this fails, it is closed.
pub fn create(py: Python<'_>, event_loop: LoopRef, parts: Parts) -> PyResult<Ref> {
    let core = event_loop.core();
    let guard = FdGuard::new(parts.fd, parts.socket.is_none());
    let class = match core.transport_class.get() {
        Some(class) => class,
        None => {
            let class: Ref = package::stream_transport(py)?
                .cast::<PyType>()?
                .clone()
                .into();
            drop(core.transport_class.replace(Some(class.clone())));
            class
        }
    };
    let ty = class.as_ptr().cast::<PyTypeObject>();
    // SAFETY: the class is a subclass of `StreamTransport`, made in Python, so it allocates with room for the state;
    // the state is written before anything can look at the object.
    let me = unsafe {
        let Some(alloc) = (*ty).tp_alloc else {
            return Err(PyImportError::new_err(
                "SocketTransport cannot be allocated",
            ));
        };
        let me = Ref::new(alloc(ty, 0))?;
        guard.release();
        let state = &raw mut (*me.as_ptr().cast::<StreamObject>()).stream;
        state.write(Stream {
            base: TransportBase::new(parts.fd, event_loop.clone(), parts.socket, parts.context),
            native_protocol: Cell::new(None),
            server: LoopCell::new(parts.server),
            empty_waiter: LoopCell::default(),
            queue: LoopCell::default(),
            cork: Cell::new(core.cork.get()),
            blocked_after: Cell::new(0),
            peer: LoopCell::new(parts.peer),
            local: LoopCell::default(),
        });
        if let Some(extra) = parts.extra {
            object::set_extra(me.as_ptr(), extra);
        }
        me
    };
    // SAFETY: just made.
    let stream = unsafe { Stream::of(me.as_ptr()) };
    let set_up = stream.set_protocol(&parts.protocol).and_then(|()| {
        // SAFETY: just made.
        unsafe { stream.register(core, me.as_ptr(), &STREAM)? };
        attach(py, stream, &me)
    });
    if set_up.is_err() {
        let error = PyErr::fetch(py);
        // A server that did not take the transport must not be told that it is gone.
        drop(stream.server.take());
        if stream.close_descriptor(me.as_ptr()).is_err() {
            PyErr::fetch(py).write_unraisable(py, Some(me.bind(py)));
        }
        return Err(error);
    }
    Ok(me)
}

/// `server._attach(transport)`, or without the argument before Python 3.13.
fn attach(py: Python<'_>, stream: &Stream, me: &Ref) -> FfiResult<()> {
    if let Some(server) = stream.server.get() {
        let server = server.bind(py);
        if Stdlib::get().attach_takes_transport {
            server.call_method1("_attach", (me.bind(py),))?;
        } else {
            server.call_method0("_attach")?;
        }
    }
    Ok(())
}

/// What the loop asks of a stream.
static STREAM: SourceVTable = SourceVTable {
    ready,
    resume,
    flush,
    is_exclusive: |stream| {
        // SAFETY: the loop passes a live stream.
        unsafe { Stream::of(stream) }.is_exclusive()
    },
    is_held: |stream| {
        // SAFETY: the loop passes a live stream.
        unsafe { Stream::of(stream) }.is_held()
    },
    dropped: |stream| {
        // SAFETY: the loop passes a live stream.
        unsafe { Stream::of(stream) }.dropped_by_table(stream);
    },
    is_reader: false,
};

#[inline]
unsafe fn ready(cx: LoopContext<'_>, me: &Ref, event: Event) -> FfiResult<()> {
    // SAFETY: the loop passes a live stream.
    let it = unsafe { Stream::of(me.as_ptr()) };
    it.note_ready(event);
    // Reading comes first, as in asyncio: what a peer has said before it went is not lost to a write that fails.
    if event.readable && it.wants_to_read() {
        read::read(cx, me, it)?;
    }
    if event.writable {
        if it.has_blocked_writes() {
            if it.blocked_after.get() == cx.core.last_poll() {
                return Ok(());
            }
            if let Some(error) = write::try_flush(cx.event_loop, me, it)? {
                // It may have come after the poll.
                if it.wants_to_read() {
                    read::read(cx, me, it)?;
                }
                return write::failed(me, it, error);
            }
        } else {
            // If that fails, it goes on being told.
            let _ = it.watch_writes(cx.core, false);
        }
    }
    Ok(())
}

unsafe fn resume(cx: LoopContext<'_>, me: &Ref) -> FfiResult<()> {
    // SAFETY: the loop passes a live stream.
    let it = unsafe { Stream::of(me.as_ptr()) };
    it.set(IN_RESUME_LIST, false);
    if it.wants_to_read() && it.is_readable() {
        read::read(cx, me, it)?;
    }
    Ok(())
}

unsafe fn flush(cx: LoopContext<'_>, me: &Ref) -> FfiResult<()> {
    // SAFETY: the loop passes a live stream.
    let it = unsafe { Stream::of(me.as_ptr()) };
    it.set(IN_FLUSH_LIST, false);
    if it.has_blocked_writes() {
        return Ok(());
    }
    write::flush(cx.event_loop, me, it)
}

unsafe extern "C" fn traverse(
    object: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live transport; before its state is written, the words are zero, which is `None`.
    unsafe {
        let stream = Stream::of(object);
        let own = [&stream.server, &stream.empty_waiter]
            .map(|slot| slot.with(|slot| slot.as_ref().map_or(ptr::null_mut(), Ref::as_ptr)));
        object::traverse(object, visit, arg, stream.objects().into_iter().chain(own))
    }
}

unsafe extern "C" fn clear(object: *mut PyObject) -> c_int {
    // SAFETY: as for `traverse`. The loop and the descriptor stay until the object dies, which needs them.
    unsafe {
        object::clear(object);
        Stream::of(object).let_go();
    }
    0
}

unsafe extern "C" fn dealloc(object: *mut PyObject) {
    // SAFETY: the last reference is gone. A subclass's own part is torn down before this runs.
    unsafe {
        let ty = ffi::Py_TYPE(object);
        ffi::PyObject_GC_UnTrack(object.cast());
        Stream::of(object).finalize();
        object::end(object);
        Stream::of(object).let_go();
        ptr::drop_in_place(&raw mut (*object.cast::<StreamObject>()).stream);
        if let Some(free) = (*ty).tp_free {
            free(object.cast());
        }
        ffi::Py_DECREF(ty.cast());
    }
}

/// Makes `StreamTransport` and adds it to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let slots = Slots::default()
        .add(ffi::Py_tp_traverse, traverse as *mut c_void)
        .add(ffi::Py_tp_clear, clear as *mut c_void)
        .add(ffi::Py_tp_dealloc, dealloc as *mut c_void);
    // SAFETY: the functions are for this object.
    let class = unsafe {
        object::make_class(
            py,
            c"hybridloop._core.StreamTransport",
            size_of::<StreamObject>(),
            slots,
            methods::methods(),
            attributes::attributes(),
        )?
    };
    STREAM_TYPE.store(class.as_ptr().cast(), Ordering::Relaxed);
    module.add("StreamTransport", class.bind(py))
}
