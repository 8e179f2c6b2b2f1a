//! The stream transport: state, lifetime and protocol.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::mem::size_of;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use hybridloop_reactor::{Event, Token};
use pyo3::exceptions::PyImportError;
use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::address::{Address, Side};
use super::sink::{self, Sink};
use super::write::WriteQueue;
use super::{methods, read, write};
use crate::event_loop::{closed_error, errors, Caller, Kind, LoopCore, Native, Pending, Source};
use crate::ffi::typespec::{getset_end, method_end, Slots};
use crate::ffi::{context, Local, Ref, Res};
use crate::stdlib::Stdlib;

/// `connection_made()` is over: the socket may be read.
pub const STARTED: u32 = 1;
pub const PAUSED: u32 = 1 << 1;
pub const CLOSING: u32 = 1 << 2;
/// `write_eof()` was called.
pub const EOF_WRITTEN: u32 = 1 << 3;
/// The peer has ended its side, and the protocol knows.
pub const EOF_READ: u32 = 1 << 4;
/// The socket may have data: set by an event, cleared by a read that came back short.
pub const READABLE: u32 = 1 << 5;
/// The last event told of an end of file or an error behind the data: a short read is not the last.
pub const HANGUP: u32 = 1 << 6;
/// The socket took less than it was given: writes wait for an event.
pub const BLOCKED: u32 = 1 << 7;
/// The protocol is being called with data: what it writes leaves when it returns.
pub const CORKED: u32 = 1 << 8;
const IN_FLUSH_LIST: u32 = 1 << 9;
const IN_AGAIN_LIST: u32 = 1 << 10;
/// The descriptor table's pointer counts as a reference.
const HELD: u32 = 1 << 11;
/// The protocol is a `BufferedProtocol`.
pub const BUFFERED: u32 = 1 << 12;
/// `pause_writing()` was called and `resume_writing()` was not.
pub const PROTOCOL_PAUSED: u32 = 1 << 13;
/// `connection_lost()` was called; the descriptor is closed.
pub const LOST: u32 = 1 << 14;

/// asyncio's default high-water mark, in bytes.
const HIGH_WATER: usize = 64 * 1024;

#[repr(C)]
struct StreamObject {
    ob_base: ffi::PyObject,
    /// `asyncio.BaseTransport._extra`: the dictionary behind `get_extra_info()`, once somebody asks.
    extra: *mut PyObject,
    /// Where asyncio's `_FlowControlMixin` keeps `_loop`, `_protocol_paused` and the water marks. Always null: the
    /// attributes are answered from the state below.
    flow_control: [*mut PyObject; 4],
    stream: Stream,
}

// Python's allocator aligns objects to 16 bytes and no more.
const _: () = assert!(align_of::<StreamObject>() <= 16);

static STREAM_TYPE: AtomicPtr<PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// State of one stream transport.
pub struct Stream {
    pub fd: Cell<RawFd>,
    token: Cell<Option<Token>>,
    flags: Cell<u32>,
    /// As in asyncio: not 0 once `connection_lost()` is on its way; counts writes that came after.
    pub lost_writes: Cell<u32>,
    pub event_loop: Local<Option<Ref>>,
    pub protocol: Local<Option<Ref>>,
    /// How the protocol takes bytes, if it is native.
    sink: Cell<Option<&'static Sink>>,
    pub server: Local<Option<Ref>>,
    /// The Python socket, which owns the descriptor once it exists.
    pub socket: Local<Option<Ref>>,
    context: Local<Option<Ref>>,
    pub empty_waiter: Local<Option<Ref>>,
    pub queue: Local<WriteQueue>,
    pub high_water: Cell<usize>,
    pub low_water: Cell<usize>,
    pub peer: Local<Address>,
    pub local: Local<Address>,
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

    #[inline]
    pub fn has(&self, flags: u32) -> bool {
        self.flags.get() & flags != 0
    }

    #[inline]
    pub fn set(&self, flags: u32, on: bool) {
        let old = self.flags.get();
        self.flags.set(if on { old | flags } else { old & !flags });
    }

    /// The descriptor while it is open, −1 afterwards: its number may belong to somebody else by then.
    pub fn open_fd(&self) -> RawFd {
        if self.has(LOST) {
            -1
        } else {
            self.fd.get()
        }
    }

