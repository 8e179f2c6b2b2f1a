//! *Reuse of `bytes`*: the object that a protocol has received is overwritten with the next data of the same size, if it has no
//! other references.
//!
//! * Relies on: with a reference count of 1 no other code can reach the object. Writes: the contents of a `bytes` object and
//!   its cached hash, `PyBytesObject.ob_shash`.
//! * Pythons: 3.11 to 3.15, with the global interpreter lock; free-threaded builds split the count.
//! * Probe: an object computes its hash again after a reset.
//! * Otherwise: the data of each message is a new object.

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

pub const NAME: &str = "bytes_reuse";

static IS_ON: AtomicBool = AtomicBool::new(false);

pub fn init(py: Python<'_>) {
    let has_lock = cfg!(not(Py_GIL_DISABLED));
    let is_on = has_lock && super::is_allowed(py, NAME) && hash_is_forgotten(py).unwrap_or(false);
    IS_ON.store(is_on, Ordering::Relaxed);
}

#[inline]
pub fn is_on() -> bool {
    // A constant on free-threaded builds, where the count is split.
    cfg!(not(Py_GIL_DISABLED)) && IS_ON.load(Ordering::Relaxed)
}

fn hash_is_forgotten(py: Python<'_>) -> PyResult<bool> {
    const DATA: &[u8] = b"other contents, of the same size";
    let sample = PyBytes::new(py, b"contents that are long enough...");
    let before = sample.hash()?;
    // SAFETY: `sample` is an exact `bytes` object of this size that only this function has.
    unsafe { overwrite(sample.as_ptr(), DATA) };
    Ok(sample.hash()? != before && sample.hash()? == PyBytes::new(py, DATA).hash()?)
}

/// Overwrites the contents of a `bytes` object with data of the same size.
///
/// # Safety
/// `bytes` is exact `bytes` of the size of `data`, and only the caller can reach it.
#[inline]
pub unsafe fn overwrite(bytes: *mut PyObject, data: &[u8]) {
    // SAFETY: the caller guarantees an exact `bytes` object of the size of `data` that no other code can reach.
    unsafe {
        ptr::copy_nonoverlapping(
            data.as_ptr(),
            ffi::PyBytes_AS_STRING(bytes).cast_mut().cast(),
            data.len(),
        );
        forget_hash(bytes);
    }
}

/// Resets the cached hash of a `bytes` object: −1 means not computed.
///
/// # Safety
/// `bytes` is exact `bytes`, and only the caller can reach it.
pub unsafe fn forget_hash(bytes: *mut PyObject) {
    // SAFETY: the caller guarantees an exact `bytes` object, which has this layout.
    unsafe {
        #[allow(deprecated)]
        {
            (*bytes.cast::<ffi::PyBytesObject>()).ob_shash = -1;
        }
    }
}
