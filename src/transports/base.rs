//! What every transport has: a descriptor, a protocol, a context, flow control, and an end.

use std::ops::Deref;
use std::os::fd::RawFd;
use std::ptr;

use hybridloop_reactor::Token;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::event_loop::{
    closed_error, exceptions, IoSource, LoopCore, LoopRef, Source, SourceVTable,
};
use crate::python::stdlib::Stdlib;
use crate::python::unstable::socket_fd::still_open;
use crate::python::{context, AtomicFlags, Cell, FfiResult, LoopCell, Ref};

/// As `asyncio.constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES`.
const LOST_WRITES_BEFORE_WARNING: u32 = 5;

/// `connection_made()` is over: the socket may be read.
pub const STARTED: u32 = 1;
pub const PAUSED: u32 = 1 << 1;
pub const CLOSING: u32 = 1 << 2;
/// The socket took less than it was given: writes wait for an event.
pub const BLOCKED: u32 = 1 << 3;
/// The descriptor table's pointer counts as a reference.
const HELD: u32 = 1 << 4;
/// `pause_writing()` was called and `resume_writing()` was not.
pub const PROTOCOL_PAUSED: u32 = 1 << 5;
/// `connection_lost()` was called; the descriptor is closed.
pub const LOST: u32 = 1 << 6;
/// There is a Python socket, which owns the descriptor and may be closed by anybody.
pub const HAS_SOCKET: u32 = 1 << 7;
/// From here on flags belong to the kinds of transports.
pub const FIRST_SUBTYPE_FLAG: u32 = 1 << 8;

/// asyncio's default high-water mark, in bytes.
const HIGH_WATER: usize = 64 * 1024;

/// Closes a descriptor when it is dropped, unless an owner has taken it over.
pub struct FdGuard(Option<RawFd>);

impl FdGuard {
    /// `owned`: no Python socket owns the descriptor.
    pub fn new(fd: RawFd, owned: bool) -> Self {
        Self(owned.then_some(fd))
    }

    /// Leaves the descriptor to its new owner.
    pub fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for FdGuard {
    fn drop(&mut self) {
        if let Some(fd) = self.0 {
            // SAFETY: owned by this value.
            unsafe { libc::close(fd) };
        }
    }
}

/// The state that all transports share.
pub struct TransportBase {
    pub fd: Cell<RawFd>,
    flags: AtomicFlags,
    /// As in asyncio: not 0 once `connection_lost()` is on its way; counts writes that came after.
    pub lost_writes: Cell<u32>,
    token: Cell<Option<Token>>,
    pub event_loop: LoopCell<Option<LoopRef>>,
    pub protocol: LoopCell<Option<Ref>>,
    /// The Python socket, which owns the descriptor once it exists.
    pub socket: LoopCell<Option<Ref>>,
    context: LoopCell<Option<Ref>>,
    pub high_water: Cell<usize>,
    pub low_water: Cell<usize>,
}

impl TransportBase {
    pub fn new(fd: RawFd, event_loop: LoopRef, socket: Option<Ref>, context: Ref) -> Self {
        let flags = AtomicFlags::default();
        flags.set(HAS_SOCKET, socket.is_some());
        Self {
            fd: Cell::new(fd),
            flags,
            lost_writes: Cell::new(0),
            token: Cell::new(None),
            event_loop: LoopCell::new(Some(event_loop)),
            protocol: LoopCell::default(),
            socket: LoopCell::new(socket),
            context: LoopCell::new(Some(context)),
            high_water: Cell::new(HIGH_WATER),
            low_water: Cell::new(HIGH_WATER / 4),
        }
    }

    #[inline]
    pub fn has(&self, flags: u32) -> bool {
        self.flags.get() & flags != 0
    }

    #[inline]
    pub fn set(&self, flags: u32, on: bool) {
        self.flags.set(flags, on);
    }

    /// Whether of the flags in `mask` exactly those of `flags` are set.
    #[inline]
    pub fn is(&self, mask: u32, flags: u32) -> bool {
        self.flags.get() & mask == flags
    }

