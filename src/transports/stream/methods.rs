//! The methods of `StreamTransport`. Those that run at most once a connection are in `hybridloop.loop.transports`, in Python.

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::python::args::{bind, Parameter};
use crate::python::{future, Args, FfiResult, Ref};
use crate::transports::address::Side;
use crate::transports::args::two_sizes;
use crate::transports::base::{CLOSING, HAS_SOCKET, LOST, PAUSED, STARTED};
use crate::transports::lifecycle::{fatal_error, Transport};
use crate::transports::stream::state::{StreamTransport, EOF_READ, READABLE};
use crate::transports::stream::{close, write};
use crate::{fastcall, noargs, onearg};

/// The receiver of a method: the token of the thread, the object, and its state.
///
/// # Safety
/// CPython is calling a method of `StreamTransport` on `*slf`: it has checked the class, keeps the object alive during the
/// call, and the thread is attached.
#[inline]
unsafe fn receiver(slf: &*mut PyObject) -> (Python<'_>, &Ref, &StreamTransport) {
    // SAFETY: the caller guarantees an attached thread and a live `StreamTransport`.
    unsafe {
        (
            Python::assume_attached(),
            Ref::from_ptr_ref(slf),
            StreamTransport::of(*slf),
        )
    }
}

unsafe fn check_thread(slf: *mut PyObject) -> FfiResult<()> {
    // SAFETY: `slf` is the receiver of a method.
    let (_, _, transport) = unsafe { receiver(&slf) };
    transport.check_thread()
}

unsafe fn write(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method, and `args` are its arguments, which are live during the call.
    unsafe {
        let [data] = bind(c"write", [Parameter::required(c"data")], &args)?;
        let (py, slf, _) = receiver(&slf);
        write::write_object(py, slf, data)
    }
}

unsafe fn writelines(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    const LINES: Parameter = Parameter::required(c"list_of_data");
    // SAFETY: `args` are the arguments of this call.
    let [lines] = unsafe { bind(c"writelines", [LINES], &args)? };
    // SAFETY: `slf` is the receiver of a method, and `lines` is live during the call.
    let ((py, slf, transport), lines) = unsafe { (receiver(&slf), Ref::from_ptr_ref(&lines)) };
    write::write_lines(py, slf, transport, lines.bind(py))?;
    Ok(Ref::none())
}

unsafe fn write_eof(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (py, slf, transport) = unsafe { receiver(&slf) };
    write::write_eof(py, slf, transport)?;
    Ok(Ref::none())
}

unsafe fn can_write_eof(_slf: *mut PyObject) -> FfiResult<Ref> {
    Ok(Ref::bool(true))
}

unsafe fn close(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (py, slf, transport) = unsafe { receiver(&slf) };
    close::close(py, slf, transport)?;
    Ok(Ref::none())
}

unsafe fn abort(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (py, slf, transport) = unsafe { receiver(&slf) };
    close::abort(py, slf, transport)?;
    Ok(Ref::none())
}

unsafe fn force_close(slf: *mut PyObject, error: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method, and `error` is live during the call.
    let ((py, slf, transport), error) = unsafe { (receiver(&slf), Ref::from_ptr_ref(&error)) };
    transport.force_close(py, slf, error)?;
    Ok(Ref::none())
}

unsafe fn flush(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (py, slf, transport) = unsafe { receiver(&slf) };
    write::flush_now(py, slf, transport)?;
    Ok(Ref::none())
}

unsafe fn call_connection_lost(slf: *mut PyObject, error: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method, and `error` is live during the call.
    let ((py, slf, transport), error) = unsafe { (receiver(&slf), Ref::from_ptr_ref(&error)) };
    transport.connection_lost(py, slf, error)?;
    Ok(Ref::none())
}

unsafe fn abandon(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (py, slf, transport) = unsafe { receiver(&slf) };
    transport.abandon(py, slf)?;
    Ok(Ref::none())
}

unsafe fn is_closing(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (_, _, transport) = unsafe { receiver(&slf) };
    Ok(Ref::bool(transport.is_closing()))
}

unsafe fn is_reading(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (_, _, transport) = unsafe { receiver(&slf) };
    Ok(Ref::bool(!transport.has(PAUSED | CLOSING)))
}

unsafe fn pause_reading(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (py, slf, transport) = unsafe { receiver(&slf) };
    if !transport.has(PAUSED | CLOSING) {
        transport.set(PAUSED, true);
        transport.update_hold(slf);
        transport.log_debug(py, slf, "%r pauses reading")?;
    }
    Ok(Ref::none())
}

