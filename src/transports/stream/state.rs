//! The state of a stream transport.

use std::io;
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::AtomicPtr;

use hybridloop_reactor::{Event, Interest};
use pyo3::exceptions::PyConnectionError;
use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;

use crate::event_loop::{exceptions, LoopCore};
use crate::python::stdlib::Stdlib;
use crate::python::{normalized, Cell, ErrSet, FfiResult, LoopCell, Ref, SlotCell};
use crate::transports::address::{Address, Side};
use crate::transports::base::{
    TransportBase, BLOCKED, CLOSING, FIRST_SUBTYPE_FLAG, LOST, PAUSED, STARTED,
};
use crate::transports::lifecycle::Transport;
use crate::transports::object;
use crate::transports::stream::native_protocol::{self, NativeProtocol};
use crate::transports::stream::queue::WriteQueue;
use crate::transports::stream::server;

/// `write_eof()` was called.
pub const EOF_WRITTEN: u32 = FIRST_SUBTYPE_FLAG;
/// The peer has ended its side, and the protocol was notified.
pub const EOF_READ: u32 = FIRST_SUBTYPE_FLAG << 1;
/// The socket may have data: set by an event, cleared by a read that drains the socket.
pub const READABLE: u32 = FIRST_SUBTYPE_FLAG << 2;
/// The last event reported EOF or an error, so a short read does not mean that the socket is drained.
pub const HANGUP: u32 = FIRST_SUBTYPE_FLAG << 3;
/// The protocol is being called with data: what it writes is sent when it returns.
pub const CORKED: u32 = FIRST_SUBTYPE_FLAG << 4;
/// The transport is in the loop's `to_flush`, or in `to_resume`.
pub const IN_FLUSH_LIST: u32 = FIRST_SUBTYPE_FLAG << 5;
pub const IN_RESUME_LIST: u32 = FIRST_SUBTYPE_FLAG << 6;
/// The protocol is a `BufferedProtocol`.
pub const BUFFERED: u32 = FIRST_SUBTYPE_FLAG << 7;
/// The descriptor is registered for writing only while writes wait: a Unix socket reports that it is writable whenever the peer
/// has read.
const WRITE_ON_DEMAND: u32 = FIRST_SUBTYPE_FLAG << 8;
/// The descriptor is registered for writing.
const WRITE_REGISTERED: u32 = FIRST_SUBTYPE_FLAG << 9;

/// The Python class of stream transports; null until the module is imported.
pub static STREAM_TYPE: AtomicPtr<PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// The state of one stream transport.
pub struct StreamTransport {
    base: TransportBase,
    /// How the protocol takes bytes, if it is native.
    native_protocol: Cell<Option<&'static NativeProtocol>>,
    pub server: SlotCell<Ref>,
    /// The future of `sendfile()`, which waits until the queue is empty. Writes are refused meanwhile.
    pub empty_waiter: SlotCell<Ref>,
    pub queue: LoopCell<WriteQueue>,
    /// For how long a callback may defer its writes, in ticks of the processor's counter.
    pub cork_ticks: Cell<u64>,
    /// The last poll before the socket was full. Only an event of a later poll says that it is writable again.
    pub blocked_at_poll: Cell<u64>,
    pub peer: LoopCell<Address>,
    pub local: LoopCell<Address>,
}

impl Deref for StreamTransport {
    type Target = TransportBase;

    #[inline]
    fn deref(&self) -> &TransportBase {
        &self.base
    }
}

impl StreamTransport {
    pub fn new(base: TransportBase, server: Option<Ref>, peer: Address, cork_ticks: u64) -> Self {
        Self {
            base,
            native_protocol: Cell::new(None),
            server: SlotCell::new(server),
            empty_waiter: SlotCell::default(),
            queue: LoopCell::default(),
            cork_ticks: Cell::new(cork_ticks),
            blocked_at_poll: Cell::new(0),
            peer: LoopCell::new(peer),
            local: LoopCell::default(),
        }
    }

    /// The state of a transport object.
    ///
    /// # Safety
    /// `object` is a live instance of `StreamTransport` or of a subclass.
    #[inline]
    pub unsafe fn of<'a>(object: *mut PyObject) -> &'a Self {
        // SAFETY: the caller guarantees the class.
        unsafe { object::state(object) }
    }

    /// Whether data may go to the protocol: the stream has started, is not paused and not closing, and EOF was not read.
    #[inline]
    pub fn wants_to_read(&self) -> bool {
        self.is(STARTED | PAUSED | CLOSING | EOF_READ | LOST, STARTED)
    }

    /// Records what an event says about reading.
    #[inline]
    pub fn note_event(&self, event: Event) {
        if event.readable {
            self.set(READABLE, true);
        }
        if event.closed {
            self.set(HANGUP, true);
        }
    }

    /// Whether what is written now is sent later, with what else is written until the protocol returns or the iteration ends.
    /// It is not if the loop does not run or runs in another thread, or if the current callback has run for longer than the
    /// cork interval.
    #[inline]
    pub fn defers_writes(&self, core: &LoopCore) -> bool {
        core.runs_here() && core.callback_ticks() < self.cork_ticks.get()
    }