    pub fn is_closing(&self) -> bool {
        self.has(CLOSING)
    }

    /// `is_reading()`, once the stream has started and until the end of file.
    #[inline]
    pub fn wants_to_read(&self) -> bool {
        self.flags.get() & (STARTED | PAUSED | CLOSING | EOF_READ | LOST) == STARTED
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

    /// Has the loop send what was written when this turn ends.
    #[inline]
    pub fn flush_later(&self, core: &LoopCore, me: *mut PyObject) {
        if !self.has(IN_FLUSH_LIST) {
            self.set(IN_FLUSH_LIST, true);
            // SAFETY: a method runs on a live object.
            let me = unsafe { Ref::borrowed(me) };
            let pending = Pending {
                object: me,
                kind: &STREAM,
            };
            core.flush.with(|list| list.push_back(pending));
        }
    }

    /// Has the loop read on in its next turn.
    pub fn read_later(&self, core: &LoopCore, me: *mut PyObject) {
        if !self.has(IN_AGAIN_LIST) {
            self.set(IN_AGAIN_LIST, true);
            // SAFETY: a method runs on a live object.
            let me = unsafe { Ref::borrowed(me) };
            let pending = Pending {
                object: me,
                kind: &STREAM,
            };
            core.again.with(|list| list.push_back(pending));
        }
    }

    /// Lets the loop keep the transport alive while it reads or has bytes to send, as asyncio's selector does.
    pub fn update_hold(&self, me: *mut PyObject) {
        let wanted = self.token.get().is_some()
            && self.has(STARTED)
            && !self.has(LOST)
            && (self.wants_to_read() || self.queue.with(|queue| !queue.is_empty()));
        if wanted != self.has(HELD) {
            self.set(HELD, wanted);
            // SAFETY: the caller holds the object, so taking back this reference does not end it.
            unsafe {
                if wanted {
                    ffi::Py_INCREF(me);
                } else {
                    ffi::Py_DECREF(me);
                }
            }
        }
    }

    /// Takes note that the descriptor table has dropped its pointer, with the reference if it was one.
    pub fn dropped_by_table(&self, me: *mut PyObject) {
        self.token.set(None);
        self.update_hold(me);
    }

    /// How the protocol takes bytes, if it is native.
    #[inline]
    pub fn sink(&self) -> Option<&'static Sink> {
        self.sink.get()
    }

    /// Runs protocol code in the transport's own context.
    #[inline]
    pub fn in_context<T>(&self, body: impl FnOnce() -> Res<T>) -> Res<T> {
        match self.context.get() {
            // SAFETY: the clone keeps the context alive.
            Some(context) => unsafe { context::run_in(context.as_ptr(), body) },
            None => body(),
        }
    }

    /// Calls a method of the protocol in the transport's context. It is looked up each time: a protocol may change.
    #[inline]
    pub fn call_protocol<const N: usize>(&self, name: &Ref, args: [*mut PyObject; N]) -> Res<Ref> {
        const MAX: usize = 2;
        let protocol = self.protocol.get().unwrap_or_else(Ref::none);
        // One free slot, the protocol, the arguments.
        let mut values = [ptr::null_mut(); MAX + 1];
        values[1] = protocol.as_ptr();
        values[2..2 + N].copy_from_slice(&args);
        // SAFETY: attached; the arguments are live.
        self.in_context(|| unsafe {
            Ref::new(ffi::PyObject_VectorcallMethod(
                name.as_ptr(),
                values.as_ptr().add(1),
                (1 + N) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
                ptr::null_mut(),
            ))
        })
    }

    /// Takes a protocol; data goes to it from now on.
    pub fn set_protocol(&self, protocol: &Ref) -> Res<()> {
        // SAFETY: attached; both objects are live.
        let buffered = unsafe {
            ffi::PyObject_IsInstance(protocol.as_ptr(), Stdlib::get().buffered_protocol.as_ptr())
        };
        if buffered < 0 {
            return Err(crate::ffi::Raised);
        }
        self.set(BUFFERED, buffered == 1);
        self.sink.set(sink::find(protocol));
        drop(self.protocol.replace(Some(protocol.clone())));
        Ok(())
    }