unsafe fn resume_reading(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (py, slf, transport) = unsafe { receiver(&slf) };
    if transport.has(CLOSING) || !transport.has(PAUSED) {
        return Ok(Ref::none());
    }
    transport.set(PAUSED, false);
    transport.update_hold(slf);
    transport.log_debug(py, slf, "%r resumes reading")?;
    if let Some(event_loop) = transport.event_loop.get() {
        let core = event_loop.core();
        if transport.has(READABLE) && transport.has(STARTED) && !transport.has(EOF_READ) {
            transport.schedule_read(core, slf);
            core.wake_from_other_thread();
        } else {
            // asyncio registers the descriptor here, and so looks for its readiness in the next iteration.
            core.poll_next_iteration();
        }
    }
    Ok(Ref::none())
}

/// `_start(waiter)`: starts reading, and resolves the future that waits for the connection.
unsafe fn start(slf: *mut PyObject, waiter: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method, and `waiter` is live during the call.
    let ((py, slf, transport), waiter) = unsafe { (receiver(&slf), Ref::from_ptr_ref(&waiter)) };
    if let Some(event_loop) = transport.event_loop.get() {
        if transport.start(event_loop.core(), slf).is_err() {
            fatal_error(py, slf, "Fatal error: the socket cannot be watched")?;
        }
    }
    if !waiter.bind(py).is_none() {
        future::resolve(waiter)?;
    }
    Ok(Ref::none())
}

unsafe fn get_protocol(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (_, _, transport) = unsafe { receiver(&slf) };
    Ok(transport.protocol.get().unwrap_or_else(Ref::none))
}

unsafe fn set_protocol(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    const PROTOCOL: Parameter = Parameter::required(c"protocol");
    // SAFETY: `args` are the arguments of this call.
    let [protocol] = unsafe { bind(c"set_protocol", [PROTOCOL], &args)? };
    // SAFETY: `slf` is the receiver of a method, and `protocol` is live during the call.
    let ((_, _, transport), protocol) = unsafe { (receiver(&slf), Ref::from_ptr_ref(&protocol)) };
    transport.set_protocol(protocol)?;
    Ok(Ref::none())
}

unsafe fn get_write_buffer_size(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (_, _, transport) = unsafe { receiver(&slf) };
    let size = transport.queue.with(|queue| queue.size());
    // SAFETY: this runs in an attached thread, and the result is a new reference or null.
    unsafe { Ref::new(ffi::PyLong_FromSize_t(size)) }
}

unsafe fn get_write_buffer_limits(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (py, _, transport) = unsafe { receiver(&slf) };
    let limits = (transport.low_water.get(), transport.high_water.get());
    Ok(limits.into_pyobject(py)?.into())
}

/// `_set_limits(low, high)`: water marks in bytes, which the caller has compared.
unsafe fn set_limits(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (py, slf, transport) = unsafe { receiver(&slf) };
    write::set_limits(py, slf, transport, two_sizes(py, &args)?)?;
    Ok(Ref::none())
}

/// `_address(peer)`: `sockname`, or `peername` if `peer` is true; `None` if it is unknown.
unsafe fn address(slf: *mut PyObject, peer: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method, and `peer` is live during the call.
    let ((py, _, transport), peer) = unsafe { (receiver(&slf), Ref::from_ptr_ref(&peer)) };
    let (slot, side) = if peer.bind(py).is_truthy()? {
        (&transport.peer, Side::Peer)
    } else {
        (&transport.local, Side::Local)
    };
    let fd = transport.open_fd();
    let address = slot.with(|slot| {
        slot.query(fd, side);
        std::mem::take(slot)
    });
    let object = address.to_python(py);
    slot.with(|slot| *slot = address);
    Ok(object?.into_bound(py).into())
}

/// `_socket_kind()`: family, type and protocol; `None` for a family that only Python knows.
unsafe fn socket_kind(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (py, _, transport) = unsafe { receiver(&slf) };
    let fd = transport.open_fd();
    let kind = transport.local.with(|local| {
        local.query(fd, Side::Local);
        local.socket_kind()
    });
    Ok(kind.into_pyobject(py)?.into())
}

/// `_adopt_socket(sock)`: gives the descriptor to a Python socket; `False` if one owns it, or if it is closed.
unsafe fn adopt_socket(slf: *mut PyObject, socket: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method, and `socket` is live during the call.
    let ((_, _, transport), socket) = unsafe { (receiver(&slf), Ref::from_ptr_ref(&socket)) };
    let adopts = !transport.has(LOST) && transport.socket.is_none();
    if adopts {
        drop(transport.socket.replace(Some(socket.clone())));
        transport.set(HAS_SOCKET, true);
    }
    Ok(Ref::bool(adopts))
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
        noargs!(c"_flush", flush, check_thread).def(c"_flush($self)\n--\n\nSend what was written so far, if the socket takes it."),
        onearg!(c"_call_connection_lost", call_connection_lost, check_thread).def(c"_call_connection_lost($self, exc, /)\n--\n\nTell the protocol and close the socket."),
        noargs!(c"_abandon", abandon).def(c"_abandon($self)\n--\n\nClose the socket without telling the protocol."),
    ]
}
