//! The datagram transport: state and lifetime.
//!
//! * [`methods`] — what Python calls on it; [`io`] — sending and receiving; [`queue`] — what waits to be sent.

mod io;
mod methods;
mod queue;

use std::ffi::{c_int, c_void};
use std::mem::size_of;
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use hybridloop_reactor::{Event, Interest};
use hybridloop_sync::tsc::ns_to_ticks;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;

use crate::event_loop::{
    exceptions, file_descriptor, install, LoopContext, LoopCore, LoopRef, SourceVTable,
};
use crate::fastcall;
use crate::python::typespec::Slots;
use crate::python::{context, Args, Cell, FfiResult, LoopCell, Ref};
use crate::transports::base::{
    Transport, TransportBase, BLOCKED, CLOSING, FIRST_SUBTYPE_FLAG, LOST, PAUSED, STARTED,
};
use crate::transports::datagram::queue::{Queue, SeenAddress};
use crate::transports::object::{self, Header};

/// The socket is connected: datagrams leave without an address.
pub const CONNECTED: u32 = FIRST_SUBTYPE_FLAG;
/// It is, to a peer without a name: an address may still be given.
pub const PAIRED: u32 = FIRST_SUBTYPE_FLAG << 1;
/// The last event brought several datagrams: look for more than one with the next.
pub const BUSY: u32 = FIRST_SUBTYPE_FLAG << 2;
/// What the selector is asked for.
const READ_REGISTERED: u32 = FIRST_SUBTYPE_FLAG << 3;
const WRITE_REGISTERED: u32 = FIRST_SUBTYPE_FLAG << 4;

#[repr(C)]
struct DatagramObject {
    header: Header,
    datagram: Datagram,
}

// Python's allocator aligns objects to 16 bytes and no more.
const _: () = assert!(align_of::<DatagramObject>() <= 16);

static DATAGRAM_TYPE: AtomicPtr<PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// State of one datagram transport.
pub struct Datagram {
    base: TransportBase,
    /// Address family of the socket.
    pub family: i32,
    /// The only address that datagrams may go to.
    pub address: LoopCell<Option<Ref>>,
    pub queue: LoopCell<Queue>,
    /// The addresses of the last datagram received and of the last one sent to somebody else.
    pub from: LoopCell<SeenAddress>,
    pub to: LoopCell<SeenAddress>,
    /// When the last event came, and how many have followed each other within `quick_ticks`.
    pub last_event: Cell<u64>,
    pub quick_events: Cell<u8>,
    pub quick_ticks: u64,
}

impl Deref for Datagram {
    type Target = TransportBase;

    #[inline]
    fn deref(&self) -> &TransportBase {
        &self.base
    }
}

impl Transport for Datagram {
    fn is_active(&self) -> bool {
        self.wants_to_read() || self.queue.with(|queue| !queue.is_empty())
    }

    fn discard(&self) {
        drop(self.queue.take());
    }

    fn before_close(&self) {
        // A level that is registered would be reported as long as anybody, a forked child for example, has a copy of the
        // descriptor.
        self.set(CLOSING | LOST, true);
        self.rearm_or_forget();
        self.set(LOST, false);
    }

    fn after_close(&self, _me: *mut PyObject) -> FfiResult<()> {
        self.let_go_of_addresses();
        Ok(())
    }
}

impl Datagram {
    /// The state of a transport object.
    ///
    /// # Safety
    /// `object` is a live datagram transport.
    #[inline]
    pub unsafe fn of<'a>(object: *mut PyObject) -> &'a Self {
        // SAFETY: the caller's promise.
        unsafe { &(*object.cast::<DatagramObject>()).datagram }
    }

    /// `is_reading()`, once the transport has started.
    #[inline]
    pub fn wants_to_read(&self) -> bool {
        self.is(STARTED | PAUSED | CLOSING | LOST, STARTED)
    }

