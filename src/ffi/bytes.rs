//! `bytes` objects for data that protocols mostly look at and drop.

use std::ptr;

use pyo3::ffi::{self, PyObject};

use super::fastcall::Res;
use super::local::Local;
use super::refs::Ref;

/// Below this CPython shares objects (empty, single bytes) or allocates them cheaply.
const MIN_SIZE: usize = 256;
/// What is worth keeping.
const MAX_SIZE: usize = 256 * 1024;

/// The object that data was last handed over in, used again for the next data of the same size if nobody kept it.
///
/// A message of a kibibyte is beyond Python's small-object allocator, and allocating and freeing it costs as much as
/// the rest of the read.
#[derive(Default)]
pub struct SpareBytes(Local<Option<Ref>>);

impl SpareBytes {
    /// A `bytes` object with a copy of `data`.
    #[inline]
    pub fn make(&self, data: &[u8]) -> Res<Ref> {
        if let Some(spare) = self.0.take() {
            // SAFETY: `keep` takes only objects that nobody else holds, so nobody sees this one change; it has room for
            // `data` and the zero byte behind it.
            unsafe {
                if ffi::Py_SIZE(spare.as_ptr()).unsigned_abs() == data.len() {
                    ptr::copy_nonoverlapping(
                        data.as_ptr(),
                        ffi::PyBytes_AS_STRING(spare.as_ptr()).cast_mut().cast(),
                        data.len(),
                    );
                    forget_hash(spare.as_ptr());
                    return Ok(spare);
                }
            }
        }
        // SAFETY: attached; CPython copies the data.
        unsafe {
            Ref::new(ffi::PyBytes_FromStringAndSize(
                data.as_ptr().cast(),
                data.len().cast_signed(),
            ))
        }
    }

    /// Keeps an object that [`SpareBytes::make`] has made, if this is the last reference to it.
    #[inline]
    pub fn keep(&self, data: Ref) {
        // Free-threaded builds split the count, so that it does not tell.
        if cfg!(Py_GIL_DISABLED) {
            return;
        }
        // SAFETY: the object is live.
        let (count, size) = unsafe {
            (
                ffi::Py_REFCNT(data.as_ptr()),
                ffi::Py_SIZE(data.as_ptr()).unsigned_abs(),
            )
        };
        if count == 1 && (MIN_SIZE..=MAX_SIZE).contains(&size) {
            drop(self.0.replace(Some(data)));
        }
    }

    /// Drops what is kept.
    pub fn clear(&self) {
        drop(self.0.take());
    }
}

/// A `bytes` object remembers its hash; −1 stands for one that was not asked for yet.
unsafe fn forget_hash(bytes: *mut PyObject) {
    // SAFETY: the caller's object is exactly of this layout.
    unsafe {
        #[allow(deprecated)]
        {
            (*bytes.cast::<ffi::PyBytesObject>()).ob_shash = -1;
        }
    }
}
