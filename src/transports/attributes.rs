//! The attributes that transports of all types have.

use std::ffi::{c_int, c_void, CStr};

use pyo3::ffi::{self, PyObject};

use crate::python::vectorcall::guard;
use crate::python::{FfiResult, Ref, SlotCell};
use crate::transports::base::{BLOCKED, LOST, PAUSED, PROTOCOL_PAUSED};
use crate::transports::lifecycle::Transport;
use crate::transports::object;

type Getter<T> = fn(&T) -> FfiResult<Ref>;

/// A read-only attribute of the class with the state `T`.
pub fn attribute<T: Transport>(name: &'static CStr, get: Getter<T>) -> ffi::PyGetSetDef {
    ffi::PyGetSetDef {
        name: name.as_ptr(),
        get: Some(call_getter::<T>),
        set: None,
        doc: std::ptr::null(),
        closure: get as *mut c_void,
    }
}

unsafe extern "C" fn call_getter<T: Transport>(
    slf: *mut PyObject,
    get: *mut c_void,
) -> *mut PyObject {
    // SAFETY: `slf` is a live transport of the class, as the attribute's descriptor checks, and `get` is what `attribute` has
    // stored.
    let (state, get) = unsafe {
        (
            object::state::<T>(slf),
            std::mem::transmute::<*mut c_void, Getter<T>>(get),
        )
    };
    guard(|| get(state))
}

/// The object in a slot, or `None`.
pub fn object_or_none(slot: &SlotCell<Ref>) -> FfiResult<Ref> {
    Ok(slot.get().unwrap_or_else(Ref::none))
}

fn size(value: usize) -> FfiResult<Ref> {
    // SAFETY: this runs in an attached thread, and the result is a new reference or null.
    unsafe { Ref::new(ffi::PyLong_FromSize_t(value)) }
}

fn int(value: c_int) -> FfiResult<Ref> {
    // SAFETY: this runs in an attached thread, and the result is a new reference or null.
    unsafe { Ref::new(ffi::PyLong_FromLong(value.into())) }
}

/// The attributes of the class with the state `T` that all types have.
pub fn common<T: Transport>() -> Vec<ffi::PyGetSetDef> {
    vec![
        attribute(c"_loop", |state: &T| {
            let event_loop = state.event_loop.get();
            Ok(event_loop.map_or_else(Ref::none, |it| it.object().clone()))
        }),
        attribute(c"_protocol", |state: &T| object_or_none(&state.protocol)),
        attribute(c"_sock_fd", |state: &T| int(state.fd.get())),
        attribute(c"_conn_lost", |state: &T| {
            size(state.lost_writes.get() as usize)
        }),
        attribute(c"_closing", |state: &T| Ok(Ref::bool(state.is_closing()))),
        attribute(c"_paused", |state: &T| Ok(Ref::bool(state.has(PAUSED)))),
        attribute(c"_lost", |state: &T| Ok(Ref::bool(state.has(LOST)))),
        attribute(c"_write_blocked", |state: &T| {
            Ok(Ref::bool(state.has(BLOCKED)))
        }),
        attribute(c"_protocol_paused", |state: &T| {
            Ok(Ref::bool(state.has(PROTOCOL_PAUSED)))
        }),
        attribute(c"_high_water", |state: &T| size(state.high_water.get())),
        attribute(c"_low_water", |state: &T| size(state.low_water.get())),
    ]
}
