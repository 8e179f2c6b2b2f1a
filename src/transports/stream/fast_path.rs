//! Calls of stream transports from native code, without looking up their Python methods.

use std::sync::atomic::Ordering;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::python::{FfiResult, Ref};
use crate::transports::object;
use crate::transports::stream::state::{StreamTransport, STREAM_TYPE};
use crate::transports::stream::{close, write};

/// The state of a stream transport whose methods are native: the class overrides none, and the instance has no attributes.
#[inline]
pub fn stream(transport: &Ref) -> Option<&StreamTransport> {
    let object = transport.as_ptr();
    // SAFETY: `transport` keeps its object alive. Only direct subclasses of `StreamTransport` pass the test of the base, so the
    // object has the header and the state of one. The result borrows the reference.
    unsafe {
        let base = (*ffi::Py_TYPE(object)).tp_base;
        let is_native = !base.is_null()
            && base == STREAM_TYPE.load(Ordering::Relaxed)
            && !object::has_instance_dict(object);
        is_native.then(|| StreamTransport::of(object))
    }
}

/// `transport.write(data)`, if that is native.
///
/// # Safety
/// `data` is a live object.
#[inline]
pub unsafe fn write(
    py: Python<'_>,
    transport: &Ref,
    data: *mut PyObject,
) -> Option<FfiResult<Ref>> {
    stream(transport)?;
    // SAFETY: `stream` has found a `StreamTransport`, and the caller guarantees that `data` is live.
    Some(unsafe { write::write_object(py, transport, data) })
}

/// `transport.close()`
pub fn close(py: Python<'_>, transport: &Ref) -> FfiResult<()> {
    if let Some(stream) = stream(transport) {
        return close::close(py, transport, stream);
    }
    transport.bind(py).call_method0("close")?;
    Ok(())
}
