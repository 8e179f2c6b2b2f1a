//! The methods of `DatagramTransport`. Cold ones are in `hybridloop.loop.datagrams`, in Python.

use std::ffi::c_void;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::event_loop::LoopRef;
use crate::python::stdlib::Stdlib;
use crate::python::typespec::getset;
use crate::python::vectorcall::{guard, missing, unexpected};
use crate::python::{future, Args, FfiResult, LoopCell, Ref};
use crate::transports::args::{exact_bytes, not_bytes, one_argument};
use crate::transports::base::{
    count_lost_write, debug_log, Transport, TransportBase, BLOCKED, CLOSING, LOST, PAUSED,
    PROTOCOL_PAUSED,
};
use crate::transports::datagram::io::{enqueue, fatal, send, target, tell_error, Sent};
use crate::transports::datagram::queue::Queued;
use crate::transports::datagram::Datagram;
use crate::{fastcall, noargs, onearg};

/// Up to Python 3.12 asyncio does not send datagrams without data.
const SENDS_EMPTY: bool = cfg!(Py_3_13);

/// The arguments of `sendto(data, addr=None)`.
#[inline]
fn data_and_address(args: &Args<'_>) -> FfiResult<(*mut PyObject, *mut PyObject)> {
    // SAFETY: `None` is always live.
    let none = unsafe { ffi::Py_None() };
    match (args.positional, args.keyword_count()) {
        (&[data, address], 0) => Ok((data, address)),
        (&[data], 0) => Ok((data, none)),
        _ => named_arguments(args, none),
    }
}

#[cold]
fn named_arguments(
    args: &Args<'_>,
    none: *mut PyObject,
) -> FfiResult<(*mut PyObject, *mut PyObject)> {
    let mut values = [None; 2];
    if args.positional.len() > values.len() {
        return Err(PyTypeError::new_err(format!(
            "sendto() takes from 2 to 3 positional arguments but {} were given",
            args.positional.len() + 1
        ))
        .into());
    }
    for (slot, value) in values.iter_mut().zip(args.positional) {
        *slot = Some(*value);
    }
    for (key, value) in args.keywords() {
        // SAFETY: attached; keyword names are live strings.
        let name = unsafe { Bound::from_borrowed_ptr(Python::assume_attached(), key) };
        let slot = if name.eq("data")? {
            &mut values[0]
        } else if name.eq("addr")? {
            &mut values[1]
        } else {
            return Err(unexpected("sendto", key));
        };
        if slot.replace(value).is_some() {
            return Err(PyTypeError::new_err(format!(
                "sendto() got multiple values for argument '{name}'"
            ))
            .into());
        }
    }
    match values {
        [Some(data), address] => Ok((data, address.unwrap_or(none))),
        _ => Err(missing("sendto", "data")),
    }
}

unsafe fn check_thread(slf: *mut PyObject) -> FfiResult<()> {
    // SAFETY: the method descriptor has checked `self`.
    unsafe { Datagram::of(slf) }.check_thread()
}

unsafe fn sendto(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe {
        let (data, mut address) = data_and_address(&args)?;
        if ffi::PyBytes_Check(data) == 0
            && ffi::PyByteArray_Check(data) == 0
            && ffi::PyMemoryView_Check(data) == 0
        {
            return Err(not_bytes(&Stdlib::get().datagram_sendto, data));
        }
        let it = Datagram::of(slf);
        if !SENDS_EMPTY && ffi::PyObject_IsTrue(data) == 0 {
            return Ok(Ref::none());
        }
        let fixed = it.address.get();
        if let Some(fixed) = &fixed {
            check_address(fixed, address)?;
            address = fixed.as_ptr();
        }
        if it.lost_writes.get() > 0 && (fixed.is_some() || it.has(LOST)) {
            return count_lost_write(it);
        }
        let Some(event_loop) = it.event_loop.get() else {
            return Ok(Ref::none());
        };
        let me = Ref::borrowed(slf);
        let target = target(it, address);
        if it.queue.with(|queue| queue.is_empty()) {
            let sent = match View::new(data) {
                Ok(view) => send(it, data, view.bytes(), &target),
                Err(error) => Sent::Fatal(error),
            };
            match sent {
                Sent::Done => return Ok(Ref::none()),
                Sent::Blocked => {}
                Sent::Failed(error) => return tell_error(it, error).map(|()| Ref::none()),
                Sent::Fatal(error) => return fatal(&me, error).map(|()| Ref::none()),
            }
        }
        if it.lost_writes.get() > 0 || it.has(LOST) {
            // Nothing will send it any more.
            return Ok(Ref::none());
        }
        // What is queued must not change.
        let data = exact_bytes(data)?;
        let core = event_loop.core();
        let datagram = Queued { data, target };
        enqueue(core, event_loop.as_ptr(), &me, it, datagram)?;
    }
    Ok(Ref::none())
}

