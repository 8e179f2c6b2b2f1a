//! From the protocol to the socket: writes gather and leave in one system call an iteration.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::allocator::{out_of_memory, push_back};
use crate::event_loop::{exceptions, LoopCore};
use crate::python::{future, FfiResult, Ref};
use crate::transports::base::{Transport, BLOCKED, CLOSING, LOST, PROTOCOL_PAUSED};
use crate::transports::stream::{Stream, CORKED, EOF_WRITTEN};

/// How many pieces one system call takes.
const MAX_PIECES: usize = 64;

#[cfg(target_os = "linux")]
const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL;
#[cfg(not(target_os = "linux"))]
const SEND_FLAGS: libc::c_int = 0;

/// Bytes that wait to be sent, in order; the first may be sent in part.
#[derive(Default)]
pub struct WriteQueue {
    pieces: VecDeque<Ref>,
    /// How much of the first piece is sent.
    sent: usize,
    /// Bytes in all, without what is sent.
    size: usize,
}

impl WriteQueue {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    #[inline]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Adds an exact `bytes` object that is not empty; it comes back if there is no memory for it.
    #[inline]
    pub fn push(&mut self, piece: Ref) -> Result<(), Ref> {
        let size = slice(&piece).len();
        push_back(&mut self.pieces, piece)?;
        self.size += size;
        Ok(())
    }

    /// Adds many of them, or none if there is no memory for all.
    pub fn push_all(&mut self, pieces: Vec<Ref>) -> Result<(), Vec<Ref>> {
        if self.pieces.try_reserve(pieces.len()).is_err() {
            return Err(pieces);
        }
        self.size += pieces.iter().map(|piece| slice(piece).len()).sum::<usize>();
        self.pieces.extend(pieces);
        Ok(())
    }

    /// Sends what one system call takes; the pieces that are through come back, to be dropped.
    #[inline]
    fn send(&mut self, fd: RawFd) -> io::Result<(Sent, Done)> {
        let sent = send(fd, self)?;
        let done = self.advance(sent.bytes);
        Ok((sent, done))
    }

    /// Takes note of `n` bytes sent; the pieces that are through come back, to be dropped.
    #[inline]
    fn advance(&mut self, n: usize) -> Done {
        if n == self.size && self.pieces.len() == 1 {
            (self.size, self.sent) = (0, 0);
            return self.pieces.pop_front().map_or(Done::None, Done::One);
        }
        self.advance_by_pieces(n)
    }

    fn advance_by_pieces(&mut self, mut n: usize) -> Done {
        self.size -= n;
        let mut done = Done::None;
        while n > 0 {
            let Some(first) = self.pieces.front() else {
                break;
            };
            let left = slice(first).len() - self.sent;
            if n < left {
                self.sent += n;
                break;
            }
            n -= left;
            self.sent = 0;
            done.push(self.pieces.pop_front());
        }
        done
    }
}

/// Pieces that were sent: mostly one.
enum Done {
    None,
    One(Ref),
    Many(Vec<Ref>),
}

impl Done {
    /// Drops the pieces, mostly one.
    #[inline]
    fn drop_pieces(self) {
        match self {
            Self::None => {}
            Self::One(piece) => drop(piece),
            Self::Many(pieces) => drop(pieces),
        }
    }

    fn push(&mut self, piece: Option<Ref>) {
        let Some(piece) = piece else { return };
        *self = match std::mem::replace(self, Self::None) {
            Self::None => Self::One(piece),
            Self::One(first) => Self::Many(vec![first, piece]),
            Self::Many(mut all) => {
                all.push(piece);
                Self::Many(all)
            }
        };
    }
}

/// The contents of an exact `bytes` object.
#[inline]
fn slice(bytes: &Ref) -> &[u8] {
    // SAFETY: the queue holds exact `bytes` objects, which never change.
    unsafe {
        let data = ffi::PyBytes_AS_STRING(bytes.as_ptr()).cast::<u8>();
        std::slice::from_raw_parts(data, ffi::Py_SIZE(bytes.as_ptr()).unsigned_abs())
    }
}

/// Takes `data` to be sent: with what else the protocol writes in this call or iteration, or at once if it is much.
#[inline]
pub fn write(
    core: &LoopCore,
    event_loop: *mut PyObject,
    me: &Ref,
    it: &Stream,
    data: Ref,
) -> FfiResult<()> {
    let size = it
        .queue
        .with(|queue| queue.push(data).map(|()| queue.size()))
        .map_err(out_of_memory)?;
    settle(core, event_loop, me, it, size)
}