    /// Asks the selector for what is wanted now: datagrams, room to send, or nothing.
    ///
    /// The registration is level-triggered. With edges, a socket would have to be read until it says that it is empty, a
    /// second system call for each datagram; with levels, the next poll tells, and there is a next poll anyway. The
    /// interest changes only when reading is paused or a socket is full.
    pub fn rearm(&self, core: &LoopCore) -> FfiResult<()> {
        let interest = Interest {
            readable: self.wants_to_read(),
            writable: self.has(BLOCKED) && !self.has(LOST),
        };
        let known = self.has(READ_REGISTERED | WRITE_REGISTERED);
        if self.has(READ_REGISTERED) == interest.readable
            && self.has(WRITE_REGISTERED) == interest.writable
        {
            return Ok(());
        }
        let Some(token) = self.token() else {
            return Ok(());
        };
        let fd = self.open_fd();
        self.set(READ_REGISTERED, interest.readable);
        self.set(WRITE_REGISTERED, interest.writable);
        if interest.readable || interest.writable {
            core.register_level(fd, token, interest, known)
                .map_err(|error| exceptions::os_error(&error))?;
        } else {
            core.deregister(fd);
        }
        Ok(())
    }

    /// As [`Datagram::rearm`], where a failure means that the descriptor is gone or belongs to another process.
    pub fn rearm_or_forget(&self) {
        if let Some(event_loop) = self.event_loop.get() {
            let core = event_loop.core();
            if self.rearm(core).is_err() {
                // SAFETY: attached.
                unsafe { ffi::PyErr_Clear() };
            }
        }
    }

    /// Registers the socket and lets reading begin.
    pub fn start(&self, core: &LoopCore, me: *mut PyObject) -> FfiResult<()> {
        if self.has(STARTED | LOST | CLOSING) {
            return Ok(());
        }
        self.set(STARTED, true);
        self.update_hold(me);
        self.rearm(core)
    }

    /// Breaks cycles for the collector.
    fn let_go(&self) {
        self.clear();
        drop(self.address.take());
    }

    fn let_go_of_addresses(&self) {
        let seen = (self.from.take(), self.to.take());
        drop((seen, self.address.take()));
    }
}

/// What the loop asks of a datagram transport.
static DATAGRAM: SourceVTable = SourceVTable {
    ready,
    resume: |_, _| Ok(()),
    flush: |_, _| Ok(()),
    is_exclusive: |datagram| {
        // SAFETY: the loop passes a live datagram transport.
        unsafe { Datagram::of(datagram) }.is_exclusive()
    },
    is_held: |datagram| {
        // SAFETY: the loop passes a live datagram transport.
        unsafe { Datagram::of(datagram) }.is_held()
    },
    dropped: |datagram| {
        // SAFETY: the loop passes a live datagram transport.
        unsafe { Datagram::of(datagram) }.dropped_by_table(datagram);
    },
    is_reader: false,
};

#[inline]
unsafe fn ready(cx: LoopContext<'_>, me: &Ref, event: Event) -> FfiResult<()> {
    // SAFETY: the loop passes a live datagram transport.
    let it = unsafe { Datagram::of(me.as_ptr()) };
    // Reading comes first, as in asyncio: when sending finds out that a Unix peer is gone, the system drops what it sent.
    if event.readable && it.wants_to_read() {
        io::receive(cx, me, it)?;
    }
    if event.writable && it.has(BLOCKED) {
        io::flush(cx.core, cx.event_loop, me, it)?;
    }
    Ok(())
}

