//! The attributes of `StreamTransport` that Python reads.

use std::ffi::{c_int, c_void};

use hybridloop_sync::tsc::{seconds_to_ticks, ticks_to_seconds};
use pyo3::exceptions::PyAttributeError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::event_loop::LoopRef;
use crate::python::typespec::getset;
use crate::python::vectorcall::{guard, guard_int};
use crate::python::{FfiResult, LoopCell, Ref};
use crate::transports::base::{BLOCKED, LOST, PAUSED, PROTOCOL_PAUSED};
use crate::transports::stream::methods;
use crate::transports::stream::{Stream, EOF_WRITTEN};

macro_rules! getter {
    ($name:ident, |$it:ident| $body:expr) => {
        unsafe extern "C" fn $name(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
            // SAFETY: the descriptor has checked `self`.
            let $it = unsafe { Stream::of(slf) };
            guard(|| $body)
        }
    };
}

/// An object of the stream, or `None`.
fn object(slot: &LoopCell<Option<Ref>>) -> FfiResult<Ref> {
    Ok(slot.get().unwrap_or_else(Ref::none))
}

/// The loop of the transport, or `None`.
fn loop_object(slot: &LoopCell<Option<LoopRef>>) -> FfiResult<Ref> {
    Ok(slot
        .get()
        .map_or_else(Ref::none, |event_loop| event_loop.object().clone()))
}

getter!(get_loop, |it| loop_object(&it.event_loop));
getter!(get_protocol_attribute, |it| object(&it.protocol));
getter!(get_server, |it| object(&it.server));
getter!(get_socket, |it| object(&it.socket));
getter!(get_empty_waiter, |it| object(&it.empty_waiter));
getter!(get_conn_lost, |it| {
    // SAFETY: attached; returns a new reference or raises.
    unsafe { Ref::new(ffi::PyLong_FromLong(it.lost_writes.get().into())) }
});
getter!(get_high_water, |it| {
    // SAFETY: attached; returns a new reference or raises.
    unsafe { Ref::new(ffi::PyLong_FromSize_t(it.high_water.get())) }
});
getter!(get_low_water, |it| {
    // SAFETY: attached; returns a new reference or raises.
    unsafe { Ref::new(ffi::PyLong_FromSize_t(it.low_water.get())) }
});
getter!(get_fd, |it| {
    // SAFETY: attached; returns a new reference or raises.
    unsafe { Ref::new(ffi::PyLong_FromLong(it.fd.get().into())) }
});
getter!(get_closing, |it| Ok(Ref::bool(it.is_closing())));
getter!(get_paused, |it| Ok(Ref::bool(it.has(PAUSED))));
getter!(get_eof, |it| Ok(Ref::bool(it.has(EOF_WRITTEN))));
getter!(get_lost, |it| Ok(Ref::bool(it.has(LOST))));
getter!(get_blocked, |it| Ok(Ref::bool(it.has(BLOCKED))));
getter!(get_protocol_paused, |it| Ok(Ref::bool(
    it.has(PROTOCOL_PAUSED)
)));

unsafe fn set_slot(slot: &LoopCell<Option<Ref>>, value: *mut PyObject) -> c_int {
    guard_int(|| {
        // SAFETY: the setter passes a live object or null for a deletion.
        let value =
            unsafe { (!value.is_null() && value != ffi::Py_None()).then(|| Ref::borrowed(value)) };
        drop(slot.replace(value));
        Ok(())
    })
}

unsafe extern "C" fn set_empty_waiter(
    slf: *mut PyObject,
    value: *mut PyObject,
    _: *mut c_void,
) -> c_int {
    // SAFETY: the descriptor has checked `self`.
    unsafe { set_slot(&Stream::of(slf).empty_waiter, value) }
}

getter!(get_cork_interval, |it| {
    // SAFETY: attached; returns a new reference or raises.
    unsafe { Ref::new(ffi::PyFloat_FromDouble(ticks_to_seconds(it.cork.get()))) }
});

/// What was written and may no longer be held back is sent.
unsafe extern "C" fn set_cork_interval(
    slf: *mut PyObject,
    value: *mut PyObject,
    _: *mut c_void,
) -> c_int {
    guard_int(|| {
        // SAFETY: the descriptor has checked `self`; the setter passes a live object, or null for a deletion.
        unsafe {
            if value.is_null() {
                return Err(PyAttributeError::new_err("cork_interval cannot be deleted").into());
            }
            let it = Stream::of(slf);
            it.check_thread()?;
            let value: f64 =
                Bound::from_borrowed_ptr(Python::assume_attached(), value).extract()?;
            it.cork.set(seconds_to_ticks(value));
            match it.event_loop.get() {
                Some(event_loop) if !it.gathers(event_loop.core()) => {
                    methods::flush_now(&Ref::borrowed(slf), it)
                }
                _ => Ok(()),
            }
        }
    })
}

pub fn attributes() -> Vec<ffi::PyGetSetDef> {
    vec![
        getset(c"_loop", get_loop, None),
        getset(c"_protocol", get_protocol_attribute, None),
        getset(c"_server", get_server, None),
        getset(c"_socket", get_socket, None),
        getset(c"_sock_fd", get_fd, None),
        getset(c"_empty_waiter", get_empty_waiter, Some(set_empty_waiter)),
        getset(c"_conn_lost", get_conn_lost, None),
        getset(c"_closing", get_closing, None),
        getset(c"_paused", get_paused, None),
        getset(c"_eof", get_eof, None),
        getset(c"_lost", get_lost, None),
        getset(c"_write_blocked", get_blocked, None),
        getset(c"_protocol_paused", get_protocol_paused, None),
        getset(c"_high_water", get_high_water, None),
        getset(c"_low_water", get_low_water, None),
        getset(c"cork_interval", get_cork_interval, Some(set_cork_interval)),
    ]
}
