//! What every transport has: a descriptor, a protocol, a context and flow control.

use std::os::fd::RawFd;
use std::ptr;

use hybridloop_reactor::Token;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::event_loop::{
    exceptions, IoRef, IoSource, LoopContext, LoopCore, LoopRef, Source, SourceVTable,
};
use crate::python::stdlib::Stdlib;
use crate::python::unstable::socket_fd::still_open;
use crate::python::{context, AtomicFlags, Cell, FfiResult, Ref, SlotCell};

/// `asyncio.constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES`
const LOST_WRITES_BEFORE_WARNING: u32 = 5;

/// `connection_made()` has returned, so the socket may be read.
pub const STARTED: u32 = 1;
/// `pause_reading()` was called.
pub const PAUSED: u32 = 1 << 1;
/// `close()` or `abort()` was called, or the connection has failed.
pub const CLOSING: u32 = 1 << 2;
/// The socket took less than it was given: queued writes wait for an event.
pub const BLOCKED: u32 = 1 << 3;
/// The descriptor table keeps the transport alive: its pointer is a counted reference.
pub const HELD: u32 = 1 << 4;
/// `pause_writing()` was called and `resume_writing()` was not.
pub const PROTOCOL_PAUSED: u32 = 1 << 5;
/// `connection_lost()` was called, and the descriptor is closed.
pub const LOST: u32 = 1 << 6;
/// A Python socket owns the descriptor, and the program may close it.
pub const HAS_SOCKET: u32 = 1 << 7;
/// The first flag that a type of transports defines for itself.
pub const FIRST_SUBTYPE_FLAG: u32 = 1 << 8;

/// asyncio's default high-water mark, in bytes.
const HIGH_WATER: usize = 64 * 1024;

/// The state that all transports share.
pub struct TransportBase {
    pub fd: Cell<RawFd>,
    flags: AtomicFlags,
    /// asyncio's `_conn_lost`: not 0 once `connection_lost()` is scheduled; counts the writes after that.
    pub lost_writes: Cell<u32>,
    token: Cell<Option<Token>>,
    vtable: &'static SourceVTable,
    pub event_loop: SlotCell<LoopRef>,
    pub protocol: SlotCell<Ref>,
    /// The Python socket, which owns the descriptor once it exists.
    pub socket: SlotCell<Ref>,
    /// The context in which protocol methods run.
    pub context: SlotCell<Ref>,
    pub high_water: Cell<usize>,
    pub low_water: Cell<usize>,
}

impl TransportBase {
    /// `vtable` is that of the transport's class.
    pub fn new(
        fd: RawFd,
        event_loop: LoopRef,
        socket: Option<Ref>,
        context: Ref,
        vtable: &'static SourceVTable,
    ) -> Self {
        let flags = AtomicFlags::default();
        flags.set(HAS_SOCKET, socket.is_some());
        Self {
            fd: Cell::new(fd),
            flags,
            lost_writes: Cell::new(0),
            token: Cell::new(None),
            vtable,
            event_loop: SlotCell::new(Some(event_loop)),
            protocol: SlotCell::default(),
            socket: SlotCell::new(socket),
            context: SlotCell::new(Some(context)),
            high_water: Cell::new(HIGH_WATER),
            low_water: Cell::new(HIGH_WATER / 4),
        }
    }

    /// Whether any of `flags` is set.
    #[inline]
    pub fn has(&self, flags: u32) -> bool {
        self.flags.get() & flags != 0
    }

    #[inline]
    pub fn set(&self, flags: u32, on: bool) {
        self.flags.set(flags, on);
    }

    /// Sets or clears a flag; whether that has changed it.
    #[inline]
    pub fn change(&self, flag: u32, on: bool) -> bool {
        self.flags.change(flag, on)
    }

    /// Whether exactly `flags` are set, of those in `mask`.
    #[inline]
    pub fn is(&self, mask: u32, flags: u32) -> bool {
        self.flags.get() & mask == flags
    }

    /// The descriptor while it is open, −1 afterwards, because the system may have given its number to another file. The
    /// transport closes it, and so may the program through the Python socket that owns it. The check may run Python.
    #[inline]
    pub fn open_fd(&self) -> RawFd {
        if self.has(LOST | HAS_SOCKET) {
            self.checked_fd()
        } else {
            self.fd.get()
        }
    }

