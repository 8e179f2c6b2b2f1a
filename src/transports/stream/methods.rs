//! The methods of `StreamTransport`. Cold ones are in `hybridloop.loop.transports`, in Python.

use std::mem::ManuallyDrop;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::allocator::out_of_memory;
use crate::python::stdlib::Stdlib;
use crate::python::{future, Args, FfiResult, Ref};
use crate::transports::address::Side;
use crate::transports::args::{exact_bytes, not_bytes, one_argument};
use crate::transports::base::{
    count_lost_write, debug_log, Transport, BLOCKED, CLOSING, HAS_SOCKET, LOST, PAUSED, STARTED,
};
use crate::transports::stream::write;
use crate::transports::stream::{Stream, EOF_READ, EOF_WRITTEN, READABLE};
use crate::{fastcall, noargs, onearg};

/// Refuses what is written after `write_eof()`, or while a file is sent.
#[inline]
fn refuse_write(it: &Stream, function: &str, verb: &str) -> FfiResult<()> {
    if it.has(EOF_WRITTEN) || it.empty_waiter.with(|waiter| waiter.is_some()) {
        return refused(it, function, verb);
    }
    Ok(())
}

#[cold]
fn refused(it: &Stream, function: &str, verb: &str) -> FfiResult<()> {
    if it.has(EOF_WRITTEN) {
        return Err(
            PyRuntimeError::new_err(format!("Cannot call {function}() after write_eof()")).into(),
        );
    }
    Err(PyRuntimeError::new_err(format!("unable to {verb}; sendfile is in progress")).into())
}

unsafe fn check_thread(slf: *mut PyObject) -> FfiResult<()> {
    // SAFETY: the method descriptor has checked `self`.
    unsafe { Stream::of(slf) }.check_thread()
}

unsafe fn write(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let data = one_argument(&args, "write", "data")?;
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe { write_data(slf, data) }
}

/// `transport.write(data)`
///
/// # Safety
/// `slf` is a live stream, and `data` is live; both stay so during the call.
pub unsafe fn write_data(slf: *mut PyObject, data: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: the caller's promise.
    unsafe {
        if ffi::PyBytes_Check(data) == 0
            && ffi::PyByteArray_Check(data) == 0
            && ffi::PyMemoryView_Check(data) == 0
        {
            return Err(not_bytes(&Stdlib::get().stream_write, data));
        }
        let it = Stream::of(slf);
        it.check_thread()?;
        refuse_write(it, "write", "write")?;
        let data = exact_bytes(data)?;
        if ffi::Py_SIZE(data.as_ptr()) == 0 {
            return Ok(Ref::none());
        }
        if it.lost_writes.get() > 0 {
            return count_lost_write(it);
        }
        let Some(event_loop) = it.event_loop.get() else {
            return Ok(Ref::none());
        };
        // The caller holds it, so it is not counted here.
        let me = ManuallyDrop::new(Ref::unowned(slf));
        let core = event_loop.core();
        write::write(core, event_loop.as_ptr(), &me, it, data)?;
    }
    Ok(Ref::none())
}

/// What raises the errors of asyncio's `writelines()`: before Python 3.12 it joins the pieces and calls `write()`.
const WRITES_LINES: &str = if cfg!(Py_3_12) { "writelines" } else { "write" };

#[cold]
fn not_a_piece(index: usize, piece: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let name = piece.get_type().name()?;
    Ok(PyTypeError::new_err(if cfg!(Py_3_12) {
        format!("memoryview: a bytes-like object is required, not '{name}'")
    } else {
        format!("sequence item {index}: expected a bytes-like object, {name} found")
    }))
}

