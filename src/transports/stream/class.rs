//! The Python class of stream transports, the functions that the loop calls, and how transports are made.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use hybridloop_reactor::Event;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi::{PyObject, PyTypeObject};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::event_loop::{file_descriptor, install, LoopContext, LoopCore, SourceVTable};
use crate::fastcall;
use crate::python::package;
use crate::python::{context, Args, FfiResult, Ref};
use crate::transports::address::{Address, Side};
use crate::transports::base::{TransportBase, BLOCKED};
use crate::transports::lifecycle::Transport;
use crate::transports::object;
use crate::transports::socket::{set_nodelay, FdGuard};
use crate::transports::stream::state::{
    StreamTransport, CORKED, IN_FLUSH_LIST, IN_RESUME_LIST, READABLE, STREAM_TYPE,
};
use crate::transports::stream::{attributes, methods, read, server, write};

/// What a new transport gets.
pub struct StreamParts {
    pub fd: RawFd,
    pub socket: Option<Ref>,
    pub protocol: Ref,
    pub server: Option<Ref>,
    pub extra: Option<Ref>,
    pub context: Ref,
    pub peer: Address,
}

/// Makes a transport for a connected, non-blocking socket. It reads once [`StreamTransport::start`] is called.
///
/// The transport owns the descriptor from here on: if this fails, it is closed.
pub fn create(cx: LoopContext<'_>, parts: StreamParts) -> PyResult<Ref> {
    let (py, core) = (cx.py, cx.core);
    let guard = FdGuard::new(parts.fd, parts.socket.is_none());
    let class = transport_class(cx)?;
    let ty = class.as_ptr().cast::<PyTypeObject>();
    let (fd, event_loop) = (parts.fd, cx.loop_ref());
    let base = TransportBase::new(fd, event_loop, parts.socket, parts.context, &VTABLE);
    let state = StreamTransport::new(base, parts.server, parts.peer, core.cork.get());
    // SAFETY: `transport_class` is a subclass of `StreamTransport`.
    let slf = unsafe { object::new(ty, state, parts.extra)? };
    guard.release();
    // SAFETY: `slf` was just made, with this layout.
    let transport = unsafe { StreamTransport::of(slf.as_ptr()) };
    let set_up = transport.set_protocol(&parts.protocol).and_then(|()| {
        // SAFETY: `slf` is the object of `transport`.
        unsafe { transport.register(core, &slf)? };
        if let Some(server) = transport.server.get() {
            server::attach(py, &server, &slf)?;
        }
        Ok(())
    });
    if set_up.is_err() {
        let error = PyErr::fetch(py);
        // The server has not counted the transport, and must not be told that it is closed.
        drop(transport.server.take());
        if transport.close_descriptor(py, &slf).is_err() {
            PyErr::fetch(py).write_unraisable(py, Some(slf.bind(py)));
        }
        return Err(error);
    }
    Ok(slf)
}

/// `hybridloop.loop.transports.SocketTransport`, which the Python package provides.
fn transport_class(cx: LoopContext<'_>) -> PyResult<Ref> {
    if let Some(class) = cx.core.transport_class.get() {
        return Ok(class);
    }
    let class: Ref = package::stream_transport(cx.py)?
        .cast::<PyType>()?
        .clone()
        .into();
    drop(cx.core.transport_class.replace(Some(class.clone())));
    Ok(class)
}

/// `_new_stream_transport(sock, protocol, waiter, extra, server, context)`: makes a transport for a connected socket. Its
/// callbacks run in `context`, or in a copy of the current context if that is `None`.
unsafe fn new_stream_transport(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let [socket, protocol, waiter, extra, server, context] = args.positional else {
        return Err(PyTypeError::new_err("_new_stream_transport() takes 6 arguments").into());
    };
    // SAFETY: CPython calls a method of the loop `slf` in an attached thread; arguments are live during the call.
    let (cx, [socket, protocol, waiter, extra, server, context]) = unsafe {
        let args = [socket, protocol, waiter, extra, server, context];
        let cx = LoopContext::new(Python::assume_attached(), slf);
        (cx, args.map(|arg| Ref::from_ptr_ref(arg)))
    };
    cx.core.check_open()?;
    let given = |object: &Ref| (!object.bind(cx.py).is_none()).then(|| object.clone());
    // SAFETY: the references keep the objects alive.
    let (fd, context) = unsafe {
        (
            file_descriptor(socket.as_ptr())?,
            context::given_or_copy(context.as_ptr())?,
        )
    };
    set_nodelay(fd);
    let mut peer = Address::default();
    peer.query(fd, Side::Peer);
    let parts = StreamParts {
        fd,
        socket: given(socket),
        protocol: protocol.clone(),
        server: given(server),
        extra: given(extra),
        context: context.clone(),
        peer,
    };
    let transport = create(cx, parts)?;
    // SAFETY: `create` makes stream transports.
    let state = unsafe { StreamTransport::of(transport.as_ptr()) };
    // The address has to be known when the program closes the socket.
    state.local.with(|local| local.query(fd, Side::Local));
    let connection_made = protocol.bind(cx.py).getattr("connection_made")?.into();
    cx.call_soon(&connection_made, [&transport], Some(context.clone()))?;
    let start = transport.bind(cx.py).getattr("_start")?.into();
    cx.call_soon(&start, [waiter], Some(context))?;
    Ok(transport)
}