    #[inline(never)]
    fn checked_fd(&self) -> RawFd {
        let fd = self.fd.get();
        if self.has(LOST) {
            return -1;
        }
        match self.socket.as_ptr() {
            // SAFETY: the socket is live: a transport that has one keeps it until it is deallocated.
            Some(socket) => unsafe { still_open(socket, fd) },
            None => fd,
        }
    }

    /// Whether `add_reader()` and related methods must refuse the descriptor: the transport is not closing, and the descriptor
    /// is open.
    pub fn is_exclusive(&self) -> bool {
        !self.is_closing() && self.open_fd() >= 0
    }

    pub fn is_closing(&self) -> bool {
        self.has(CLOSING)
    }

    pub fn is_held(&self) -> bool {
        self.has(HELD)
    }

    /// [`LoopCore::check_thread`] of the transport's loop.
    #[inline]
    pub fn check_thread(&self) -> FfiResult<()> {
        if !cfg!(Py_GIL_DISABLED) {
            return Ok(());
        }
        match self.event_loop.get() {
            Some(event_loop) => event_loop.core().check_thread(),
            None => Ok(()),
        }
    }

    /// In debug mode, a transport is closed only in the thread of its loop: asyncio refuses to schedule `connection_lost()` in
    /// another one.
    pub fn check_thread_in_debug(&self) -> FfiResult<()> {
        match self.event_loop.get() {
            Some(event_loop) => event_loop.core().check_thread_in_debug(),
            None => Ok(()),
        }
    }

    /// The entry of the descriptor table, while the transport is in it.
    pub fn token(&self) -> Option<Token> {
        self.token.get()
    }

    /// Puts the transport into the loop's descriptor table.
    ///
    /// # Safety
    /// `slf` is the object of this state.
    pub unsafe fn register(&self, core: &LoopCore, slf: &Ref) -> FfiResult<()> {
        // SAFETY: `slf` is live, and the vtable is for its class.
        let source = unsafe { IoSource::new(slf.as_ptr(), self.vtable)? };
        core.reserve_queues()?;
        let (token, replaced) = core
            .descriptors
            .with(|all| all.insert(self.fd.get(), Source::IoSource(source)));
        if let Some(replaced) = replaced {
            replaced.forget();
        }
        self.token.set(Some(token));
        Ok(())
    }

    /// Takes the transport out of the descriptor table.
    pub fn deregister(&self) {
        if let (Some(token), Some(event_loop)) = (self.token.replace(None), self.event_loop.get()) {
            let fd = self.fd.get();
            drop(
                event_loop
                    .core()
                    .descriptors
                    .with(|all| all.remove(fd, token)),
            );
        }
    }

    /// The descriptor table has dropped its pointer.
    pub fn forget_token(&self) {
        self.token.set(None);
    }

    /// The transport as an entry of the loop's lists. `slf` is the object of this state.
    pub fn io_ref(&self, slf: &Ref) -> IoRef {
        IoRef {
            object: slf.clone(),
            vtable: self.vtable,
        }
    }

    /// Runs protocol code in the transport's context.
    #[inline]
    pub fn run_in_context<T>(&self, body: impl FnOnce() -> FfiResult<T>) -> FfiResult<T> {
        match self.context.get() {
            // SAFETY: the clone keeps the context alive during the call.
            Some(context) => unsafe { context::run_in(context.as_ptr(), body) },
            None => body(),
        }
    }

    /// Calls a method of the protocol in the transport's context. It is looked up each time: a protocol may change.
    #[inline]
    pub fn call_protocol<const N: usize>(
        &self,
        name: &Ref,
        args: [*mut PyObject; N],
    ) -> FfiResult<Ref> {
        self.run_in_context(|| self.call_protocol_in_current_context(name, args))
    }

    /// Calls a method of the protocol in the context of the caller. The arguments are live.
    #[inline]
    pub fn call_protocol_in_current_context<const N: usize>(
        &self,
        name: &Ref,
        args: [*mut PyObject; N],
    ) -> FfiResult<Ref> {
        const MAX_ARGS: usize = 2;
        let protocol = self.protocol.get().unwrap_or_else(Ref::none);
        // One free slot, the protocol, the arguments.
        let mut values = [ptr::null_mut(); MAX_ARGS + 2];
        values[1] = protocol.as_ptr();
        values[2..2 + N].copy_from_slice(&args);
        // SAFETY: the protocol and the caller's arguments are live. The slot in front of the protocol is free for CPython, as
        // the flag says.
        unsafe {
            Ref::new(ffi::PyObject_VectorcallMethod(
                name.as_ptr(),
                values.as_ptr().add(1),
                (1 + N) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
                ptr::null_mut(),
            ))
        }
    }