unsafe fn writelines(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    unsafe {
        let lines = one_argument(&args, "writelines", "list_of_data")?;
        let it = Stream::of(slf);
        refuse_write(it, WRITES_LINES, WRITES_LINES)?;
        let py = Python::assume_attached();
        let mut pieces = Vec::new();
        for (index, line) in Bound::from_borrowed_ptr(py, lines).try_iter()?.enumerate() {
            let line = line?;
            if ffi::PyObject_CheckBuffer(line.as_ptr()) == 0 {
                return Err(not_a_piece(index, &line)?.into());
            }
            let piece = exact_bytes(line.as_ptr())?;
            if ffi::Py_SIZE(piece.as_ptr()) > 0 {
                pieces.try_reserve(1).map_err(out_of_memory)?;
                pieces.push(piece);
            }
        }
        if pieces.is_empty() {
            return Ok(Ref::none());
        }
        if it.lost_writes.get() > 0 {
            return count_lost_write(it);
        }
        let Some(event_loop) = it.event_loop.get() else {
            return Ok(Ref::none());
        };
        let size = it
            .queue
            .with(|queue| queue.push_all(pieces).map(|()| queue.size()))
            .map_err(out_of_memory)?;
        let me = Ref::borrowed(slf);
        let core = event_loop.core();
        write::settle(core, event_loop.as_ptr(), &me, it, size)?;
    }
    Ok(Ref::none())
}

/// Sends what the protocol has written so far, if the socket takes it.
pub fn flush_now(me: &Ref, it: &Stream) -> FfiResult<()> {
    if it.has(BLOCKED) {
        return Ok(());
    }
    let Some(event_loop) = it.event_loop.get() else {
        return Ok(());
    };
    write::flush(event_loop.as_ptr(), me, it)
}

unsafe fn write_eof(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    unsafe {
        let it = Stream::of(slf);
        if it.has(CLOSING | EOF_WRITTEN) {
            return Ok(Ref::none());
        }
        it.set(EOF_WRITTEN, true);
        if it.queue.with(|queue| queue.is_empty()) {
            write::shutdown_write(it.open_fd());
        } else {
            flush_now(&Ref::borrowed(slf), it)?;
        }
    }
    Ok(Ref::none())
}

unsafe fn can_write_eof(_slf: *mut PyObject) -> FfiResult<Ref> {
    Ok(Ref::bool(true))
}

/// Stops reading, sends what is queued, then has `connection_lost(None)` called.
pub fn close_stream(me: &Ref, it: &Stream) -> FfiResult<()> {
    if it.has(CLOSING) {
        return Ok(());
    }
    it.check_thread_in_debug()?;
    // Before the flag is set, so that draining the queue does not count as the end of a closing stream.
    flush_now(me, it)?;
    if it.has(CLOSING) {
        return Ok(());
    }
    it.set(CLOSING, true);
    it.update_hold(me.as_ptr());
    if it.queue.with(|queue| queue.is_empty()) {
        it.lost_writes.set(it.lost_writes.get().max(1));
        it.schedule_connection_lost(me.as_ptr(), &Ref::none())?;
    }
    Ok(())
}

unsafe fn close(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    unsafe { close_stream(&Ref::borrowed(slf), Stream::of(slf))? };
    Ok(Ref::none())
}

unsafe fn abort(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    unsafe {
        let it = Stream::of(slf);
        // If that fails, the connection ends by it.
        flush_now(&Ref::borrowed(slf), it)?;
        it.force_close(slf, &Ref::none())?;
    }
    Ok(Ref::none())
}

unsafe fn force_close(slf: *mut PyObject, error: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    unsafe { Stream::of(slf).force_close(slf, &Ref::borrowed(error))? };
    Ok(Ref::none())
}

unsafe fn send_gathered(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    unsafe { flush_now(&Ref::borrowed(slf), Stream::of(slf))? };
    Ok(Ref::none())
}

unsafe fn call_connection_lost(slf: *mut PyObject, error: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    unsafe { Stream::of(slf).connection_lost(slf, error)? };
    Ok(Ref::none())
}

unsafe fn abandon(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    unsafe { Stream::of(slf).abandon(slf)? };
    Ok(Ref::none())
}

unsafe fn is_closing(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    Ok(Ref::bool(unsafe { Stream::of(slf) }.is_closing()))
}

unsafe fn is_reading(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    Ok(Ref::bool(!unsafe { Stream::of(slf) }.has(PAUSED | CLOSING)))
}

unsafe fn pause_reading(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    unsafe {
        let it = Stream::of(slf);
        if !it.has(PAUSED | CLOSING) {
            it.set(PAUSED, true);
            it.update_hold(slf);
            debug_log(slf, it, "%r pauses reading")?;
        }
    }
    Ok(Ref::none())
}

