//! Calling a stream of ours without asking Python for its methods.

use std::sync::atomic::Ordering;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::python::{FfiResult, Ref};
use crate::transports::object;
use crate::transports::stream::methods;
use crate::transports::stream::{Stream, STREAM_TYPE};

/// The stream of a transport whose methods are this package's: nobody has overridden one in a class, or replaced one on the
/// instance.
#[inline]
pub fn stream(transport: &Ref) -> Option<&Stream> {
    let object = transport.as_ptr();
    // SAFETY: the object is live, and a stream if its class says so.
    unsafe {
        let base = (*ffi::Py_TYPE(object)).tp_base;
        let is_ours = !base.is_null()
            && base == STREAM_TYPE.load(Ordering::Relaxed)
            && !object::has_instance_dict(object);
        is_ours.then(|| Stream::of(object))
    }
}

/// `transport.write(data)`, if that is a stream's of ours.
///
/// # Safety
/// `data` is live.
#[inline]
pub unsafe fn write(transport: &Ref, data: *mut PyObject) -> Option<FfiResult<Ref>> {
    stream(transport)?;
    // SAFETY: a stream, as just seen, and the caller's promise.
    Some(unsafe { methods::write_data(transport.as_ptr(), data) })
}

/// `transport.close()` of a stream.
pub fn close(transport: &Ref, it: &Stream) -> FfiResult<()> {
    if stream(transport).is_some() {
        return methods::close_stream(transport, it);
    }
    // SAFETY: attached.
    let py = unsafe { Python::assume_attached() };
    transport.bind(py).call_method0("close")?;
    Ok(())
}
