//! The methods of `DatagramTransport`. Those that run at most once a transport are in `hybridloop.loop.transports`, in Python.

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::python::args::{bind, Parameter};
use crate::python::{future, Args, FfiResult, Ref};
use crate::transports::args::two_sizes;
use crate::transports::base::{CLOSING, PAUSED};
use crate::transports::datagram::state::DatagramTransport;
use crate::transports::datagram::{close, write};
use crate::transports::lifecycle::{fatal_error, Transport};
use crate::{fastcall, noargs, onearg};

/// The receiver of a method: the token of the thread, the object, and its state.
///
/// # Safety
/// CPython is calling a method of `DatagramTransport` on `*slf`: it has checked the class, keeps the object alive during the
/// call, and the thread is attached.
#[inline]
unsafe fn receiver(slf: &*mut PyObject) -> (Python<'_>, &Ref, &DatagramTransport) {
    // SAFETY: the caller guarantees an attached thread and a live `DatagramTransport`.
    unsafe {
        (
            Python::assume_attached(),
            Ref::from_ptr_ref(slf),
            DatagramTransport::of(*slf),
        )
    }
}

unsafe fn check_thread(slf: *mut PyObject) -> FfiResult<()> {
    // SAFETY: `slf` is the receiver of a method.
    let (_, _, transport) = unsafe { receiver(&slf) };
    transport.check_thread()
}

unsafe fn sendto(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    const DATA: Parameter = Parameter::required(c"data");
    const ADDRESS: Parameter = Parameter::optional(c"addr");
    // SAFETY: `slf` is the receiver of a method, and `args` are its arguments, which are live during the call, as `None` always
    // is.
    unsafe {
        let [data, mut address] = bind(c"sendto", [DATA, ADDRESS], &args)?;
        if address.is_null() {
            address = ffi::Py_None();
        }
        let (py, slf, transport) = receiver(&slf);
        write::send_object(py, slf, transport, data, address)?;
    }
    Ok(Ref::none())
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
    close::force_close(py, slf, transport, &Ref::none())?;
    Ok(Ref::none())
}

unsafe fn force_close(slf: *mut PyObject, error: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method, and `error` is live during the call.
    let ((py, slf, transport), error) = unsafe { (receiver(&slf), Ref::from_ptr_ref(&error)) };
    close::force_close(py, slf, transport, error)?;
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

fn set_paused(
    py: Python<'_>,
    slf: &Ref,
    transport: &DatagramTransport,
    paused: bool,
) -> FfiResult<Ref> {
    if transport.has(CLOSING) || transport.has(PAUSED) == paused {
        return Ok(Ref::none());
    }
    transport.set(PAUSED, paused);
    transport.update_hold(slf);
    if let Some(event_loop) = transport.event_loop.get() {
        transport.rearm(event_loop.core())?;
    }
    let what = if paused { "pauses" } else { "resumes" };
    transport.log_debug(py, slf, &format!("%r {what} reading"))?;
    Ok(Ref::none())
}

unsafe fn pause_reading(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (py, slf, transport) = unsafe { receiver(&slf) };
    set_paused(py, slf, transport, true)
}

unsafe fn resume_reading(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (py, slf, transport) = unsafe { receiver(&slf) };
    set_paused(py, slf, transport, false)
}

/// `_start(waiter)`: starts reading, and resolves the future that waits for the transport.
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
    drop(transport.protocol.replace(Some(protocol.clone())));
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
    let (low, high) = two_sizes(py, &args)?;
    transport.low_water.set(low);
    transport.high_water.set(high);
    if let Some(event_loop) = transport.event_loop.get() {
        let size = transport.queue.with(|queue| queue.size());
        transport.pause_protocol(event_loop.cx(py), slf, size)?;
    }
    Ok(Ref::none())
}

pub fn methods() -> Vec<ffi::PyMethodDef> {
    vec![
        fastcall!(c"sendto", sendto, check_thread).def(c"sendto($self, data, addr=None)\n--\n\nSend a datagram, to the remote address if the transport has one. It is queued while the socket takes nothing."),
        noargs!(c"close", close, check_thread).def(c"close($self)\n--\n\nStop reading, send what is queued, then connection_lost(None)."),
        noargs!(c"abort", abort, check_thread).def(c"abort($self)\n--\n\nDrop what is queued; connection_lost(None) follows."),
        noargs!(c"is_closing", is_closing).def(c"is_closing($self)\n--\n\nWhether close() or abort() was called."),
        noargs!(c"is_reading", is_reading).def(c"is_reading($self)\n--\n\nWhether datagrams go to the protocol."),
        noargs!(c"pause_reading", pause_reading, check_thread).def(c"pause_reading($self)\n--\n\nLeave datagrams to the system until resume_reading()."),
        noargs!(c"resume_reading", resume_reading, check_thread).def(c"resume_reading($self)\n--\n\nHand datagrams to the protocol again."),
        noargs!(c"get_protocol", get_protocol).def(c"get_protocol($self)\n--\n\nThe current protocol."),
        fastcall!(c"set_protocol", set_protocol, check_thread).def(c"set_protocol($self, protocol)\n--\n\nHand datagrams to another protocol from now on."),
        noargs!(c"get_write_buffer_size", get_write_buffer_size).def(c"get_write_buffer_size($self)\n--\n\nBytes that are queued; since Python 3.13 with 8 more for each datagram."),
        noargs!(c"get_write_buffer_limits", get_write_buffer_limits).def(c"get_write_buffer_limits($self)\n--\n\nLow and high water mark in bytes."),
        fastcall!(c"_set_limits", set_limits, check_thread).def(c"_set_limits($self, low, high, /)\n--\n\nSet the water marks in bytes."),
        onearg!(c"_start", start, check_thread).def(c"_start($self, waiter, /)\n--\n\nBegin to read."),
        onearg!(c"_force_close", force_close, check_thread).def(c"_force_close($self, exc, /)\n--\n\nDrop what is queued; connection_lost(exc) follows."),
        onearg!(c"_call_connection_lost", call_connection_lost, check_thread).def(c"_call_connection_lost($self, exc, /)\n--\n\nTell the protocol and close the socket."),
        noargs!(c"_abandon", abandon).def(c"_abandon($self)\n--\n\nClose the socket without telling the protocol."),
    ]
}