    /// Has the loop send what is queued at the end of this iteration.
    #[inline]
    pub fn schedule_flush(&self, core: &LoopCore, slf: &Ref) {
        if !self.has(IN_FLUSH_LIST) {
            self.set(IN_FLUSH_LIST, true);
            let entry = self.io_ref(slf);
            core.to_flush.push_back(entry);
        }
    }

    /// Has the loop continue to read in its next iteration.
    pub fn schedule_read(&self, core: &LoopCore, slf: &Ref) {
        if !self.has(IN_RESUME_LIST) {
            self.set(IN_RESUME_LIST, true);
            let entry = self.io_ref(slf);
            core.to_resume.push_back(entry);
        }
    }

    /// How the protocol takes bytes, if it is native.
    #[inline]
    pub fn native_protocol(&self) -> Option<&'static NativeProtocol> {
        self.native_protocol.get()
    }

    /// Sets the protocol; data goes to it from now on.
    pub fn set_protocol(&self, protocol: &Ref) -> FfiResult<()> {
        // SAFETY: both references keep their objects alive.
        let buffered = unsafe {
            ffi::PyObject_IsInstance(protocol.as_ptr(), Stdlib::get().buffered_protocol.as_ptr())
        };
        if buffered < 0 {
            return Err(ErrSet);
        }
        self.set(BUFFERED, buffered == 1);
        self.native_protocol.set(native_protocol::find(protocol));
        drop(self.protocol.replace(Some(protocol.clone())));
        Ok(())
    }

    /// Registers the descriptor with the selector, once for its lifetime, and starts reading.
    pub fn start(&self, core: &LoopCore, slf: &Ref) -> FfiResult<()> {
        // A protocol may have written before it closed, which has to be sent.
        let is_over = self.is_closing() && self.queue.with(|queue| queue.is_empty());
        if self.has(STARTED | LOST) || is_over {
            return Ok(());
        }
        let fd = self.open_fd();
        let Some(token) = self.token() else {
            return Ok(());
        };
        let is_tcp = self.peer.with(|peer| matches!(peer, Address::Inet(_)));
        self.set(WRITE_ON_DEMAND, !is_tcp);
        self.set(WRITE_REGISTERED, is_tcp || self.has(BLOCKED));
        core.register_edge(fd, token, self.interest(), false)
            .map_err(|error| exceptions::os_error(&error))?;
        self.set(STARTED, true);
        self.update_hold(slf);
        Ok(())
    }

    fn interest(&self) -> Interest {
        Interest {
            readable: true,
            writable: self.has(WRITE_REGISTERED),
        }
    }

    /// Registers the descriptor for writing, or no longer, where that is done on demand.
    pub fn set_write_interest(&self, core: &LoopCore, wanted: bool) -> io::Result<()> {
        if !self.is(WRITE_ON_DEMAND | STARTED | LOST, WRITE_ON_DEMAND | STARTED)
            || self.has(WRITE_REGISTERED) == wanted
        {
            return Ok(());
        }
        let Some(token) = self.token() else {
            return Ok(());
        };
        self.set(WRITE_REGISTERED, wanted);
        core.register_edge(self.open_fd(), token, self.interest(), true)
    }
}

impl Transport for StreamTransport {
    fn is_active(&self) -> bool {
        self.wants_to_read() || self.queue.with(|queue| !queue.is_empty())
    }

    fn discard_queue(&self) {
        drop(self.queue.take());
    }

    fn objects(&self) -> impl Iterator<Item = *mut PyObject> {
        let own =
            [&self.server, &self.empty_waiter].map(|slot| slot.as_ptr().unwrap_or(ptr::null_mut()));
        self.base.objects().into_iter().chain(own)
    }

    fn clear_references(&self) {
        self.base.clear_references();
        drop(self.server.take());
        drop(self.empty_waiter.take());
    }

    fn send_before_abort(&self) {
        while !self.has(BLOCKED | LOST) && self.queue.with(|queue| !queue.is_empty()) {
            let fd = self.open_fd();
            match self.queue.with(|queue| queue.send(fd)) {
                Ok((result, pieces)) => {
                    pieces.drop_pieces();
                    if let Some(event_loop) = self.event_loop.get() {
                        event_loop.core().stats.sent(result.bytes);
                    }
                    if !result.complete {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    fn before_close(&self) {
        // `get_extra_info("sockname")` still works when the connection is lost.
        let fd = self.open_fd();
        self.local.with(|local| local.query(fd, Side::Local));
    }

    fn after_close(&self, py: Python<'_>, slf: &Ref) -> FfiResult<()> {
        if let Some(server) = self.server.take() {
            server::detach(py, &server, slf)?;
        }
        if let Some(waiter) = self.empty_waiter.get() {
            let error = normalized(PyConnectionError::new_err("Connection is closed by peer"));
            fail_waiter(py, &waiter, &error)?;
        }
        Ok(())
    }
}

/// `waiter.set_exception(error)`, unless it is done.
pub fn fail_waiter(py: Python<'_>, waiter: &Ref, error: &PyErr) -> PyResult<()> {
    let waiter = waiter.bind(py);
    if !waiter.call_method0("done")?.is_truthy()? {
        waiter.call_method1("set_exception", (error.value(py),))?;
    }
    Ok(())
}