unsafe fn resume_reading(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    unsafe {
        let it = Stream::of(slf);
        if it.has(CLOSING) || !it.has(PAUSED) {
            return Ok(Ref::none());
        }
        it.set(PAUSED, false);
        it.update_hold(slf);
        debug_log(slf, it, "%r resumes reading")?;
        if let Some(event_loop) = it.event_loop.get() {
            let core = event_loop.core();
            if it.has(READABLE) && it.has(STARTED) && !it.has(EOF_READ) {
                it.read_later(core, slf);
                core.wake_from_elsewhere();
            } else {
                // As if it were registered anew.
                core.poll_next_iteration();
            }
        }
    }
    Ok(Ref::none())
}

/// `_start(waiter)`: begins to read, and wakes who waits for the connection.
unsafe fn start(slf: *mut PyObject, waiter: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    unsafe {
        let it = Stream::of(slf);
        let me = Ref::borrowed(slf);
        if let Some(event_loop) = it.event_loop.get() {
            if it.start(event_loop.core(), slf).is_err() {
                Stream::fatal_error(&me, "Fatal error: the socket cannot be watched")?;
            }
        }
        if waiter != ffi::Py_None() {
            future::resolve(&Ref::borrowed(waiter))?;
        }
    }
    Ok(Ref::none())
}

unsafe fn get_protocol(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    Ok(unsafe { Stream::of(slf) }
        .protocol
        .get()
        .unwrap_or_else(Ref::none))
}

unsafe fn set_protocol(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let protocol = one_argument(&args, "set_protocol", "protocol")?;
    // SAFETY: as for `write`.
    unsafe { Stream::of(slf).set_protocol(&Ref::borrowed(protocol))? };
    Ok(Ref::none())
}

unsafe fn get_write_buffer_size(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    unsafe {
        let size = Stream::of(slf).queue.with(|queue| queue.size());
        Ref::new(ffi::PyLong_FromSize_t(size))
    }
}

unsafe fn get_write_buffer_limits(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    unsafe {
        let it = Stream::of(slf);
        let py = Python::assume_attached();
        let limits = (it.low_water.get(), it.high_water.get()).into_pyobject(py)?;
        Ok(limits.into())
    }
}

/// `_set_limits(low, high)`: water marks in bytes, checked by the caller.
unsafe fn set_limits(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let &[low, high] = args.positional else {
        return Err(PyTypeError::new_err("_set_limits() takes two numbers").into());
    };
    // SAFETY: as for `write`.
    unsafe {
        let it = Stream::of(slf);
        let py = Python::assume_attached();
        it.low_water
            .set(Bound::from_borrowed_ptr(py, low).extract()?);
        it.high_water
            .set(Bound::from_borrowed_ptr(py, high).extract()?);
        let Some(event_loop) = it.event_loop.get() else {
            return Ok(Ref::none());
        };
        if it.has(BLOCKED) {
            write::pause_protocol(event_loop.as_ptr(), &Ref::borrowed(slf), it)?;
        } else if it.queue.with(|queue| queue.size()) > it.high_water.get() {
            write::flush(event_loop.as_ptr(), &Ref::borrowed(slf), it)?;
        }
    }
    Ok(Ref::none())
}

/// `_address(peer)`: `sockname`, or `peername` if `peer` is true; `None` if there is none.
unsafe fn address(slf: *mut PyObject, peer: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    unsafe {
        let py = Python::assume_attached();
        let it = Stream::of(slf);
        let (slot, side) = if peer == ffi::Py_True() {
            (&it.peer, Side::Peer)
        } else {
            (&it.local, Side::Local)
        };
        let fd = it.open_fd();
        let address = slot.with(|slot| {
            slot.fill(fd, side);
            std::mem::take(slot)
        });
        let object = address.to_python(py);
        slot.with(|slot| *slot = address);
        Ok(object?.into_bound(py).into())
    }
}

/// `_socket_kind()`: family, type and protocol, or `None` if the address family is not one that this knows.
unsafe fn socket_kind(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    unsafe {
        let py = Python::assume_attached();
        let it = Stream::of(slf);
        let fd = it.open_fd();
        let kind = it.local.with(|local| {
            local.fill(fd, Side::Local);
            local.socket_kind()
        });
        Ok(kind.into_pyobject(py)?.into())
    }
}

