//! The bytes of an object that supports the buffer protocol.

use pyo3::ffi::{self, PyObject};

use crate::python::vectorcall::{ErrSet, FfiResult};

/// A contiguous view, given back when it goes out of scope. The object cannot change its size meanwhile.
pub struct Buffer(ffi::Py_buffer);

// SAFETY: used and given back by a thread that is attached.
unsafe impl Send for Buffer {}

impl Buffer {
    /// # Safety
    /// `object` is live.
    pub unsafe fn readable(object: *mut PyObject) -> FfiResult<Self> {
        // SAFETY: the caller's promise.
        unsafe { Self::get(object, ffi::PyBUF_SIMPLE) }
    }

    /// # Safety
    /// `object` is live.
    pub unsafe fn writable(object: *mut PyObject) -> FfiResult<Self> {
        // SAFETY: the caller's promise.
        unsafe { Self::get(object, ffi::PyBUF_WRITABLE) }
    }

    unsafe fn get(object: *mut PyObject, flags: std::ffi::c_int) -> FfiResult<Self> {
        // SAFETY: attached; an all-zero view is one to be filled in.
        unsafe {
            let mut view = std::mem::zeroed::<ffi::Py_buffer>();
            if ffi::PyObject_GetBuffer(object, &raw mut view, flags) != 0 {
                return Err(ErrSet);
            }
            Ok(Self(view))
        }
    }

    pub fn len(&self) -> usize {
        self.0.len.unsigned_abs()
    }

    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.0.buf.cast()
    }

    pub fn as_slice(&self) -> &[u8] {
        if self.len() == 0 {
            return &[];
        }
        // SAFETY: the view is of this many bytes, and stays as long as it is held.
        unsafe { std::slice::from_raw_parts(self.0.buf.cast(), self.len()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: filled by PyObject_GetBuffer and released once.
        unsafe { ffi::PyBuffer_Release(&raw mut self.0) };
    }
}