    /// Registers the descriptor with the selector, once for its lifetime, and lets reading begin.
    pub fn start(&self, core: &LoopCore, me: *mut PyObject) -> Res<()> {
        if self.has(STARTED | LOST) || self.is_closing() {
            return Ok(());
        }
        let fd = self.fd.get();
        let (token, known) = match self.token.get() {
            Some(token) => (token, false),
            None => return Ok(()),
        };
        core.registrar
            .register_edge(fd, token, known)
            .map_err(|error| errors::os_error(&error))?;
        self.set(STARTED, true);
        self.update_hold(me);
        Ok(())
    }

    /// Reports the exception that is set and ends the connection, by the transport's `_fatal_error()`.
    #[cold]
    pub fn fatal_error(me: &Ref, message: &str) -> Res<()> {
        // SAFETY: called from the loop or a method, attached.
        let py = unsafe { Python::assume_attached() };
        let error = errors::take(py)?;
        let name = &Stdlib::get().names._fatal_error;
        let name = name
            .bind(py)
            .cast::<pyo3::types::PyString>()
            .map_err(PyErr::from)?;
        me.bind(py)
            .call_method1(name, (error.into_value(py), message))?;
        Ok(())
    }

    /// Ends the connection without sending what is left; `connection_lost(error)` follows.
    pub fn force_close(&self, me: *mut PyObject, error: &Ref) -> Res<()> {
        if self.lost_writes.get() > 0 {
            return Ok(());
        }
        drop(self.queue.take());
        self.set(CLOSING, true);
        self.set(BLOCKED, false);
        self.lost_writes.set(1);
        self.schedule_connection_lost(me, error)
    }

    /// Has the loop call `connection_lost(error)`, in the transport's context.
    pub fn schedule_connection_lost(&self, me: *mut PyObject, error: &Ref) -> Res<()> {
        let Some(event_loop) = self.event_loop.get() else {
            return Ok(());
        };
        // SAFETY: the loop of a transport is a LoopCore; all objects are live.
        unsafe {
            let py = Python::assume_attached();
            let core = LoopCore::of(event_loop.as_ptr());
            let callback = Bound::from_borrowed_ptr(py, me).getattr("_call_connection_lost")?;
            if core.is_closed() {
                // Nothing will run the callback; the descriptor must not stay open for that.
                self.close_descriptor(me)?;
                return Err(closed_error());
            }
            core.soon(
                event_loop.as_ptr(),
                callback.as_ptr(),
                &[error.as_ptr()],
                self.context.get(),
            )?;
        }
        self.update_hold(me);
        Ok(())
    }

    /// Calls `connection_lost(error)` and closes the descriptor, whatever the protocol does.
    pub fn connection_lost(&self, me: *mut PyObject, error: *mut PyObject) -> Res<()> {
        if self.has(LOST) {
            return Ok(());
        }
        // The handle that runs this is in the transport's context already.
        let protocol = self.protocol.get().unwrap_or_else(Ref::none);
        let args = [protocol.as_ptr(), error];
        // SAFETY: attached; the arguments are live.
        let called = unsafe {
            Ref::new(ffi::PyObject_VectorcallMethod(
                Stdlib::get().names.connection_lost.as_ptr(),
                args.as_ptr(),
                2,
                ptr::null_mut(),
            ))
        };
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        let raised = called.err().map(|_| PyErr::fetch(py));
        let closed = self.close_descriptor(me);
        if let Some(error) = raised {
            return Err(error.into());
        }
        closed
    }

