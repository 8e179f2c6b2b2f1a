//! The state of a datagram transport.

use std::ops::Deref;
use std::ptr;

use hybridloop_reactor::Interest;
use hybridloop_sync::tsc::ns_to_ticks;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::event_loop::{exceptions, LoopContext, LoopCore};
use crate::python::{Cell, FfiResult, LoopCell, Ref, SlotCell};
use crate::transports::base::{
    TransportBase, BLOCKED, CLOSING, FIRST_SUBTYPE_FLAG, LOST, PAUSED, STARTED,
};
use crate::transports::datagram::address_cache::AddressCache;
use crate::transports::datagram::queue::WriteQueue;
use crate::transports::lifecycle::Transport;
use crate::transports::object;

/// The socket is connected: datagrams are sent without an address.
pub const CONNECTED: u32 = FIRST_SUBTYPE_FLAG;
/// The socket is connected to a peer without a name, as those of `socketpair()` are: datagrams may be sent with an address.
pub const CONNECTED_TO_UNNAMED: u32 = FIRST_SUBTYPE_FLAG << 1;
/// The last event brought several datagrams, so the next one looks for several.
pub const IN_BURST: u32 = FIRST_SUBTYPE_FLAG << 2;
/// The descriptor is registered for reading, or for writing.
const READ_REGISTERED: u32 = FIRST_SUBTYPE_FLAG << 3;
const WRITE_REGISTERED: u32 = FIRST_SUBTYPE_FLAG << 4;

/// Events within this time of each other, in nanoseconds, may be of datagrams that came together.
const BURST_INTERVAL_NS: u64 = 10_000;

/// The state of one datagram transport.
pub struct DatagramTransport {
    base: TransportBase,
    /// Address family of the socket.
    pub family: i32,
    /// The only address that datagrams may be sent to, if there is one.
    pub remote_address: SlotCell<Ref>,
    pub queue: LoopCell<WriteQueue>,
    /// The sender of the last datagram that was received.
    pub last_sender: LoopCell<AddressCache>,
    /// The last address that a datagram was sent to, other than that of the last sender.
    pub last_target: LoopCell<AddressCache>,
    /// When the last event came, and how many have followed each other within `burst_ticks`.
    pub last_event: Cell<u64>,
    pub burst_events: Cell<u8>,
    pub burst_ticks: u64,
}

impl Deref for DatagramTransport {
    type Target = TransportBase;

    #[inline]
    fn deref(&self) -> &TransportBase {
        &self.base
    }
}

impl DatagramTransport {
    pub fn new(base: TransportBase, family: i32, remote_address: Option<Ref>) -> Self {
        Self {
            base,
            family,
            remote_address: SlotCell::new(remote_address),
            queue: LoopCell::default(),
            last_sender: LoopCell::default(),
            last_target: LoopCell::default(),
            last_event: Cell::new(0),
            burst_events: Cell::new(0),
            burst_ticks: ns_to_ticks(BURST_INTERVAL_NS),
        }
    }

    /// The state of a transport object.
    ///
    /// # Safety
    /// `object` is a live instance of `DatagramTransport` or of a subclass.
    #[inline]
    pub unsafe fn of<'a>(object: *mut PyObject) -> &'a Self {
        // SAFETY: the caller guarantees the class.
        unsafe { object::state(object) }
    }

    /// Whether datagrams may go to the protocol: the transport has started, and is neither paused nor closing.
    #[inline]
    pub fn wants_to_read(&self) -> bool {
        self.is(STARTED | PAUSED | CLOSING | LOST, STARTED)
    }

    /// Registers the descriptor for what is wanted now: datagrams, room to send, or nothing.
    ///
    /// The registration is level-triggered. With edges, a socket would have to be read until it is drained, which takes a
    /// second system call for each datagram; with levels, the next poll reports what is left. What is wanted changes only when
    /// reading is paused or the socket is full.
    pub fn rearm(&self, core: &LoopCore) -> FfiResult<()> {
        let interest = Interest {
            readable: self.wants_to_read(),
            writable: self.has(BLOCKED) && !self.has(LOST),
        };
        let registered = self.has(READ_REGISTERED | WRITE_REGISTERED);
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
            core.register_level(fd, token, interest, registered)
                .map_err(|error| exceptions::os_error(&error))?;
        } else {
            core.deregister(fd);
        }
        Ok(())
    }

    /// [`rearm`] for a transport that ends: it fails if the descriptor is closed, or registered by another process.
    ///
    /// [`rearm`]: DatagramTransport::rearm
    pub fn rearm_at_end(&self) {
        if let Some(event_loop) = self.event_loop.get() {
            if self.rearm(event_loop.core()).is_err() {
                // SAFETY: `rearm` has set an exception, so the thread is attached.
                unsafe { ffi::PyErr_Clear() };
            }
        }
    }

    /// Registers the descriptor and starts reading.
    pub fn start(&self, core: &LoopCore, slf: &Ref) -> FfiResult<()> {
        if self.has(STARTED | LOST | CLOSING) {
            return Ok(());
        }
        self.set(STARTED, true);
        self.update_hold(slf);
        self.rearm(core)
    }

    /// Reports the exception that a protocol method has raised. Like in asyncio, it does not end the transport.
    #[cold]
    pub fn callback_failed(&self, cx: LoopContext<'_>, slf: &Ref, name: &str) -> FfiResult<()> {
        let protocol = self.protocol.get().unwrap_or_else(Ref::none);
        exceptions::report(
            cx.event_loop,
            &format!("Exception in callback protocol.{name}()"),
            &[("transport", slf), ("protocol", &protocol)],
        )
    }
}

impl Transport for DatagramTransport {
    fn is_active(&self) -> bool {
        self.wants_to_read() || self.queue.with(|queue| !queue.is_empty())
    }

    fn discard_queue(&self) {
        drop(self.queue.take());
    }

    /// What the caches hold refers to nothing.
    fn objects(&self) -> impl Iterator<Item = *mut PyObject> {
        let remote_address = self.remote_address.as_ptr().unwrap_or(ptr::null_mut());
        self.base.objects().into_iter().chain([remote_address])
    }

    fn clear_references(&self) {
        self.base.clear_references();
        drop(self.remote_address.take());
    }

    fn before_close(&self) {
        // The selector would report a level-triggered registration as long as anybody has a copy of the descriptor, such as a
        // forked child. Nothing is wanted of a transport that is closing and lost.
        self.set(CLOSING | LOST, true);
        self.rearm_at_end();
        self.set(LOST, false);
    }

    fn after_close(&self, _py: Python<'_>, _slf: &Ref) -> FfiResult<()> {
        drop(self.last_sender.take());
        drop(self.last_target.take());
        drop(self.remote_address.take());
        Ok(())
    }
}
