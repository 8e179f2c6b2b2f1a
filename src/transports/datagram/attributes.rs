//! The attributes of `DatagramTransport`.

use std::ffi::c_void;

use pyo3::ffi::{self, PyObject};

use crate::python::typespec::getset;
use crate::python::vectorcall::guard;
use crate::python::{FfiResult, Ref, SlotCell};
use crate::transports::base::{BLOCKED, LOST, PAUSED, PROTOCOL_PAUSED};
use crate::transports::datagram::state::DatagramTransport;

macro_rules! getter {
    ($name:ident, |$transport:ident| $body:expr) => {
        unsafe extern "C" fn $name(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
            // SAFETY: `slf` is a live `DatagramTransport`: the attribute's descriptor checks the class.
            let $transport = unsafe { DatagramTransport::of(slf) };
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
getter!(get_socket, |transport| if transport.has(LOST) {
    Ok(Ref::none())
} else {
    object(&transport.socket)
});
getter!(get_address, |transport| object(&transport.remote_address));
getter!(get_conn_lost, |transport| size(
    transport.lost_writes.get() as usize
));
getter!(get_high_water, |transport| size(transport.high_water.get()));
getter!(get_low_water, |transport| size(transport.low_water.get()));
getter!(get_fd, |transport| size(
    transport.fd.get().unsigned_abs() as usize
));
getter!(get_closing, |transport| Ok(Ref::bool(
    transport.is_closing()
)));
getter!(get_paused, |transport| Ok(Ref::bool(transport.has(PAUSED))));
getter!(get_lost, |transport| Ok(Ref::bool(transport.has(LOST))));
getter!(get_blocked, |transport| Ok(Ref::bool(
    transport.has(BLOCKED)
)));
getter!(get_protocol_paused, |transport| Ok(Ref::bool(
    transport.has(PROTOCOL_PAUSED)
)));

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
