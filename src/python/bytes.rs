//! `bytes` objects: copies, contents, and reuse of objects that protocols do not keep.

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
/// The largest object that is kept.
const MAX_SIZE: usize = 256 * 1024;
/// From this size on, data is received directly into its object: a copy would cost as much as the rest of the read …
const MIN_RECEIVE: usize = 16 * 1024;
/// … and up to this size into a new object: the allocator maps and unmaps memory for larger ones.
const MAX_FRESH: usize = 120 * 1024;

/// A `bytes` object with a copy of `data`.
pub fn to_bytes(data: &[u8]) -> FfiResult<Ref> {
    // SAFETY: code of this folder runs in attached threads. CPython copies the `len` bytes of `data`.
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
    // SAFETY: the caller guarantees an exact `bytes` object that is live while the slice is used.
    unsafe {
        let data = ffi::PyBytes_AS_STRING(object).cast();
        std::slice::from_raw_parts(data, ffi::Py_SIZE(object).unsigned_abs())
    }
}

/// Runs `body` with the contents of a bytes-like object. The caller holds the object.
pub fn with_bytes<T>(
    object: *mut PyObject,
    body: impl FnOnce(&[u8]) -> FfiResult<T>,
) -> FfiResult<T> {
    // SAFETY: the callers hold `object` in an attached thread. A view keeps the memory in place until it is dropped.
    unsafe {
        if ffi::PyBytes_CheckExact(object) != 0 {
            return body(contents(object));
        }
        body(BufferGuard::readable(object)?.as_slice())
    }
}

/// The `bytes` object of the last read, for reuse by data of the same size if no other code holds it.
///
/// Objects of a kibibyte are too large for Python's small-object allocator: allocating and freeing one costs as much as the
/// rest of the read.
#[derive(Default)]
pub struct SpareBytes {
    spare: SlotCell<Ref>,
    /// The sizes of the last two reads.
    recent: Cell<[usize; 2]>,
}

impl SpareBytes {
    /// An object to receive up to `most` bytes into, if the last reads were large: the next one is rarely larger.
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
            // SAFETY: `keep` stores only exact `bytes` objects that `make` or a `ReceiveBuffer` has made.
            if (size..=most).contains(unsafe { &size_of_bytes(&spare) }) {
                // It has no other references, as `keep` has checked.
                return Ok(ReceiveBuffer(spare));
            }
        }
        let size = size.min(MAX_FRESH).cast_signed();
        // SAFETY: code of this folder runs in attached threads. Only this function has the new object until it is filled.
        unsafe { Ref::new(ffi::PyBytes_FromStringAndSize(ptr::null(), size)) }.map(ReceiveBuffer)
    }

    /// Records the size of a read.
    #[inline]
    pub fn note(&self, size: usize) {
        let [_, last] = self.recent.get();
        self.recent.set([last, size]);
    }

    /// A `bytes` object with a copy of `data`.
    #[inline]
    pub fn make(&self, data: &[u8]) -> FfiResult<Ref> {
        if let Some(spare) = self.spare.take() {
            // SAFETY: `keep` stores only objects without other references, so no other code sees this one change; it has space
            // for `data` and the zero byte behind it.
            unsafe {
                if size_of_bytes(&spare) == data.len() {
                    bytes_reuse::overwrite(spare.as_ptr(), data);
                    return Ok(spare);
                }
            }
        }
        to_bytes(data)
    }

    /// Stores an object of [`SpareBytes::make`] or a [`ReceiveBuffer`] for reuse, if this is the last reference to it.
    #[inline]
    pub fn keep(&self, data: Ref) {
        if !bytes_reuse::is_on() {
            return;
        }
        // SAFETY: `data` keeps the object alive, and it is an exact `bytes`: callers pass objects of `make` or a
        // `ReceiveBuffer`.
        let (count, size) = unsafe { (ffi::Py_REFCNT(data.as_ptr()), size_of_bytes(&data)) };
        if count == 1 && (MIN_SIZE..=MAX_SIZE).contains(&size) {
            drop(self.spare.replace(Some(data)));
        }
    }

    /// Drops the stored object.
    pub fn clear(&self) {
        drop(self.spare.take());
    }
}

/// A `bytes` object without other references, to receive into.
pub struct ReceiveBuffer(Ref);

impl ReceiveBuffer {
    #[inline]
    pub fn len(&self) -> usize {
        // SAFETY: a `ReceiveBuffer` is made of exact `bytes` only.
        unsafe { size_of_bytes(&self.0) }
    }

    /// The start of the object's memory.
    #[inline]
    pub fn as_mut_ptr(&self) -> *mut u8 {
        // SAFETY: a `ReceiveBuffer` is made of exact `bytes` only.
        unsafe { ffi::PyBytes_AS_STRING(self.0.as_ptr()) }
            .cast_mut()
            .cast()
    }

    /// The `bytes` object of `size` received bytes. Those that did not fit are at the start of `rest`.
    pub fn into_bytes(self, size: usize, rest: &[u8]) -> FfiResult<Ref> {
        let capacity = self.len();
        if size > capacity {
            return self.joined(&rest[..size - capacity]);
        }
        if size == capacity {
            // SAFETY: a `ReceiveBuffer` is made of exact `bytes` only, and no other code has a reference to it.
            unsafe { bytes_reuse::forget_hash(self.0.as_ptr()) };
            return Ok(self.0);
        }
        if size == 0 {
            return to_bytes(&[]);
        }
        let mut object = self.0.into_ptr();
        // SAFETY: this is the only reference. The call consumes it and stores a new one, or null after an error.
        unsafe {
            if _PyBytes_Resize(&raw mut object, size.cast_signed()) != 0 {
                return Err(ErrSet);
            }
            Ref::new(object)
        }
    }

    fn joined(self, rest: &[u8]) -> FfiResult<Ref> {
        let (capacity, size) = (self.len(), self.len() + rest.len());
        // SAFETY: code of this folder runs in attached threads. The new object has space for both parts, and only this function
        // has it.
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
    /// Documented by CPython, and private in `pyo3-ffi`.
    pub fn _PyBytes_Resize(bytes: *mut *mut PyObject, size: ffi::Py_ssize_t) -> c_int;
}

#[inline]
unsafe fn size_of_bytes(bytes: &Ref) -> usize {
    // SAFETY: the caller guarantees a `bytes` object.
    unsafe { ffi::Py_SIZE(bytes.as_ptr()).unsigned_abs() }
}

/// A `str`. PyO3's own functions panic without memory.
pub fn new_str<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyString>> {
    // SAFETY: `py` proves that the thread is attached. A `&str` is UTF-8 of its length.
    unsafe {
        let new = ffi::PyUnicode_FromStringAndSize(text.as_ptr().cast(), text.len().cast_signed());
        Ok(Bound::from_owned_ptr_or_err(py, new)?.cast_into_unchecked())
    }
}

/// An empty list. PyO3's own functions panic without memory.
pub fn new_list(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    // SAFETY: `py` proves that the thread is attached. The result is a new list, or null after an error.
    unsafe { Ok(Bound::from_owned_ptr_or_err(py, ffi::PyList_New(0))?.cast_into_unchecked()) }
}
