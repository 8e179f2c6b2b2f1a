//! The attributes of `StreamTransport`.

use std::ffi::{c_int, c_void};

use hybridloop_sync::tsc::{seconds_to_ticks, ticks_to_seconds};
use pyo3::exceptions::PyAttributeError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::python::typespec::getset;
use crate::python::vectorcall::{guard, guard_int};
use crate::python::{FfiResult, Ref, SlotCell};
use crate::transports::base::{BLOCKED, LOST, PAUSED, PROTOCOL_PAUSED};
use crate::transports::stream::state::{StreamTransport, EOF_WRITTEN};
use crate::transports::stream::write::flush_now;

macro_rules! getter {
    ($name:ident, |$transport:ident| $body:expr) => {
        unsafe extern "C" fn $name(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
            // SAFETY: `slf` is a live `StreamTransport`: the attribute's descriptor checks the class.
            let $transport = unsafe { StreamTransport::of(slf) };
            guard(|| $body)
        }
    };
}

/// The object in a slot, or `None`.
fn object(slot: &SlotCell<Ref>) -> FfiResult<Ref> {
    Ok(slot.get().unwrap_or_else(Ref::none))
}

fn size(value: usize) -> FfiResult<Ref> {
    // SAFETY: this runs in an attached thread, and the result is a new reference or null.
    unsafe { Ref::new(ffi::PyLong_FromSize_t(value)) }
}

getter!(get_loop, |transport| Ok(transport
    .event_loop
    .get()
    .map_or_else(Ref::none, |event_loop| event_loop
        .object()
        .clone())));
getter!(get_protocol_attribute, |transport| object(
    &transport.protocol
));
getter!(get_server, |transport| object(&transport.server));
getter!(get_socket, |transport| object(&transport.socket));
getter!(get_empty_waiter, |transport| object(
    &transport.empty_waiter
));
getter!(get_conn_lost, |transport| size(
    transport.lost_writes.get() as usize
));
getter!(get_high_water, |transport| size(transport.high_water.get()));
getter!(get_low_water, |transport| size(transport.low_water.get()));
getter!(get_fd, |transport| {
    // SAFETY: this runs in an attached thread, and the result is a new reference or null.
    unsafe { Ref::new(ffi::PyLong_FromLong(transport.fd.get().into())) }
});
getter!(get_closing, |transport| Ok(Ref::bool(
    transport.is_closing()
)));
getter!(get_paused, |transport| Ok(Ref::bool(transport.has(PAUSED))));
getter!(get_eof, |transport| Ok(Ref::bool(
    transport.has(EOF_WRITTEN)
)));
getter!(get_lost, |transport| Ok(Ref::bool(transport.has(LOST))));
getter!(get_blocked, |transport| Ok(Ref::bool(
    transport.has(BLOCKED)
)));
getter!(get_protocol_paused, |transport| Ok(Ref::bool(
    transport.has(PROTOCOL_PAUSED)
)));
getter!(get_cork_interval, |transport| {
    // SAFETY: this runs in an attached thread, and the result is a new reference or null.
    unsafe {
        Ref::new(ffi::PyFloat_FromDouble(ticks_to_seconds(
            transport.cork_ticks.get(),
        )))
    }
});

unsafe extern "C" fn set_empty_waiter(
    slf: *mut PyObject,
    value: *mut PyObject,
    _: *mut c_void,
) -> c_int {
    guard_int(|| {
        // SAFETY: `slf` is a live `StreamTransport`: the attribute's descriptor checks the class. `value` is a live object, or
        // null for a deletion.
        unsafe {
            let value = (!value.is_null() && value != ffi::Py_None()).then(|| Ref::borrowed(value));
            drop(StreamTransport::of(slf).empty_waiter.replace(value));
        }
        Ok(())
    })
}

/// Sends what is queued if the new interval does not defer it.
unsafe extern "C" fn set_cork_interval(
    slf: *mut PyObject,
    value: *mut PyObject,
    _: *mut c_void,
) -> c_int {
    guard_int(|| {
        if value.is_null() {
            return Err(PyAttributeError::new_err("cork_interval cannot be deleted").into());
        }
        // SAFETY: CPython calls a setter in an attached thread. `slf` is a live `StreamTransport`: the attribute's descriptor
        // checks the class. `value` is a live object.
        let (py, transport, slf, value) = unsafe {
            (
                Python::assume_attached(),
                StreamTransport::of(slf),
                Ref::from_ptr_ref(&slf),
                Ref::from_ptr_ref(&value),
            )
        };
        transport.check_thread()?;
        let seconds: f64 = value.bind(py).extract()?;
        transport.cork_ticks.set(seconds_to_ticks(seconds));
        match transport.event_loop.get() {
            Some(event_loop) if !transport.defers_writes(event_loop.core()) => {
                flush_now(py, slf, transport)
            }
            _ => Ok(()),
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
