//! Calling a stream of ours without asking Python for its methods.

use pyo3::ffi::{self, PyObject};

use super::methods;
use super::stream::{Stream, STREAM_TYPE};
use crate::ffi::{Ref, Res};

/// Whether `object` is a stream transport as this package makes them: with nothing overridden by somebody else.
pub fn is_stream(object: &Ref) -> bool {
    // SAFETY: the object is live.
    let base = unsafe { (*ffi::Py_TYPE(object.as_ptr())).tp_base };
    !base.is_null() && base == STREAM_TYPE.load(std::sync::atomic::Ordering::Relaxed)
}

/// `transport.is_closing()`
///
/// # Safety
/// `transport` is a stream of ours.
#[inline]
pub unsafe fn is_closing(transport: &Ref) -> bool {
    // SAFETY: the caller's promise.
    unsafe { Stream::of(transport.as_ptr()) }.is_closing()
}

/// `transport.write(data)`
///
/// # Safety
/// `transport` is a stream of ours, and `data` is live.
#[inline]
pub unsafe fn write(transport: &Ref, data: *mut PyObject) -> Res<Ref> {
    // SAFETY: the caller's promise.
    unsafe { methods::write_data(transport.as_ptr(), data) }
}
