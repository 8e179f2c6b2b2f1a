//! From the protocol to the socket. What a protocol writes in one call, or in one iteration of the loop, is sent by one system
//! call.

use std::io;

use hybridloop_reactor::syscall::{check_len, retry_on_intr};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::allocator::out_of_memory;
use crate::event_loop::{exceptions, LoopContext};
use crate::python::bytes::to_bytes;
use crate::python::stdlib::Stdlib;
use crate::python::{future, normalized, ErrSet, FfiResult, Ref};
use crate::transports::args::{exact_bytes, is_bytes_like, not_bytes};
use crate::transports::base::{BLOCKED, CLOSING, LOST, PROTOCOL_PAUSED};
use crate::transports::lifecycle::{fatal_error, Transport};
use crate::transports::stream::queue::{SendResult, SEND_FLAGS};
use crate::transports::stream::state::{fail_waiter, StreamTransport, CORKED, EOF_WRITTEN};

/// `writelines()` checks its argument in the words of asyncio's, which joins the pieces for `write()` before Python 3.12.
const WRITES_LINES: &str = if cfg!(Py_3_12) { "writelines" } else { "write" };

/// `transport.write(data)`
///
/// # Safety
/// `slf` is a `StreamTransport`, and `data` is a live object.
pub unsafe fn write_object(py: Python<'_>, slf: &Ref, data: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: the caller guarantees that `data` is live.
    unsafe {
        if !is_bytes_like(data) {
            return Err(not_bytes(py, &Stdlib::get().stream_write, data));
        }
    }
    // SAFETY: the caller guarantees the class of `slf`.
    let transport = unsafe { StreamTransport::of(slf.as_ptr()) };
    transport.check_thread()?;
    check_writable(transport, "write", "write")?;
    // SAFETY: the caller guarantees that `data` is live.
    let data = unsafe { exact_bytes(data)? };
    if is_empty(&data) {
        return Ok(Ref::none());
    }
    if transport.lost_writes.get() > 0 {
        return transport.count_lost_write(py);
    }
    if let Some(event_loop) = transport.event_loop.get() {
        write(event_loop.cx(py), slf, transport, data)?;
    }
    Ok(Ref::none())
}

/// `transport.writelines(lines)`
pub fn write_lines(
    py: Python<'_>,
    slf: &Ref,
    transport: &StreamTransport,
    lines: &Bound<'_, PyAny>,
) -> FfiResult<()> {
    check_writable(transport, WRITES_LINES, WRITES_LINES)?;
    let mut pieces = Vec::new();
    for (index, line) in lines.try_iter()?.enumerate() {
        let line = line?;
        // SAFETY: `line` keeps the object alive.
        if unsafe { ffi::PyObject_CheckBuffer(line.as_ptr()) } == 0 {
            return Err(not_a_piece(index, &line)?.into());
        }
        // SAFETY: `line` keeps the object alive.
        let piece = unsafe { exact_bytes(line.as_ptr())? };
        if !is_empty(&piece) {
            pieces.try_reserve(1).map_err(out_of_memory)?;
            pieces.push(piece);
        }
    }
    if pieces.is_empty() {
        return Ok(());
    }
    if transport.lost_writes.get() > 0 {
        return transport.count_lost_write(py).map(drop);
    }
    let Some(event_loop) = transport.event_loop.get() else {
        return Ok(());
    };
    let size = transport
        .queue
        .with(|queue| queue.push_all(pieces).map(|()| queue.size()))
        .map_err(out_of_memory)?;
    flush_or_defer(event_loop.cx(py), slf, transport, size)
}

#[cold]
fn not_a_piece(index: usize, piece: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let name = piece.get_type().name()?;
    Ok(PyTypeError::new_err(if cfg!(Py_3_12) {
        format!("memoryview: a bytes-like object is required, not '{name}'")
    } else {
        format!("sequence item {index}: expected a bytes-like object, {name} found")
    }))
}

/// Whether an exact `bytes` object is empty.
#[inline]
fn is_empty(data: &Ref) -> bool {
    // SAFETY: callers pass exact `bytes` objects, which have a size.
    unsafe { ffi::Py_SIZE(data.as_ptr()) == 0 }
}

/// Refuses writes after `write_eof()`, and while a file is sent.
#[inline]
fn check_writable(transport: &StreamTransport, function: &str, verb: &str) -> FfiResult<()> {
    if transport.has(EOF_WRITTEN) || transport.empty_waiter.is_some() {
        return Err(not_writable(transport, function, verb));
    }
    Ok(())
}

