//! *Reuse of `bytes`*: the object in which a protocol got its data is filled again for the next data of the same size, if nobody
//! holds it any longer.
//!
//! * Relies on: a reference count of 1 means that nobody else can reach the object. Writes: the contents of a `bytes` object and
//!   `PyBytesObject.ob_shash`, the hash that it remembers.
//! * Pythons: 3.11 to 3.15, with the global interpreter lock; free-threaded builds split the count.
//! * Probe: an object forgets its hash when that is reset.
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
    // Known at compile time where the count does not tell.
    cfg!(not(Py_GIL_DISABLED)) && IS_ON.load(Ordering::Relaxed)
}

fn hash_is_forgotten(py: Python<'_>) -> PyResult<bool> {
    const DATA: &[u8] = b"other contents, of the same size";
    let sample = PyBytes::new(py, b"contents that are long enough...");
    let before = sample.hash()?;
    // SAFETY: `sample` is exact `bytes` of this size, which nobody else can reach.
    unsafe { overwrite(sample.as_ptr(), DATA) };
    Ok(sample.hash()? != before && sample.hash()? == PyBytes::new(py, DATA).hash()?)
}

/// Puts other data of the same size into a `bytes` object.
///
/// # Safety
/// `bytes` is exact `bytes` of the size of `data`, and nobody but the caller can reach it.
#[inline]
pub unsafe fn overwrite(bytes: *mut PyObject, data: &[u8]) {
    // SAFETY: the object has room for `data`, and a zero byte behind it: the caller guarantees its size.
    unsafe {
        ptr::copy_nonoverlapping(
            data.as_ptr(),
            ffi::PyBytes_AS_STRING(bytes).cast_mut().cast(),
            data.len(),
        );
        forget_hash(bytes);
    }
}

/// Resets the hash that a `bytes` object remembers: −1 stands for one that was not computed yet.
///
/// # Safety
/// `bytes` is exact `bytes`, and nobody but the caller can reach it.
pub unsafe fn forget_hash(bytes: *mut PyObject) {
    // SAFETY: the caller guarantees the type.
    unsafe {
        #[allow(deprecated)]
        {
            (*bytes.cast::<ffi::PyBytesObject>()).ob_shash = -1;
        }
    }
}