/// `_connect_datagram(class, sock, protocol, address, waiter, extra)`: a transport for a datagram socket. It reads once
/// `connection_made()` was called.
unsafe fn connect_datagram(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let &[class, socket, protocol, address, waiter, extra] = args.positional else {
        return Err(PyTypeError::new_err("_connect_datagram() takes 6 arguments").into());
    };
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe {
        let py = Python::assume_attached();
        let core = LoopCore::of(slf);
        core.check_open()?;
        let ty = class.cast::<PyTypeObject>();
        if ffi::PyType_Check(class) == 0
            || ffi::PyType_IsSubtype(ty, DATAGRAM_TYPE.load(Ordering::Relaxed)) == 0
        {
            return Err(PyTypeError::new_err("not a class of datagram transports").into());
        }
        let fd = file_descriptor(socket)?;
        let socket = Bound::from_borrowed_ptr(py, socket);
        let family: i32 = socket.getattr("family")?.extract()?;
        let peer = Bound::from_borrowed_ptr(py, extra).get_item("peername")?;
        let Some(alloc) = (*ty).tp_alloc else {
            return Err(PyTypeError::new_err("transports cannot be allocated").into());
        };
        let context = context::copy_current()?;
        let base = TransportBase::new(
            fd,
            LoopRef::borrowed(slf),
            Some(Ref::from(&socket)),
            context.clone(),
        );
        let me = Ref::new(alloc(ty, 0))?;
        let none = ffi::Py_None();
        let state = &raw mut (*me.as_ptr().cast::<DatagramObject>()).datagram;
        state.write(Datagram {
            base,
            family,
            address: LoopCell::new((address != none).then(|| Ref::borrowed(address))),
            queue: LoopCell::default(),
            from: LoopCell::default(),
            to: LoopCell::default(),
            last_event: Cell::new(0),
            quick_events: Cell::new(0),
            quick_ticks: ns_to_ticks(io::QUICK),
        });
        object::set_extra(me.as_ptr(), Ref::borrowed(extra));
        let it = Datagram::of(me.as_ptr());
        if peer.is_truthy()? {
            it.set(CONNECTED, true);
        } else if !peer.is_none() {
            it.set(PAIRED, true);
        }
        drop(it.protocol.replace(Some(Ref::borrowed(protocol))));
        it.register(core, me.as_ptr(), &DATAGRAM)?;
        let made: Ref = Bound::from_borrowed_ptr(py, protocol)
            .getattr("connection_made")?
            .into();
        core.soon(slf, made.as_ptr(), &[me.as_ptr()], Some(context.clone()))?;
        let start: Ref = me.bind(py).getattr("_start")?.into();
        core.soon(slf, start.as_ptr(), &[waiter], Some(context))?;
        Ok(me)
    }
}

unsafe extern "C" fn traverse(
    object: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live transport; before its state is written, the words are zero, which is `None`.
    unsafe {
        let it = Datagram::of(object);
        let address = it
            .address
            .with(|slot| slot.as_ref().map_or(ptr::null_mut(), Ref::as_ptr));
        object::traverse(
            object,
            visit,
            arg,
            it.objects().into_iter().chain([address]),
        )
    }
}

unsafe extern "C" fn clear(object: *mut PyObject) -> c_int {
    // SAFETY: as for `traverse`.
    unsafe {
        object::clear(object);
        Datagram::of(object).let_go();
    }
    0
}

unsafe extern "C" fn dealloc(object: *mut PyObject) {
    // SAFETY: the last reference is gone. A subclass's own part is torn down before this runs.
    unsafe {
        let ty = ffi::Py_TYPE(object);
        ffi::PyObject_GC_UnTrack(object.cast());
        Datagram::of(object).finalize();
        object::end(object);
        Datagram::of(object).let_go();
        ptr::drop_in_place(&raw mut (*object.cast::<DatagramObject>()).datagram);
        if let Some(free) = (*ty).tp_free {
            free(object.cast());
        }
        ffi::Py_DECREF(ty.cast());
    }
}

/// Makes `DatagramTransport`, and what makes such transports to the loop.
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
            c"hybridloop._core.DatagramTransport",
            size_of::<DatagramObject>(),
            slots,
            methods::methods(),
            methods::attributes(),
        )?
    };
    DATAGRAM_TYPE.store(class.as_ptr().cast(), Ordering::Relaxed);
    module.add("DatagramTransport", class.bind(py))?;
    install(
        &py.get_type::<LoopCore>(),
        [(
            fastcall!(c"_connect_datagram", connect_datagram),
            "(self, cls, sock, protocol, address, waiter, extra, /)",
            "A transport for a datagram socket.",
        )],
    )
}