/// A transport with a remote address sends nowhere else.
unsafe fn check_address(fixed: &Ref, address: *mut PyObject) -> FfiResult<()> {
    // SAFETY: attached; the address is live.
    unsafe {
        if address == ffi::Py_None() || address == fixed.as_ptr() {
            return Ok(());
        }
        let py = Python::assume_attached();
        let fixed = fixed.bind(py);
        if fixed.eq(Bound::from_borrowed_ptr(py, address))? {
            return Ok(());
        }
        let fixed = fixed.str()?;
        Err(PyValueError::new_err(format!("Invalid address: must be None or {fixed}")).into())
    }
}

/// The bytes of a bytes-like object.
enum View {
    Bytes(*const u8, usize),
    Buffer(ffi::Py_buffer),
}

impl View {
    /// # Safety
    /// `data` is live, and outlives the view.
    #[inline]
    unsafe fn new(data: *mut PyObject) -> PyResult<Self> {
        // SAFETY: the caller's promise.
        unsafe {
            if ffi::PyBytes_CheckExact(data) != 0 {
                let start = ffi::PyBytes_AS_STRING(data).cast::<u8>();
                return Ok(Self::Bytes(start, ffi::Py_SIZE(data).unsigned_abs()));
            }
            let mut view = std::mem::zeroed::<ffi::Py_buffer>();
            if ffi::PyObject_GetBuffer(data, &raw mut view, ffi::PyBUF_SIMPLE) != 0 {
                return Err(PyErr::fetch(Python::assume_attached()));
            }
            Ok(Self::Buffer(view))
        }
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        let (start, size) = match self {
            Self::Bytes(start, size) => (*start, *size),
            Self::Buffer(view) => (view.buf.cast_const().cast(), view.len.unsigned_abs()),
        };
        if size == 0 {
            return &[];
        }
        // SAFETY: the object keeps its bytes as long as this view lives.
        unsafe { std::slice::from_raw_parts(start, size) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Self::Buffer(view) = self {
            // SAFETY: filled by PyObject_GetBuffer and released once.
            unsafe { ffi::PyBuffer_Release(view) };
        }
    }
}

unsafe fn close(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `sendto`.
    unsafe {
        let it = Datagram::of(slf);
        if it.has(CLOSING) {
            return Ok(Ref::none());
        }
        it.check_thread_in_debug()?;
        let me = Ref::borrowed(slf);
        it.set(CLOSING, true);
        it.rearm_or_forget();
        it.update_hold(slf);
        if it.queue.with(|queue| queue.is_empty()) {
            it.lost_writes.set(it.lost_writes.get().max(1));
            it.schedule_connection_lost(me.as_ptr(), &Ref::none())?;
        }
    }
    Ok(Ref::none())
}

unsafe fn end(slf: *mut PyObject, error: &Ref) -> FfiResult<Ref> {
    // SAFETY: as for `sendto`.
    unsafe {
        let it = Datagram::of(slf);
        let ended = it.force_close(slf, error);
        it.rearm_or_forget();
        ended?;
    }
    Ok(Ref::none())
}

unsafe fn abort(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `sendto`.
    unsafe { end(slf, &Ref::none()) }
}

unsafe fn force_close(slf: *mut PyObject, error: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `sendto`.
    unsafe { end(slf, &Ref::borrowed(error)) }
}

unsafe fn call_connection_lost(slf: *mut PyObject, error: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `sendto`.
    unsafe { Datagram::of(slf).connection_lost(slf, error)? };
    Ok(Ref::none())
}

unsafe fn abandon(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `sendto`.
    unsafe { Datagram::of(slf).abandon(slf)? };
    Ok(Ref::none())
}

unsafe fn is_closing(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `sendto`.
    Ok(Ref::bool(unsafe { Datagram::of(slf) }.is_closing()))
}

unsafe fn is_reading(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `sendto`.
    Ok(Ref::bool(
        !unsafe { Datagram::of(slf) }.has(PAUSED | CLOSING),
    ))
}

unsafe fn pause_or_resume(slf: *mut PyObject, pause: bool) -> FfiResult<Ref> {
    // SAFETY: as for `sendto`.
    unsafe {
        let it = Datagram::of(slf);
        if it.has(CLOSING) || it.has(PAUSED) == pause {
            return Ok(Ref::none());
        }
        it.set(PAUSED, pause);
        it.update_hold(slf);
        if let Some(event_loop) = it.event_loop.get() {
            it.rearm(event_loop.core())?;
        }
        let what = if pause { "pauses" } else { "resumes" };
        debug_log(slf, it, &format!("%r {what} reading"))?;
    }
    Ok(Ref::none())
}

unsafe fn pause_reading(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `sendto`.
    unsafe { pause_or_resume(slf, true) }
}

unsafe fn resume_reading(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `sendto`.
    unsafe { pause_or_resume(slf, false) }
}

/// `_start(waiter)`: begins to read, and wakes who waits for the transport.
unsafe fn start(slf: *mut PyObject, waiter: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `sendto`.
    unsafe {
        let it = Datagram::of(slf);
        let me = Ref::borrowed(slf);
        if let Some(event_loop) = it.event_loop.get() {
            if it.start(event_loop.core(), slf).is_err() {
                Datagram::fatal_error(&me, "Fatal error: the socket cannot be watched")?;
            }
        }
        if waiter != ffi::Py_None() {
            future::resolve(&Ref::borrowed(waiter))?;
        }
    }
    Ok(Ref::none())
}

unsafe fn get_protocol(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `sendto`.
    object(unsafe { &Datagram::of(slf).protocol })
}

unsafe fn set_protocol(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let protocol = one_argument(&args, "set_protocol", "protocol")?;
    // SAFETY: as for `sendto`.
    unsafe {
        drop(
            Datagram::of(slf)
                .protocol
                .replace(Some(Ref::borrowed(protocol))),
        );
    }
    Ok(Ref::none())
}

unsafe fn get_write_buffer_size(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `sendto`.
    unsafe {
        let size = Datagram::of(slf).queue.with(|queue| queue.size());
        Ref::new(ffi::PyLong_FromSize_t(size))
    }
}

unsafe fn get_write_buffer_limits(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `sendto`.
    unsafe {
        let it = Datagram::of(slf);
        let py = Python::assume_attached();
        Ok((it.low_water.get(), it.high_water.get())
            .into_pyobject(py)?
            .into())
    }
}

/// `_set_limits(low, high)`: water marks in bytes, checked by the caller.
unsafe fn set_limits(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let &[low, high] = args.positional else {
        return Err(PyTypeError::new_err("_set_limits() takes two numbers").into());
    };
    // SAFETY: as for `sendto`.
    unsafe {
        let it = Datagram::of(slf);
        let py = Python::assume_attached();
        it.low_water
            .set(Bound::from_borrowed_ptr(py, low).extract()?);
        it.high_water
            .set(Bound::from_borrowed_ptr(py, high).extract()?);
        if let Some(event_loop) = it.event_loop.get() {
            let size = it.queue.with(|queue| queue.size());
            it.pause_protocol(event_loop.as_ptr(), &Ref::borrowed(slf), size)?;
        }
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

macro_rules! getter {
    ($name:ident, |$it:ident| $body:expr) => {
        unsafe extern "C" fn $name(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
            // SAFETY: the descriptor has checked `self`.
            let $it: &TransportBase = unsafe { Datagram::of(slf) };
            guard(|| $body)
        }
    };
}

/// An object of the transport, or `None`.
fn object(slot: &LoopCell<Option<Ref>>) -> FfiResult<Ref> {
    Ok(slot.get().unwrap_or_else(Ref::none))
}

fn number(value: usize) -> FfiResult<Ref> {
    // SAFETY: attached; returns a new reference or raises.
    unsafe { Ref::new(ffi::PyLong_FromSize_t(value)) }
}

/// The loop of the transport, or `None`.
fn loop_object(slot: &LoopCell<Option<LoopRef>>) -> FfiResult<Ref> {
    Ok(slot
        .get()
        .map_or_else(Ref::none, |event_loop| event_loop.object().clone()))
}

getter!(get_loop, |it| loop_object(&it.event_loop));
getter!(get_protocol_attribute, |it| object(&it.protocol));
getter!(get_socket, |it| if it.has(LOST) {
    Ok(Ref::none())
} else {
    object(&it.socket)
});
getter!(get_conn_lost, |it| number(it.lost_writes.get() as usize));
getter!(get_high_water, |it| number(it.high_water.get()));
getter!(get_low_water, |it| number(it.low_water.get()));
getter!(get_fd, |it| number(it.fd.get().unsigned_abs() as usize));
getter!(get_closing, |it| Ok(Ref::bool(it.is_closing())));
getter!(get_paused, |it| Ok(Ref::bool(it.has(PAUSED))));
getter!(get_lost, |it| Ok(Ref::bool(it.has(LOST))));
getter!(get_blocked, |it| Ok(Ref::bool(it.has(BLOCKED))));
getter!(get_protocol_paused, |it| Ok(Ref::bool(
    it.has(PROTOCOL_PAUSED)
)));

unsafe extern "C" fn get_address(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: the descriptor has checked `self`.
    guard(|| object(unsafe { &Datagram::of(slf).address }))
}

pub fn attributes() -> Vec<ffi::PyGetSetDef> {
    vec![
        getset(c"_loop", get_loop, None),
        getset(c"_protocol", get_protocol_attribute, None),
        getset(c"_sock", get_socket, None),
        getset(c"_sock_fd", get_fd, None),
        getset(c"_address", get_address, None),
        getset(c"_conn_lost", get_conn_lost, None),
        getset(c"_closing", get_closing, None),
        getset(c"_paused", get_paused, None),
        getset(c"_lost", get_lost, None),
        getset(c"_write_blocked", get_blocked, None),
        getset(c"_protocol_paused", get_protocol_paused, None),
        getset(c"_high_water", get_high_water, None),
        getset(c"_low_water", get_low_water, None),
    ]
}