#[cold]
fn not_writable(transport: &StreamTransport, function: &str, verb: &str) -> ErrSet {
    PyRuntimeError::new_err(if transport.has(EOF_WRITTEN) {
        format!("Cannot call {function}() after write_eof()")
    } else {
        format!("unable to {verb}; sendfile is in progress")
    })
    .into()
}

/// Whether `write()` would neither raise nor ignore the data.
#[inline]
pub fn accepts_writes(transport: &StreamTransport) -> bool {
    !transport.has(LOST | CLOSING | EOF_WRITTEN)
        && transport.lost_writes.get() == 0
        && transport.empty_waiter.is_none()
}

/// Queues `data`, an exact `bytes` object that is not empty. It is sent with what else the protocol writes in this call or
/// iteration, or at once if that is much.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the way of every write")]
pub fn write(
    cx: LoopContext<'_>,
    slf: &Ref,
    transport: &StreamTransport,
    data: Ref,
) -> FfiResult<()> {
    let size = transport
        .queue
        .with(|queue| queue.push(data).map(|()| queue.size()))
        .map_err(out_of_memory)?;
    flush_or_defer(cx, slf, transport, size)
}

/// Decides when what was just queued is sent; `size` is that of the queue.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the way of every write")]
fn flush_or_defer(
    cx: LoopContext<'_>,
    slf: &Ref,
    transport: &StreamTransport,
    size: usize,
) -> FfiResult<()> {
    if transport.has(BLOCKED) {
        return pause_protocol(cx, slf, transport);
    }
    if size > transport.high_water.get() || !transport.defers_writes(cx.core) {
        return flush(cx, slf, transport);
    }
    if !transport.has(CORKED) {
        transport.schedule_flush(cx.core, slf);
    }
    Ok(())
}

/// Sends what was written so far, unless the socket is full.
pub fn flush_now(py: Python<'_>, slf: &Ref, transport: &StreamTransport) -> FfiResult<()> {
    if transport.has(BLOCKED) {
        return Ok(());
    }
    let Some(event_loop) = transport.event_loop.get() else {
        return Ok(());
    };
    flush(event_loop.cx(py), slf, transport)
}

/// Sends what is queued, as far as the socket takes it.
pub fn flush(cx: LoopContext<'_>, slf: &Ref, transport: &StreamTransport) -> FfiResult<()> {
    match try_flush(cx, slf, transport)? {
        Some(error) => write_failed(cx.py, slf, transport, &error),
        None => Ok(()),
    }
}

/// [`flush`], except that the caller gets the error of a failed write, and has to report it with [`write_failed`].
pub fn try_flush(
    cx: LoopContext<'_>,
    slf: &Ref,
    transport: &StreamTransport,
) -> FfiResult<Option<io::Error>> {
    if transport.queue.with(|queue| queue.is_empty()) || transport.has(LOST) {
        return Ok(None);
    }
    let mut progress = false;
    loop {
        let fd = transport.open_fd();
        let sent = transport
            .queue
            .with(|queue| queue.send(fd).map(|sent| (sent, queue.size())));
        match sent {
            Ok(((SendResult { bytes, complete }, pieces), left)) => {
                pieces.drop_pieces();
                cx.core.stats.sent(bytes);
                progress |= bytes > 0;
                if left == 0 {
                    return on_drained(cx, slf, transport).map(|()| None);
                }
                if !complete {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Ok(Some(error)),
        }
    }
    progress &= transport.has(PROTOCOL_PAUSED);
    on_blocked(cx, slf, transport)?;
    if progress {
        // The queue may have fallen below the low-water mark.
        resume_protocol(cx, slf, transport)?;
    }
    Ok(None)
}

/// Sends bytes from where they are; only what the socket does not take is copied and queued. False, without having sent
/// anything, if other bytes are queued.
pub fn send_now(
    cx: LoopContext<'_>,
    slf: &Ref,
    transport: &StreamTransport,
    data: &[u8],
) -> FfiResult<bool> {
    if transport.has(BLOCKED) || transport.queue.with(|queue| !queue.is_empty()) {
        return Ok(false);
    }
    let fd = transport.open_fd();
    let sent = retry_on_intr(|| {
        // SAFETY: the slice is valid during the call.
        check_len(unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), SEND_FLAGS) })
    });
    let sent = match sent {
        Ok(sent) => {
            cx.core.stats.sent(sent);
            if sent == data.len() {
                return Ok(true);
            }
            sent
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return write_failed(cx.py, slf, transport, &error).map(|()| true),
    };
    let rest = to_bytes(&data[sent..])?;
    transport
        .queue
        .with(|queue| queue.push(rest))
        .map_err(out_of_memory)?;
    on_blocked(cx, slf, transport)?;
    Ok(true)
}

