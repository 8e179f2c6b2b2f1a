//! `bytes` objects: copies, contents, and spare ones for data that protocols mostly look at and drop.

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use crate::python::buffer::BufferGuard;
use crate::python::cell::SlotCell;
use crate::python::refs::Ref;
use crate::python::unstable::bytes_reuse;
use crate::python::vectorcall::{ErrSet, FfiResult};

/// Below this CPython shares objects (empty, single bytes) or allocates them cheaply.
const MIN_SIZE: usize = 256;
/// What is worth keeping.
const MAX_SIZE: usize = 256 * 1024;
/// From this size on, data is received into its object, as copying would cost as much as the rest of the read …
const MIN_RECEIVE: usize = 16 * 1024;
/// … and up to this one into a fresh one: larger ones would be mapped and unmapped by the allocator.
const MAX_FRESH: usize = 120 * 1024;

/// A `bytes` object with a copy of `data`.
pub fn to_bytes(data: &[u8]) -> FfiResult<Ref> {
    // SAFETY: attached; CPython copies the data.
    unsafe {
        Ref::new(ffi::PyBytes_FromStringAndSize(
            data.as_ptr().cast(),
            data.len().cast_signed(),
        ))
    }
}

/// The contents of an exact `bytes` object.
///
/// # Safety
/// It is one, and live while the slice is used.
pub unsafe fn contents<'a>(object: *mut PyObject) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe {
        let data = ffi::PyBytes_AS_STRING(object).cast();
        std::slice::from_raw_parts(data, ffi::Py_SIZE(object).unsigned_abs())
    }
}

/// Runs `body` with the contents of a bytes-like object, which the caller holds.
pub fn with_bytes<T>(
    object: *mut PyObject,
    body: impl FnOnce(&[u8]) -> FfiResult<T>,
) -> FfiResult<T> {
    // SAFETY: attached; the caller's object is live, and a view keeps the memory where it is.
    unsafe {
        if ffi::PyBytes_CheckExact(object) != 0 {
            return body(contents(object));
        }
        body(BufferGuard::readable(object)?.as_slice())
    }
}

/// The object that data was last handed over in, used again for the next data of the same size if nobody kept it.
///
/// A message of a kibibyte is beyond Python's small-object allocator, and allocating and freeing it costs as much as
/// the rest of the read.
#[derive(Default)]
pub struct SpareBytes {
    spare: SlotCell<Ref>,
    /// The sizes of what was received last.
    recent: Cell<[usize; 2]>,
}

impl SpareBytes {
    /// An object to receive up to `most` bytes into, if what was received of late was large: nearly always the next data
    /// is no larger.
    #[inline]
    pub fn receive_buffer(&self, most: usize) -> FfiResult<Option<ReceiveBuffer>> {
        let [before, last] = self.recent.get();
        let size = before.max(last).min(most);
        if size < MIN_RECEIVE {
            return Ok(None);
        }
        self.large_buffer(size, most).map(Some)
    }

    fn large_buffer(&self, size: usize, most: usize) -> FfiResult<ReceiveBuffer> {
        if let Some(spare) = self.spare.take() {
            // SAFETY: what is kept is exact `bytes`.
            if (size..=most).contains(unsafe { &size_of_bytes(&spare) }) {
                // Nobody else holds it, as `keep` says.
                return Ok(ReceiveBuffer(spare));
            }
        }
        let size = size.min(MAX_FRESH).cast_signed();
        // SAFETY: attached; nobody sees the object before it is filled.
        unsafe { Ref::new(ffi::PyBytes_FromStringAndSize(ptr::null(), size)) }.map(ReceiveBuffer)
    }

    /// Tells what has come in.
    #[inline]
    pub fn note(&self, size: usize) {
        let [_, last] = self.recent.get();
        self.recent.set([last, size]);
    }

    /// A `bytes` object with a copy of `data`.
    #[inline]
    pub fn make(&self, data: &[u8]) -> FfiResult<Ref> {
        if let Some(spare) = self.spare.take() {
            // SAFETY: `keep` takes only objects that nobody else holds, so nobody sees this one change; it has room for
            // `data` and the zero byte behind it.
            unsafe {
                if size_of_bytes(&spare) == data.len() {
                    bytes_reuse::overwrite(spare.as_ptr(), data);
                    return Ok(spare);
                }
            }
        }
        to_bytes(data)
    }