    /// Calls `pause_writing()` when more bytes are queued than the high-water mark.
    pub fn pause_protocol(&self, cx: LoopContext<'_>, slf: &Ref, queued: usize) -> FfiResult<()> {
        if queued <= self.high_water.get() || self.has(PROTOCOL_PAUSED) {
            return Ok(());
        }
        self.set(PROTOCOL_PAUSED, true);
        let name = &Stdlib::get().names.pause_writing;
        self.notify_protocol(cx, slf, name, "protocol.pause_writing() failed")
    }

    /// Calls `resume_writing()` when no more bytes are queued than the low-water mark.
    pub fn resume_protocol(&self, cx: LoopContext<'_>, slf: &Ref, queued: usize) -> FfiResult<()> {
        if queued > self.low_water.get() || !self.has(PROTOCOL_PAUSED) {
            return Ok(());
        }
        self.set(PROTOCOL_PAUSED, false);
        let name = &Stdlib::get().names.resume_writing;
        self.notify_protocol(cx, slf, name, "protocol.resume_writing() failed")
    }

    fn notify_protocol(
        &self,
        cx: LoopContext<'_>,
        slf: &Ref,
        name: &Ref,
        failure: &str,
    ) -> FfiResult<()> {
        let Some(protocol) = self.protocol.get() else {
            return Ok(());
        };
        // Like asyncio, this runs in the context of the code that writes.
        match self.call_protocol_in_current_context(name, []) {
            Ok(_) => Ok(()),
            Err(_) => exceptions::report(
                cx.event_loop,
                failure,
                &[("transport", slf), ("protocol", &protocol)],
            ),
        }
    }

    /// Counts a write after the connection was lost; asyncio logs a warning from the sixth on.
    #[cold]
    pub fn count_lost_write(&self, py: Python<'_>) -> FfiResult<Ref> {
        let count = self.lost_writes.get();
        if count >= LOST_WRITES_BEFORE_WARNING {
            Stdlib::get()
                .logger
                .bind(py)
                .call_method1("warning", ("socket.send() raised exception.",))?;
        }
        self.lost_writes.set(count.saturating_add(1));
        Ok(Ref::none())
    }

    /// Writes a line about the transport to asyncio's log, in debug mode only.
    pub fn log_debug(&self, py: Python<'_>, slf: &Ref, message: &str) -> FfiResult<()> {
        let event_loop = self.event_loop.get();
        if event_loop.is_some_and(|event_loop| event_loop.core().is_debug()) {
            Stdlib::get()
                .logger
                .bind(py)
                .call_method1("debug", (message, slf.bind(py)))?;
        }
        Ok(())
    }

    /// The objects that this state refers to, for the collector; null stands for none.
    pub fn objects(&self) -> [*mut PyObject; 4] {
        let event_loop = self.event_loop.as_ptr().unwrap_or(ptr::null_mut());
        let [protocol, socket, context] = [&self.protocol, &self.socket, &self.context]
            .map(|slot| slot.as_ptr().unwrap_or(ptr::null_mut()));
        [event_loop, protocol, socket, context]
    }

    /// Breaks reference cycles. The loop and the socket stay until the object is deallocated, because [`finalize`] needs them.
    ///
    /// [`finalize`]: TransportBase::finalize
    pub fn clear_references(&self) {
        drop(self.protocol.take());
        drop(self.context.take());
    }

    /// Takes the transport out of the loop when its last reference is gone, and closes the descriptor if `__del__` did not.
    /// This runs no Python.
    pub fn finalize(&self) {
        let fd = self.fd.get();
        self.deregister();
        let owned = self.socket.is_none();
        if owned && !self.has(LOST) && self.event_loop.is_some() {
            // SAFETY: no Python socket owns the descriptor, and it is open as long as `LOST` is not set.
            unsafe { libc::close(fd) };
        }
    }
}