/// The socket is full: what is queued waits for an event.
fn on_blocked(cx: LoopContext<'_>, slf: &Ref, transport: &StreamTransport) -> FfiResult<()> {
    transport.set(BLOCKED, true);
    transport.blocked_at_poll.set(cx.core.last_poll());
    if let Err(error) = transport.set_write_interest(cx.core, true) {
        return write_failed(cx.py, slf, transport, &error);
    }
    transport.update_hold(slf);
    pause_protocol(cx, slf, transport)
}

/// Everything is sent: resumes the protocol, wakes `sendfile()`, and does what `close()` or `write_eof()` has left to be done.
fn on_drained(cx: LoopContext<'_>, slf: &Ref, transport: &StreamTransport) -> FfiResult<()> {
    transport.set(BLOCKED, false);
    transport.update_hold(slf);
    if transport.has(PROTOCOL_PAUSED) {
        // The protocol may write more.
        resume_protocol(cx, slf, transport)?;
        if transport.queue.with(|queue| !queue.is_empty()) {
            return Ok(());
        }
    }
    if let Some(waiter) = transport.empty_waiter.get() {
        future::resolve(&waiter)?;
    }
    if transport.has(CLOSING) {
        if transport.lost_writes.get() == 0 {
            transport.lost_writes.set(1);
            return transport.schedule_connection_lost(cx.py, slf, &Ref::none());
        }
    } else if transport.has(EOF_WRITTEN) {
        shutdown_write(transport);
    }
    Ok(())
}

/// `write_eof()`: ends the writing side when everything is sent.
pub fn write_eof(py: Python<'_>, slf: &Ref, transport: &StreamTransport) -> FfiResult<()> {
    if transport.has(CLOSING | EOF_WRITTEN) {
        return Ok(());
    }
    transport.set(EOF_WRITTEN, true);
    if transport.queue.with(|queue| queue.is_empty()) {
        shutdown_write(transport);
        return Ok(());
    }
    flush_now(py, slf, transport)
}

fn shutdown_write(transport: &StreamTransport) {
    // SAFETY: the system checks the descriptor. If the socket is not connected any more, reading will report that.
    unsafe { libc::shutdown(transport.open_fd(), libc::SHUT_WR) };
    if let Some(event_loop) = transport.event_loop.get() {
        // As where a descriptor is closed.
        event_loop.core().poll_next_iteration();
    }
}

/// Ends the connection because a write has failed.
#[cold]
pub fn write_failed(
    py: Python<'_>,
    slf: &Ref,
    transport: &StreamTransport,
    error: &io::Error,
) -> FfiResult<()> {
    drop(transport.queue.take());
    transport.set(BLOCKED, false);
    let error = normalized(exceptions::os_error(error));
    if let Some(waiter) = transport.empty_waiter.get() {
        fail_waiter(py, &waiter, &error)?;
    }
    let _ = ErrSet::from(error);
    fatal_error(py, slf, "Fatal write error on socket transport")
}

fn pause_protocol(cx: LoopContext<'_>, slf: &Ref, transport: &StreamTransport) -> FfiResult<()> {
    transport.pause_protocol(cx, slf, transport.queue.with(|queue| queue.size()))
}

fn resume_protocol(cx: LoopContext<'_>, slf: &Ref, transport: &StreamTransport) -> FfiResult<()> {
    transport.resume_protocol(cx, slf, transport.queue.with(|queue| queue.size()))
}

/// `set_write_buffer_limits()`: pauses the protocol, or sends what is queued, if more is queued than the new limits allow.
pub fn set_limits(
    py: Python<'_>,
    slf: &Ref,
    transport: &StreamTransport,
    (low, high): (usize, usize),
) -> FfiResult<()> {
    transport.low_water.set(low);
    transport.high_water.set(high);
    let Some(event_loop) = transport.event_loop.get() else {
        return Ok(());
    };
    if transport.has(BLOCKED) {
        return pause_protocol(event_loop.cx(py), slf, transport);
    }
    if transport.queue.with(|queue| queue.size()) > high {
        return flush(event_loop.cx(py), slf, transport);
    }
    Ok(())
}