    /// The descriptor while it is open, −1 afterwards: its number may belong to somebody else by then. It is closed with the
    /// transport, and whenever somebody closes the Python socket that owns it. To find that out may run Python.
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
        match self.socket.with(|socket| socket.as_ref().map(Ref::as_ptr)) {
            // SAFETY: a transport keeps its socket until it dies.
            Some(socket) => unsafe { still_open(socket, fd) },
            None => fd,
        }
    }

    /// Whether nobody else may watch the descriptor: the transport is not closing, and the descriptor is still its own.
    pub fn is_exclusive(&self) -> bool {
        !self.is_closing() && self.open_fd() >= 0
    }

    pub fn is_closing(&self) -> bool {
        self.has(CLOSING)
    }

    pub fn is_held(&self) -> bool {
        self.has(HELD)
    }

    /// As [`LoopCore::confined`], of the loop that the transport is on.
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

    /// In debug mode ending a transport is refused in other threads than that of its loop, as asyncio refuses to schedule
    /// `connection_lost()` there.
    pub fn check_thread_in_debug(&self) -> FfiResult<()> {
        match self.event_loop.get() {
            Some(event_loop) => event_loop.core().check_thread_in_debug(),
            None => Ok(()),
        }
    }

    /// The descriptor's entry in the loop's table.
    pub fn token(&self) -> Option<Token> {
        self.token.get()
    }