/// The functions that the loop calls on stream transports.
static VTABLE: SourceVTable = SourceVTable {
    ready,
    resume,
    flush,
    uncork,
    is_exclusive: |transport| {
        // SAFETY: the loop passes a live object of this vtable.
        unsafe { StreamTransport::of(transport) }.is_exclusive()
    },
    is_held: |transport| {
        // SAFETY: the loop passes a live object of this vtable.
        unsafe { StreamTransport::of(transport) }.is_held()
    },
    dropped: |transport| {
        // SAFETY: the loop passes a live object of this vtable.
        unsafe { StreamTransport::of(transport).on_deregistered(Ref::from_ptr_ref(&transport)) };
    },
    is_reader: false,
};

#[inline]
unsafe fn ready(cx: LoopContext<'_>, slf: &Ref, event: Event) -> FfiResult<()> {
    // SAFETY: the loop passes a live object of this vtable.
    let transport = unsafe { StreamTransport::of(slf.as_ptr()) };
    transport.note_event(event);
    // Like asyncio, this reads first, so that a write that fails does not lose what the peer has sent before it closed.
    if event.readable && transport.wants_to_read() {
        read::read(cx, slf, transport)?;
    }
    if event.writable {
        if transport.has(BLOCKED) {
            if transport.blocked_at_poll.get() == cx.core.last_poll() {
                return Ok(());
            }
            if let Some(error) = write::try_flush(cx, slf, transport)? {
                // Data may have come after the poll.
                if transport.wants_to_read() {
                    read::read(cx, slf, transport)?;
                }
                return write::write_failed(cx.py, slf, transport, &error);
            }
        } else {
            // If that fails, the events continue.
            let _ = transport.set_write_interest(cx.core, false);
        }
    }
    Ok(())
}

unsafe fn resume(cx: LoopContext<'_>, slf: &Ref) -> FfiResult<()> {
    // SAFETY: the loop passes a live object of this vtable.
    let transport = unsafe { StreamTransport::of(slf.as_ptr()) };
    transport.set(IN_RESUME_LIST, false);
    if transport.wants_to_read() && transport.has(READABLE) {
        read::read(cx, slf, transport)?;
    }
    Ok(())
}

unsafe fn flush(cx: LoopContext<'_>, slf: &Ref) -> FfiResult<()> {
    // SAFETY: the loop passes a live object of this vtable.
    let transport = unsafe { StreamTransport::of(slf.as_ptr()) };
    transport.set(IN_FLUSH_LIST, false);
    if transport.has(BLOCKED) {
        return Ok(());
    }
    write::flush(cx, slf, transport)
}

unsafe fn uncork(cx: LoopContext<'_>, slf: &Ref) -> FfiResult<()> {
    // SAFETY: the loop passes a live object of this vtable.
    let transport = unsafe { StreamTransport::of(slf.as_ptr()) };
    if !transport.has(CORKED) {
        return Ok(());
    }
    transport.set(CORKED, false);
    if let (Some(native), Some(protocol)) = (transport.native_protocol(), transport.protocol.get())
    {
        // SAFETY: `set_protocol` has stored `native` together with the protocol, for which the lookup returned it.
        unsafe { (native.uncork)(cx, &protocol)? };
    }
    if !transport.has(BLOCKED) && transport.queue.with(|queue| !queue.is_empty()) {
        transport.schedule_flush(cx.core, slf);
    }
    Ok(())
}

/// Adds `StreamTransport` to the module, and the method that makes transports to the loop.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    // SAFETY: methods and attributes are those of `StreamTransport`.
    let class = unsafe {
        object::make_class::<StreamTransport>(
            py,
            c"hybridloop._core.StreamTransport",
            methods::methods(),
            attributes::attributes(),
        )?
    };
    STREAM_TYPE.store(class.as_ptr().cast(), Ordering::Relaxed);
    module.add("StreamTransport", class.bind(py))?;
    install(
        &py.get_type::<LoopCore>(),
        [(
            fastcall!(c"_new_stream_transport", new_stream_transport),
            "(self, sock, protocol, waiter, extra, server, context, /)",
            "A transport for a connected socket.",
        )],
    )
}