    /// Keeps an object that [`SpareBytes::make`] has made, if this is the last reference to it.
    #[inline]
    pub fn keep(&self, data: Ref) {
        if !bytes_reuse::is_on() {
            return;
        }
        // SAFETY: the object is live.
        let (count, size) = unsafe { (ffi::Py_REFCNT(data.as_ptr()), size_of_bytes(&data)) };
        if count == 1 && (MIN_SIZE..=MAX_SIZE).contains(&size) {
            drop(self.spare.replace(Some(data)));
        }
    }

    /// Drops what is kept.
    pub fn clear(&self) {
        drop(self.spare.take());
    }
}

/// A `bytes` object that nobody else holds, for data that is on its way.
pub struct ReceiveBuffer(Ref);

impl ReceiveBuffer {
    #[inline]
    pub fn len(&self) -> usize {
        // SAFETY: it is exact `bytes`.
        unsafe { size_of_bytes(&self.0) }
    }

    /// Where the data goes.
    #[inline]
    pub fn as_mut_ptr(&self) -> *mut u8 {
        // SAFETY: it is exact `bytes`.
        unsafe { ffi::PyBytes_AS_STRING(self.0.as_ptr()) }
            .cast_mut()
            .cast()
    }

    /// An object of the first `size` bytes; those that did not fit are in front of `rest`.
    pub fn into_bytes(self, size: usize, rest: &[u8]) -> FfiResult<Ref> {
        let capacity = self.len();
        if size > capacity {
            return self.joined(&rest[..size - capacity]);
        }
        if size == capacity {
            // SAFETY: it is exact `bytes`.
            unsafe { bytes_reuse::forget_hash(self.0.as_ptr()) };
            return Ok(self.0);
        }
        if size == 0 {
            return to_bytes(&[]);
        }
        let mut object = self.0.into_ptr();
        // SAFETY: this is the only reference, which the call takes and gives back.
        unsafe {
            if _PyBytes_Resize(&raw mut object, size.cast_signed()) != 0 {
                return Err(ErrSet);
            }
            Ref::new(object)
        }
    }

    fn joined(self, rest: &[u8]) -> FfiResult<Ref> {
        let (capacity, size) = (self.len(), self.len() + rest.len());
        // SAFETY: attached; the new object has room for both parts, and nobody sees it before it is filled.
        unsafe {
            let joined = Self(Ref::new(ffi::PyBytes_FromStringAndSize(
                ptr::null(),
                size.cast_signed(),
            ))?);
            ptr::copy_nonoverlapping(self.as_mut_ptr(), joined.as_mut_ptr(), capacity);
            ptr::copy_nonoverlapping(rest.as_ptr(), joined.as_mut_ptr().add(capacity), rest.len());
            Ok(joined.0)
        }
    }
}

extern "C" {
    /// Documented, and kept from users by `pyo3-ffi`.
    pub fn _PyBytes_Resize(bytes: *mut *mut PyObject, size: ffi::Py_ssize_t) -> c_int;
}

#[inline]
unsafe fn size_of_bytes(bytes: &Ref) -> usize {
    // SAFETY: the caller's object is a `bytes`.
    unsafe { ffi::Py_SIZE(bytes.as_ptr()).unsigned_abs() }
}

/// A `str`; PyO3's own functions panic if there is no memory for it.
pub fn new_str<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyString>> {
    // SAFETY: attached; the text is UTF-8, and as long as it says.
    unsafe {
        let new = ffi::PyUnicode_FromStringAndSize(text.as_ptr().cast(), text.len().cast_signed());
        Ok(Bound::from_owned_ptr_or_err(py, new)?.cast_into_unchecked())
    }
}

/// An empty list, as [`new_str`].
pub fn new_list(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    // SAFETY: attached.
    unsafe { Ok(Bound::from_owned_ptr_or_err(py, ffi::PyList_New(0))?.cast_into_unchecked()) }
}