    /// Closes the descriptor and lets go of everything.
    pub fn close_descriptor(&self, me: *mut PyObject) -> Res<()> {
        if self.has(LOST) {
            return Ok(());
        }
        // `get_extra_info("sockname")` still answers when the connection is gone.
        let fd = self.fd.get();
        self.local.with(|local| local.fill(fd, Side::Local));
        self.set(LOST | CLOSING, true);
        // SAFETY: the caller holds the object; this keeps it while references are dropped.
        let _alive = unsafe { Ref::borrowed(me) };
        self.unlink(fd);
        self.update_hold(me);
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        let socket = self.socket.get();
        let mut result = Ok(());
        if let Some(socket) = socket {
            result = socket.bind(py).call_method0("close").map(drop);
        } else {
            // SAFETY: the stream owns the descriptor, and LOST says that it no longer does.
            unsafe { libc::close(fd) };
        }
        let server = self.server.take();
        drop(self.queue.take());
        drop(self.protocol.take());
        drop(self.event_loop.take());
        drop(self.context.take());
        if let Some(server) = server {
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
        result?;
        Ok(())
    }

    /// Takes the stream out of the descriptor table.
    fn unlink(&self, fd: RawFd) {
        if let (Some(token), Some(event_loop)) = (self.token.take(), self.event_loop.get()) {
            // SAFETY: the loop of a transport is a LoopCore.
            let core = unsafe { LoopCore::of(event_loop.as_ptr()) };
            drop(core.descriptors.with(|all| all.remove(fd, token)));
        }
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
pub fn create(
    py: Python<'_>,
    core: &LoopCore,
    event_loop: *mut PyObject,
    parts: Parts,
) -> PyResult<Ref> {
    let class = match core.transport_class.get() {
        Some(class) => class,
        None => {
            let class: Ref = py
                .import("hybridloop.transports")?
                .getattr("SocketTransport")?
                .cast_into::<PyType>()?
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
        let object = me.as_ptr().cast::<StreamObject>();
        ptr::addr_of_mut!((*object).stream).write(Stream {
            fd: Cell::new(parts.fd),
            token: Cell::new(None),
            flags: Cell::new(0),
            lost_writes: Cell::new(0),
            event_loop: Local::new(Some(Ref::borrowed(event_loop))),
            protocol: Local::default(),
            sink: Cell::new(None),
            server: Local::new(parts.server),
            socket: Local::new(parts.socket),
            context: Local::new(Some(parts.context)),
            empty_waiter: Local::default(),
            queue: Local::default(),
            high_water: Cell::new(HIGH_WATER),
            low_water: Cell::new(HIGH_WATER / 4),
            peer: Local::new(parts.peer),
            local: Local::default(),
        });
        if let Some(extra) = parts.extra {
            (*object).extra = extra.into_ptr();
        }
        me
    };
    // SAFETY: just made.
    let stream = unsafe { Stream::of(me.as_ptr()) };
    stream.set_protocol(&parts.protocol)?;
    let (token, replaced) = core.descriptors.with(|all| {
        let native = Native {
            object: me.as_ptr(),
            kind: &STREAM,
        };
        all.insert(parts.fd, Source::Native(native))
    });
    if let Some(replaced) = replaced {
        replaced.forget();
    }
    stream.token.set(Some(token));
    if let Some(server) = stream.server.get() {
        let server = server.bind(py);
        if Stdlib::get().attach_takes_transport {
            server.call_method1("_attach", (me.bind(py),))?;
        } else {
            server.call_method0("_attach")?;
        }
    }
    Ok(me)
}

/// What the loop asks of a stream.
static STREAM: Kind = Kind {
    ready,
    go_on,
    flush,
    is_exclusive: |stream| {
        // SAFETY: the loop passes a live stream.
        !unsafe { Stream::of(stream) }.is_closing()
    },
    is_held: |stream| {
        // SAFETY: the loop passes a live stream.
        unsafe { Stream::of(stream) }.has(HELD)
    },
    dropped: |stream| {
        // SAFETY: the loop passes a live stream.
        unsafe { Stream::of(stream) }.dropped_by_table(stream);
    },
    is_reader: false,
};

#[inline]
unsafe fn ready(caller: Caller<'_>, me: &Ref, event: Event) -> Res<()> {
    // SAFETY: the loop passes a live stream.
    let it = unsafe { Stream::of(me.as_ptr()) };
    it.note_ready(event);
    if event.writable && it.has_blocked_writes() {
        write::flush(caller.event_loop, me, it)?;
    }
    if event.readable && it.wants_to_read() {
        read::read(caller, me, it)?;
    }
    Ok(())
}

unsafe fn go_on(caller: Caller<'_>, me: &Ref) -> Res<()> {
    // SAFETY: the loop passes a live stream.
    let it = unsafe { Stream::of(me.as_ptr()) };
    it.set(IN_AGAIN_LIST, false);
    if it.wants_to_read() && it.is_readable() {
        read::read(caller, me, it)?;
    }
    Ok(())
}

unsafe fn flush(caller: Caller<'_>, me: &Ref) -> Res<()> {
    // SAFETY: the loop passes a live stream.
    let it = unsafe { Stream::of(me.as_ptr()) };
    it.set(IN_FLUSH_LIST, false);
    write::flush(caller.event_loop, me, it)
}

unsafe extern "C" fn traverse(
    object: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live transport; before its state is written, the words are zero, which is `None`.
    unsafe {
        let this = object.cast::<StreamObject>();
        let stream = &(*this).stream;
        let mut fields = [ptr::null_mut(); 9];
        fields[0] = (*this).extra;
        fields[1] = ffi::Py_TYPE(object).cast();
        for (field, slot) in fields[2..].iter_mut().zip([
            &stream.event_loop,
            &stream.protocol,
            &stream.server,
            &stream.socket,
            &stream.context,
            &stream.empty_waiter,
        ]) {
            *field = slot.with(|slot| slot.as_ref().map_or(ptr::null_mut(), Ref::as_ptr));
        }
        for field in fields {
            if !field.is_null() {
                let stop = visit(field, arg);
                if stop != 0 {
                    return stop;
                }
            }
        }
    }
    0
}

unsafe extern "C" fn clear(object: *mut PyObject) -> c_int {
    // SAFETY: as for `traverse`. The loop and the descriptor stay until the object dies, which needs them.
    unsafe {
        let this = object.cast::<StreamObject>();
        let stream = &(*this).stream;
        ffi::Py_XDECREF(std::mem::replace(&mut (*this).extra, ptr::null_mut()));
        for slot in [
            &stream.protocol,
            &stream.server,
            &stream.context,
            &stream.empty_waiter,
        ] {
            drop(slot.take());
        }
    }
    0
}

unsafe extern "C" fn dealloc(object: *mut PyObject) {
    // SAFETY: the last reference is gone. A subclass's own part is torn down before this runs.
    unsafe {
        let ty = ffi::Py_TYPE(object);
        ffi::PyObject_GC_UnTrack(object.cast());
        let this = object.cast::<StreamObject>();
        let stream = &(*this).stream;
        let fd = stream.fd.get();
        stream.unlink(fd);
        // `__del__` closes what was left open; without it, or if it failed, the descriptor is closed here.
        let owned_here = stream.socket.with(|socket| socket.is_none());
        if owned_here && !stream.has(LOST) && stream.event_loop.with(|l| l.is_some()) {
            libc::close(fd);
        }
        clear(object);
        ptr::drop_in_place(&raw mut (*this).stream);
        if let Some(free) = (*ty).tp_free {
            free(object.cast());
        }
        ffi::Py_DECREF(ty.cast());
    }
}

/// Makes `StreamTransport` and adds it to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let base = py
        .import("asyncio.transports")?
        .getattr("_FlowControlMixin")?
        .cast_into::<PyType>()?;
    let size: usize = base.getattr("__basicsize__")?.extract()?;
    if size != std::mem::offset_of!(StreamObject, stream) {
        return Err(PyImportError::new_err(format!(
            "asyncio's transport of this Python is laid out in a way that hybridloop does not know ({size} bytes); please \
             upgrade hybridloop"
        )));
    }
    let slots = Slots::default()
        .add(ffi::Py_tp_traverse, traverse as *mut c_void)
        .add(ffi::Py_tp_clear, clear as *mut c_void)
        .add(ffi::Py_tp_dealloc, dealloc as *mut c_void)
        .table(ffi::Py_tp_methods, methods::methods(), method_end())
        .table(ffi::Py_tp_getset, methods::attributes(), getset_end());
    // SAFETY: the layout begins with the words of the base, as just checked.
    let class = unsafe {
        slots.build(
            py,
            c"hybridloop._core.StreamTransport",
            size_of::<StreamObject>(),
            ffi::Py_TPFLAGS_BASETYPE,
            Some(&base),
        )?
    };
    STREAM_TYPE.store(class.as_ptr().cast(), Ordering::Relaxed);
    module.add("StreamTransport", class.bind(py))
}
