//! The Python class of datagram transports, the functions that the loop calls, and how transports are made.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use hybridloop_reactor::Event;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;

use crate::event_loop::{file_descriptor, install, LoopContext, LoopCore, SourceVTable};
use crate::fastcall;
use crate::python::{context, Args, FfiResult, Ref};
use crate::transports::base::{TransportBase, BLOCKED};
use crate::transports::datagram::state::{DatagramTransport, CONNECTED, CONNECTED_TO_UNNAMED};
use crate::transports::datagram::{attributes, methods, read, write};
use crate::transports::lifecycle::Transport;
use crate::transports::object;

/// The Python class of datagram transports; null until the module is imported.
static DATAGRAM_TYPE: AtomicPtr<PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// `_new_datagram_transport(class, sock, protocol, address, waiter, extra)`: makes a transport for a datagram socket. It reads
/// once `connection_made()` has returned.
unsafe fn new_datagram_transport(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let [class, socket, protocol, address, waiter, extra] = args.positional else {
        return Err(PyTypeError::new_err("_new_datagram_transport() takes 6 arguments").into());
    };
    // SAFETY: CPython calls a method of the loop `slf` in an attached thread; arguments are live during the call.
    let (cx, [class, socket, protocol, address, waiter, extra]) = unsafe {
        let args = [class, socket, protocol, address, waiter, extra];
        let cx = LoopContext::new(Python::assume_attached(), slf);
        (cx, args.map(|arg| Ref::from_ptr_ref(arg)))
    };
    let (py, core) = (cx.py, cx.core);
    core.check_open()?;
    let ty = class.as_ptr().cast::<PyTypeObject>();
    // SAFETY: `class` keeps the object alive, which is a class where it is used as one.
    let is_transport_class = unsafe {
        ffi::PyType_Check(class.as_ptr()) != 0
            && ffi::PyType_IsSubtype(ty, DATAGRAM_TYPE.load(Ordering::Relaxed)) != 0
    };
    if !is_transport_class {
        return Err(PyTypeError::new_err("not a class of datagram transports").into());
    }
    // SAFETY: `socket` keeps the object alive.
    let fd = unsafe { file_descriptor(socket.as_ptr())? };
    let family: i32 = socket.bind(py).getattr("family")?.extract()?;
    let peer = extra.bind(py).get_item("peername")?;
    let peer_has_name = peer.is_truthy()?;
    let context = context::copy_current()?;
    let base = TransportBase::new(
        fd,
        cx.loop_ref(),
        Some(socket.clone()),
        context.clone(),
        &VTABLE,
    );
    let remote_address = (!address.bind(py).is_none()).then(|| address.clone());
    let state = DatagramTransport::new(base, family, remote_address);
    state.set(CONNECTED, peer_has_name);
    state.set(CONNECTED_TO_UNNAMED, !peer_has_name && !peer.is_none());
    drop(state.protocol.replace(Some(protocol.clone())));
    // SAFETY: `class` is a subclass of `DatagramTransport`.
    let transport = unsafe { object::new(ty, state, Some(extra.clone()))? };
    // SAFETY: the object was just made with this layout, and is that of the state.
    unsafe { DatagramTransport::of(transport.as_ptr()).register(core, &transport)? };
    let connection_made = protocol.bind(py).getattr("connection_made")?.into();
    cx.call_soon(&connection_made, [&transport], Some(context.clone()))?;
    let start = transport.bind(py).getattr("_start")?.into();
    cx.call_soon(&start, [waiter], Some(context))?;
    Ok(transport)
}

/// The functions that the loop calls on datagram transports.
static VTABLE: SourceVTable = SourceVTable {
    ready,
    resume: |_, _| Ok(()),
    flush: |_, _| Ok(()),
    uncork: |_, _| Ok(()),
    is_exclusive: |transport| {
        // SAFETY: the loop passes a live object of this vtable.
        unsafe { DatagramTransport::of(transport) }.is_exclusive()
    },
    is_held: |transport| {
        // SAFETY: the loop passes a live object of this vtable.
        unsafe { DatagramTransport::of(transport) }.is_held()
    },
    dropped: |transport| {
        // SAFETY: the loop passes a live object of this vtable.
        unsafe { DatagramTransport::of(transport).on_deregistered(Ref::from_ptr_ref(&transport)) };
    },
    is_reader: false,
};

#[inline]
unsafe fn ready(cx: LoopContext<'_>, slf: &Ref, event: Event) -> FfiResult<()> {
    // SAFETY: the loop passes a live object of this vtable.
    let transport = unsafe { DatagramTransport::of(slf.as_ptr()) };
    // Like asyncio, this reads first: when sending finds that a Unix peer is gone, the system drops what it has sent.
    if event.readable && transport.wants_to_read() {
        read::read(cx, slf, transport)?;
    }
    if event.writable && transport.has(BLOCKED) {
        write::flush(cx, slf, transport)?;
    }
    Ok(())
}

/// Adds `DatagramTransport` to the module, and the method that makes transports to the loop.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    // SAFETY: methods and attributes are those of `DatagramTransport`.
    let class = unsafe {
        object::make_class::<DatagramTransport>(
            py,
            c"hybridloop._core.DatagramTransport",
            methods::methods(),
            attributes::attributes(),
        )?
    };
    DATAGRAM_TYPE.store(class.as_ptr().cast(), Ordering::Relaxed);
    module.add("DatagramTransport", class.bind(py))?;
    install(
        &py.get_type::<LoopCore>(),
        [(
            fastcall!(c"_new_datagram_transport", new_datagram_transport),
            "(self, cls, sock, protocol, address, waiter, extra, /)",
            "A transport for a datagram socket.",
        )],
    )
}