    /// Puts the transport into the loop's table of descriptors.
    ///
    /// # Safety
    /// Attached; `me` is the live object of this state, and of that kind.
    pub unsafe fn register(
        &self,
        core: &LoopCore,
        me: *mut PyObject,
        vtable: &'static SourceVTable,
    ) -> FfiResult<()> {
        // SAFETY: the caller's promise.
        let native = unsafe { IoSource::new(me, vtable)? };
        core.keep_places()?;
        let (token, replaced) = core
            .descriptors
            .with(|all| all.insert(self.fd.get(), Source::IoSource(native)));
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

    /// Runs protocol code in the transport's own context.
    #[inline]
    pub fn in_context<T>(&self, body: impl FnOnce() -> FfiResult<T>) -> FfiResult<T> {
        match self.context.get() {
            // SAFETY: the clone keeps the context alive.
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
        self.in_context(|| self.call_protocol_here(name, args))
    }

    /// Calls a method of the protocol in the current context.
    #[inline]
    pub fn call_protocol_here<const N: usize>(
        &self,
        name: &Ref,
        args: [*mut PyObject; N],
    ) -> FfiResult<Ref> {
        const MAX: usize = 2;
        let protocol = self.protocol.get().unwrap_or_else(Ref::none);
        // One free slot, the protocol, the arguments.
        let mut values = [ptr::null_mut(); MAX + 2];
        values[1] = protocol.as_ptr();
        values[2..2 + N].copy_from_slice(&args);
        // SAFETY: attached; the arguments are live.
        unsafe {
            Ref::new(ffi::PyObject_VectorcallMethod(
                name.as_ptr(),
                values.as_ptr().add(1),
                (1 + N) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
                ptr::null_mut(),
            ))
        }
    }

    /// `pause_writing()` when more is queued than the high-water mark.
    pub fn pause_protocol(
        &self,
        event_loop: *mut PyObject,
        me: &Ref,
        queued: usize,
    ) -> FfiResult<()> {
        if queued <= self.high_water.get() || self.has(PROTOCOL_PAUSED) {
            return Ok(());
        }
        self.set(PROTOCOL_PAUSED, true);
        let name = &Stdlib::get().names.pause_writing;
        self.notify_protocol(event_loop, me, name, "protocol.pause_writing() failed")
    }

    /// `resume_writing()` when no more is queued than the low-water mark.
    pub fn resume_protocol(
        &self,
        event_loop: *mut PyObject,
        me: &Ref,
        queued: usize,
    ) -> FfiResult<()> {
        if queued > self.low_water.get() || !self.has(PROTOCOL_PAUSED) {
            return Ok(());
        }
        self.set(PROTOCOL_PAUSED, false);
        let name = &Stdlib::get().names.resume_writing;
        self.notify_protocol(event_loop, me, name, "protocol.resume_writing() failed")
    }

    fn notify_protocol(
        &self,
        event_loop: *mut PyObject,
        me: &Ref,
        name: &Ref,
        failure: &str,
    ) -> FfiResult<()> {
        let Some(protocol) = self.protocol.get() else {
            return Ok(());
        };
        // Like asyncio, this runs in the writer's context.
        match self.call_protocol_here(name, []) {
            Ok(_) => Ok(()),
            Err(_) => exceptions::report(
                event_loop,
                failure,
                &[("transport", me), ("protocol", &protocol)],
            ),
        }
    }

    /// The objects held here, for the collector; null for what is not there.
    pub fn objects(&self) -> [*mut PyObject; 4] {
        let event_loop = self
            .event_loop
            .with(|slot| slot.as_ref().map_or(ptr::null_mut(), LoopRef::as_ptr));
        let [protocol, socket, context] = [&self.protocol, &self.socket, &self.context]
            .map(|slot| slot.with(|slot| slot.as_ref().map_or(ptr::null_mut(), Ref::as_ptr)));
        [event_loop, protocol, socket, context]
    }

    /// Breaks cycles for the collector. The loop and the descriptor stay until the object dies, which needs them.
    pub fn clear(&self) {
        drop(self.protocol.take());
        drop(self.context.take());
    }

    /// The last reference is gone. `__del__` closes what was left open; without it, or if it failed, the descriptor is
    /// closed here. This runs no Python; what does comes after it, when the loop no longer knows the transport.
    pub fn finalize(&self) {
        let fd = self.fd.get();
        self.deregister();
        let owned_here = self.socket.with(|socket| socket.is_none());
        if owned_here && !self.has(LOST) && self.event_loop.with(|l| l.is_some()) {
            // SAFETY: the transport owns the descriptor.
            unsafe { libc::close(fd) };
        }
    }
}

/// What differs between kinds of transports in how they live and end.
pub trait Transport: Deref<Target = TransportBase> {
    /// Whether the transport reads, or has something to send.
    fn is_active(&self) -> bool;

    /// Drops what was to be sent.
    fn discard(&self);

    /// Sends what was gathered, as far as the socket takes it at once; whether it does is all the same now.
    fn send_gathered(&self) {}

    /// The descriptor is about to be closed.
    fn before_close(&self) {}

    /// The descriptor is closed, the protocol knows.
    fn after_close(&self, _me: *mut PyObject) -> FfiResult<()> {
        Ok(())
    }

    /// Lets the loop keep the transport alive while it reads or has bytes to send, as asyncio's selector does.
    fn update_hold(&self, me: *mut PyObject) {
        let wanted =
            self.token.get().is_some() && self.has(STARTED) && !self.has(LOST) && self.is_active();
        if wanted != self.has(HELD) && self.flags.change(HELD, wanted) {
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
    fn dropped_by_table(&self, me: *mut PyObject) {
        self.token.set(None);
        self.update_hold(me);
    }

    /// Reports the exception that is set and ends the connection, by the transport's `_fatal_error()`.
    #[cold]
    fn fatal_error(me: &Ref, message: &str) -> FfiResult<()> {
        // SAFETY: called from the loop or a method, attached.
        let py = unsafe { Python::assume_attached() };
        let error = exceptions::take(py)?;
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
    fn force_close(&self, me: *mut PyObject, error: &Ref) -> FfiResult<()> {
        if self.lost_writes.get() > 0 {
            return Ok(());
        }
        self.check_thread_in_debug()?;
        // What was written before and merely gathered counts as sent.
        self.send_gathered();
        self.discard();
        self.set(CLOSING, true);
        self.set(BLOCKED, false);
        self.lost_writes.set(1);
        self.schedule_connection_lost(me, error)
    }

    /// Has the loop call `connection_lost(error)`, in the transport's context.
    fn schedule_connection_lost(&self, me: *mut PyObject, error: &Ref) -> FfiResult<()> {
        let Some(event_loop) = self.event_loop.get() else {
            return Ok(());
        };
        let core = event_loop.core();
        // SAFETY: all objects are live.
        unsafe {
            let py = Python::assume_attached();
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
            core.wake_from_elsewhere();
        }
        self.update_hold(me);
        Ok(())
    }

    /// Calls `connection_lost(error)` and closes the descriptor, whatever the protocol does.
    fn connection_lost(&self, me: *mut PyObject, error: *mut PyObject) -> FfiResult<()> {
        if self.has(LOST) {
            return Ok(());
        }
        // The handle that runs this is in the transport's context already.
        let called = self.call_protocol_here(&Stdlib::get().names.connection_lost, [error]);
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        let raised = called.err().map(|_| PyErr::fetch(py));
        let closed = self.close_descriptor(me);
        if let Some(error) = raised {
            return Err(error.into());
        }
        closed
    }

    /// Closes the descriptor and tells nobody, as `__del__` does in whatever thread has dropped the last reference. What no
    /// interpreter lock keeps apart from a loop that runs elsewhere is left to that loop: it may have an event for the
    /// transport.
    fn abandon(&self, me: *mut PyObject) -> FfiResult<()> {
        if cfg!(Py_GIL_DISABLED) {
            if let Some(event_loop) = self.event_loop.get() {
                let core = event_loop.core();
                // SAFETY: the caller's object is live.
                unsafe {
                    if !core.is_owner() {
                        let py = Python::assume_attached();
                        let again = Bound::from_borrowed_ptr(py, me).getattr("_abandon")?;
                        core.soon(event_loop.as_ptr(), again.as_ptr(), &[], None)?;
                        return Ok(());
                    }
                }
            }
        }
        self.close_descriptor(me)
    }

    /// Closes the descriptor and lets go of everything.
    fn close_descriptor(&self, me: *mut PyObject) -> FfiResult<()> {
        if self.has(LOST) {
            return Ok(());
        }
        self.before_close();
        self.set(LOST | CLOSING, true);
        // SAFETY: the caller holds the object; this keeps it while references are dropped.
        let _alive = unsafe { Ref::borrowed(me) };
        self.deregister();
        self.update_hold(me);
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        let mut closed = Ok(());
        if let Some(socket) = self.socket.get() {
            closed = socket.bind(py).call_method0("close").map(drop);
        } else {
            // SAFETY: the transport owns the descriptor, and LOST says that it no longer does.
            unsafe { libc::close(self.fd.get()) };
        }
        self.discard();
        drop(self.protocol.take());
        drop(self.event_loop.take());
        drop(self.context.take());
        self.after_close(me)?;
        closed?;
        Ok(())
    }
}

/// A write after the connection was lost: asyncio warns of the sixth.
#[cold]
pub fn count_lost_write(it: &TransportBase) -> FfiResult<Ref> {
    let count = it.lost_writes.get();
    if count >= LOST_WRITES_BEFORE_WARNING {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        Stdlib::get()
            .logger
            .bind(py)
            .call_method1("warning", ("socket.send() raised exception.",))?;
    }
    it.lost_writes.set(count.saturating_add(1));
    Ok(Ref::none())
}

/// Writes a line to asyncio's log in debug mode, as asyncio does.
///
/// # Safety
/// `me` is the live object of `it`.
pub unsafe fn debug_log(me: *mut PyObject, it: &TransportBase, message: &str) -> FfiResult<()> {
    let event_loop = it.event_loop.get();
    // SAFETY: `me` is live.
    unsafe {
        if event_loop.is_some_and(|event_loop| event_loop.core().is_debug()) {
            let py = Python::assume_attached();
            Stdlib::get()
                .logger
                .bind(py)
                .call_method1("debug", (message, Bound::from_borrowed_ptr(py, me)))?;
        }
    }
    Ok(())
}