/// `_adopt_socket(sock)`: makes a Python socket the owner of the descriptor; `False` if there is one, or it is closed.
unsafe fn adopt_socket(slf: *mut PyObject, socket: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `write`.
    unsafe {
        let it = Stream::of(slf);
        let free = !it.has(LOST) && it.socket.with(|socket| socket.is_none());
        if free {
            drop(it.socket.replace(Some(Ref::borrowed(socket))));
            it.set(HAS_SOCKET, true);
        }
        Ok(Ref::bool(free))
    }
}

pub fn methods() -> Vec<ffi::PyMethodDef> {
    vec![
        fastcall!(c"write", write).def(c"write($self, data)\n--\n\nSend bytes, with whatever else is written in this iteration of the loop. A bytearray or memoryview is copied."),
        fastcall!(c"writelines", writelines, check_thread).def(c"writelines($self, list_of_data)\n--\n\nSend several pieces."),
        noargs!(c"write_eof", write_eof, check_thread).def(c"write_eof($self)\n--\n\nEnd the writing side once everything is sent."),
        noargs!(c"can_write_eof", can_write_eof).def(c"can_write_eof($self)\n--\n\nTrue: a stream can be half closed."),
        noargs!(c"close", close, check_thread).def(c"close($self)\n--\n\nStop reading, send what was written, then connection_lost(None)."),
        noargs!(c"abort", abort, check_thread).def(c"abort($self)\n--\n\nDrop what the system has not taken; connection_lost(None) follows."),
        noargs!(c"is_closing", is_closing).def(c"is_closing($self)\n--\n\nWhether close() or abort() was called."),
        noargs!(c"is_reading", is_reading).def(c"is_reading($self)\n--\n\nWhether data goes to the protocol."),
        noargs!(c"pause_reading", pause_reading, check_thread).def(c"pause_reading($self)\n--\n\nHand no data to the protocol until resume_reading()."),
        noargs!(c"resume_reading", resume_reading, check_thread).def(c"resume_reading($self)\n--\n\nHand data to the protocol again."),
        noargs!(c"get_protocol", get_protocol).def(c"get_protocol($self)\n--\n\nThe current protocol."),
        fastcall!(c"set_protocol", set_protocol, check_thread).def(c"set_protocol($self, protocol)\n--\n\nHand data to another protocol from now on."),
        noargs!(c"get_write_buffer_size", get_write_buffer_size).def(c"get_write_buffer_size($self)\n--\n\nBytes written that the system has not taken yet."),
        noargs!(c"get_write_buffer_limits", get_write_buffer_limits).def(c"get_write_buffer_limits($self)\n--\n\nLow and high water mark in bytes."),
        fastcall!(c"_set_limits", set_limits, check_thread).def(c"_set_limits($self, low, high, /)\n--\n\nSet the water marks in bytes."),
        onearg!(c"_address", address).def(c"_address($self, peer, /)\n--\n\nThe local address, or the peer's."),
        noargs!(c"_socket_kind", socket_kind).def(c"_socket_kind($self)\n--\n\nFamily, type and protocol of the socket."),
        onearg!(c"_adopt_socket", adopt_socket).def(c"_adopt_socket($self, sock, /)\n--\n\nMake a Python socket the owner of the descriptor, if there is none yet."),
        onearg!(c"_start", start, check_thread).def(c"_start($self, waiter, /)\n--\n\nBegin to read."),
        onearg!(c"_force_close", force_close, check_thread).def(c"_force_close($self, exc, /)\n--\n\nDrop what was written; connection_lost(exc) follows."),
        noargs!(c"_send_gathered", send_gathered, check_thread).def(c"_send_gathered($self)\n--\n\nSend what was written so far, if the socket takes it."),
        onearg!(c"_call_connection_lost", call_connection_lost, check_thread).def(c"_call_connection_lost($self, exc, /)\n--\n\nTell the protocol and close the socket."),
        noargs!(c"_abandon", abandon).def(c"_abandon($self)\n--\n\nClose the socket without telling the protocol."),
    ]
}
