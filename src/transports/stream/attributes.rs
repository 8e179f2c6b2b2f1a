//! The attributes of `StreamTransport`.

use std::ffi::{c_int, c_void};

use hybridloop_sync::tsc::{seconds_to_ticks, ticks_to_seconds};
use pyo3::exceptions::PyAttributeError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::python::vectorcall::guard_int;
use crate::python::Ref;
use crate::transports::attributes::{attribute, common, object_or_none};
use crate::transports::stream::state::{StreamTransport, EOF_WRITTEN};
use crate::transports::stream::write::flush_now;

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
    let mut attributes = common::<StreamTransport>();
    attributes.extend([
        attribute(c"_server", |transport: &StreamTransport| {
            object_or_none(&transport.server)
        }),
        attribute(c"_socket", |transport: &StreamTransport| {
            object_or_none(&transport.socket)
        }),
        attribute(c"_eof", |transport: &StreamTransport| {
            Ok(Ref::bool(transport.has(EOF_WRITTEN)))
        }),
        ffi::PyGetSetDef {
            set: Some(set_empty_waiter),
            ..attribute(c"_empty_waiter", |transport: &StreamTransport| {
                object_or_none(&transport.empty_waiter)
            })
        },
        ffi::PyGetSetDef {
            set: Some(set_cork_interval),
            ..attribute(c"cork_interval", |transport: &StreamTransport| {
                let seconds = ticks_to_seconds(transport.cork_ticks.get());
                // SAFETY: this runs in an attached thread, and the result is a new reference or null.
                unsafe { Ref::new(ffi::PyFloat_FromDouble(seconds)) }
            })
        },
    ]);
    attributes
}