/// Decides when what was just queued leaves.
#[inline]
pub fn settle(
    core: &LoopCore,
    event_loop: *mut PyObject,
    me: &Ref,
    it: &Stream,
    size: usize,
) -> FfiResult<()> {
    if it.has(BLOCKED) {
        return pause_protocol(event_loop, me, it);
    }
    if size > it.high_water.get() || !it.gathers(core) {
        return flush(event_loop, me, it);
    }
    if !it.has(CORKED) {
        it.flush_later(core, me.as_ptr());
    }
    Ok(())
}

/// Sends what is queued, as far as the socket takes it.
pub fn flush(event_loop: *mut PyObject, me: &Ref, it: &Stream) -> FfiResult<()> {
    match try_flush(event_loop, me, it)? {
        Some(error) => failed(me, it, error),
        None => Ok(()),
    }
}

/// The same; the error of a write that fails is given to the caller, who has to report it with [`failed`].
pub fn try_flush(event_loop: *mut PyObject, me: &Ref, it: &Stream) -> FfiResult<Option<io::Error>> {
    if it.queue.with(|queue| queue.is_empty()) || it.has(LOST) {
        return Ok(None);
    }
    let mut progress = false;
    loop {
        let fd = it.open_fd();
        let sent = it
            .queue
            .with(|queue| queue.send(fd).map(|sent| (sent, queue.size())));
        match sent {
            Ok(((Sent { bytes, all }, done), left)) => {
                done.drop_pieces();
                // SAFETY: the loop of a transport is a LoopCore.
                unsafe { LoopCore::of(event_loop) }.stats.sent(bytes);
                progress |= bytes > 0;
                if left == 0 {
                    return drained(event_loop, me, it).map(|()| None);
                }
                if !all {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Ok(Some(error)),
        }
    }
    progress &= it.has(PROTOCOL_PAUSED);
    block(event_loop, me, it)?;
    if progress {
        // What is left may be little enough.
        resume_protocol(event_loop, me, it)?;
    }
    Ok(None)
}

/// Sends what the socket takes at once of what was gathered, and tells nobody.
pub fn send_last(it: &Stream) {
    while !it.has(BLOCKED | LOST) && it.queue.with(|queue| !queue.is_empty()) {
        let fd = it.open_fd();
        match it.queue.with(|queue| queue.send(fd)) {
            Ok((sent, done)) => {
                drop(done);
                if let Some(event_loop) = it.event_loop.get() {
                    event_loop.core().stats.sent(sent.bytes);
                }
                if !sent.all {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// The socket is full: what is queued waits for an event.
fn block(event_loop: *mut PyObject, me: &Ref, it: &Stream) -> FfiResult<()> {
    it.set(BLOCKED, true);
    // SAFETY: the loop of a transport is a LoopCore.
    let core = unsafe { LoopCore::of(event_loop) };
    it.blocked_after.set(core.last_poll());
    if let Err(error) = it.watch_writes(core, true) {
        return failed(me, it, error);
    }
    it.update_hold(me.as_ptr());
    pause_protocol(event_loop, me, it)
}

/// Whether nothing is to be said about a write, as there is when the stream is closing.
#[inline]
pub fn takes_writes(it: &Stream) -> bool {
    !it.has(LOST | CLOSING | EOF_WRITTEN)
        && it.lost_writes.get() == 0
        && it.empty_waiter.with(|waiter| waiter.is_none())
}

/// Sends bytes from where they are; only what the socket does not take is copied and queued. False, with nothing done, if
/// other bytes come first.
pub fn send_now(event_loop: *mut PyObject, me: &Ref, it: &Stream, data: &[u8]) -> FfiResult<bool> {
    if it.has(BLOCKED) || it.queue.with(|queue| !queue.is_empty()) {
        return Ok(false);
    }
    let sent = loop {
        // SAFETY: the slice is valid for the call.
        let sent =
            unsafe { libc::send(it.open_fd(), data.as_ptr().cast(), data.len(), SEND_FLAGS) };
        match usize::try_from(sent).map_err(|_| io::Error::last_os_error()) {
            Ok(sent) => {
                // SAFETY: the loop of a transport is a LoopCore.
                unsafe { LoopCore::of(event_loop) }.stats.sent(sent);
                if sent == data.len() {
                    return Ok(true);
                }
                break sent;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break 0,
            Err(error) => return failed(me, it, error).map(|()| true),
        }
    };
    let rest = &data[sent..];
    // SAFETY: attached; CPython copies the bytes.
    let rest = unsafe {
        Ref::new(ffi::PyBytes_FromStringAndSize(
            rest.as_ptr().cast(),
            rest.len().cast_signed(),
        ))?
    };
    it.queue
        .with(|queue| queue.push(rest))
        .map_err(out_of_memory)?;
    block(event_loop, me, it)?;
    Ok(true)
}

/// What one system call did.
struct Sent {
    bytes: usize,
    /// The socket took everything it was given, so it may take more. If not, it is full, and an edge will follow.
    all: bool,
}

fn send(fd: RawFd, queue: &WriteQueue) -> io::Result<Sent> {
    let mut given = 0;
    let sent = if queue.pieces.len() == 1 {
        let data = &slice(&queue.pieces[0])[queue.sent..];
        given = data.len();
        // SAFETY: the slice is valid for the call.
        unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), SEND_FLAGS) }
    } else {
        let mut pieces = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; MAX_PIECES];
        let mut count = 0;
        let mut skip = queue.sent;
        for (piece, iov) in queue.pieces.iter().zip(&mut pieces) {
            let data = &slice(piece)[std::mem::take(&mut skip)..];
            iov.iov_base = data.as_ptr().cast_mut().cast();
            iov.iov_len = data.len();
            given += data.len();
            count += 1;
        }
        // SAFETY: all-zero is a valid msghdr; the pieces are valid for the call.
        unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = pieces.as_mut_ptr();
            message.msg_iovlen = count;
            libc::sendmsg(fd, &raw const message, SEND_FLAGS)
        }
    };
    let bytes = usize::try_from(sent).map_err(|_| io::Error::last_os_error())?;
    Ok(Sent {
        bytes,
        all: bytes == given,
    })
}

/// Everything is sent: what waited for that goes on.
fn drained(event_loop: *mut PyObject, me: &Ref, it: &Stream) -> FfiResult<()> {
    it.set(BLOCKED, false);
    it.update_hold(me.as_ptr());
    if it.has(PROTOCOL_PAUSED) {
        // May write more.
        resume_protocol(event_loop, me, it)?;
        if it.queue.with(|queue| !queue.is_empty()) {
            return Ok(());
        }
    }
    if let Some(waiter) = it.empty_waiter.get() {
        future::resolve(&waiter)?;
    }
    if it.has(CLOSING) {
        if it.lost_writes.get() == 0 {
            it.lost_writes.set(1);
            return it.schedule_connection_lost(me.as_ptr(), &Ref::none());
        }
    } else if it.has(EOF_WRITTEN) {
        shutdown_write(it.open_fd());
    }
    Ok(())
}

/// Tells the peer that no more comes.
pub fn shutdown_write(fd: RawFd) {
    // SAFETY: shutting down a descriptor that is not connected is an error of the kernel's, and then the peer is gone
    // and reading will tell.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// Ends the connection because a write has failed.
#[cold]
pub fn failed(me: &Ref, it: &Stream, error: io::Error) -> FfiResult<()> {
    drop(it.queue.take());
    it.set(BLOCKED, false);
    let error = exceptions::os_error(&error);
    if let Some(waiter) = it.empty_waiter.get() {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        let waiter = waiter.bind(py);
        if !waiter.call_method0("done")?.is_truthy()? {
            waiter.call_method1("set_exception", (error.value(py),))?;
        }
    }
    let _ = crate::python::ErrSet::from(error);
    Stream::fatal_error(me, "Fatal write error on socket transport")
}

/// `pause_writing()` when more is queued than the high-water mark.
pub fn pause_protocol(event_loop: *mut PyObject, me: &Ref, it: &Stream) -> FfiResult<()> {
    it.pause_protocol(event_loop, me, it.queue.with(|queue| queue.size()))
}

/// `resume_writing()` when no more is queued than the low-water mark.
pub fn resume_protocol(event_loop: *mut PyObject, me: &Ref, it: &Stream) -> FfiResult<()> {
    it.resume_protocol(event_loop, me, it.queue.with(|queue| queue.size()))
}
