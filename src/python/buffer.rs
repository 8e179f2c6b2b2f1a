//! `BufferGuard`: a view of the memory of an object that supports the buffer protocol.

use std::ffi::c_int;
use std::mem::MaybeUninit;

use pyo3::ffi::{self, PyObject};

use crate::python::vectorcall::{ErrSet, FfiResult};

/// A `Py_buffer` that is released when it is dropped. Until then the object keeps its memory in place and its size.
///
/// It is dropped by a thread that is attached to the interpreter.
pub struct BufferGuard(ffi::Py_buffer);

// SAFETY: a view may move between threads. Releasing it needs attachment, which this type's contract demands.
unsafe impl Send for BufferGuard {}

impl BufferGuard {
    /// A contiguous view to read from.
    ///
    /// # Safety
    /// The thread is attached, and `object` is live.
    #[inline]
    pub unsafe fn readable(object: *mut PyObject) -> FfiResult<Self> {
        // SAFETY: the caller guarantees an attached thread and a live object.
        unsafe { Self::acquire(object, ffi::PyBUF_SIMPLE, |_| ()) }.map(|(guard, ())| guard)
    }

    /// A contiguous view to write to.
    ///
    /// # Safety
    /// The thread is attached, and `object` is live.
    #[inline]
    pub unsafe fn writable(object: *mut PyObject) -> FfiResult<Self> {
        // SAFETY: the caller guarantees an attached thread and a live object.
        unsafe { Self::acquire(object, ffi::PyBUF_WRITABLE, |_| ()) }.map(|(guard, ())| guard)
    }

    /// A view as `flags` request it, and the result of `inspect`. `inspect` gets the view where the object has filled it:
    /// its `shape` and `strides` may point into the view itself, so they cannot be read from a guard, which moves.
    ///
    /// # Safety
    /// The thread is attached, and `object` is live.
    #[inline]
    pub unsafe fn acquire<T>(
        object: *mut PyObject,
        flags: c_int,
        inspect: impl FnOnce(&ffi::Py_buffer) -> T,
    ) -> FfiResult<(Self, T)> {
        let mut view = MaybeUninit::<ffi::Py_buffer>::zeroed();
        // SAFETY: the caller guarantees an attached thread and a live object. On success CPython has filled the view, for
        // which all zeros are valid as well.
        unsafe {
            if ffi::PyObject_GetBuffer(object, view.as_mut_ptr(), flags) != 0 {
                return Err(ErrSet);
            }
            let inspected = inspect(view.assume_init_ref());
            Ok((Self(view.assume_init()), inspected))
        }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.0.len.unsigned_abs()
    }

    #[inline]
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.0.buf.cast()
    }

    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        if self.len() == 0 {
            return &[];
        }
        // SAFETY: the object has exported `len` bytes at `buf`, and keeps them there until the view is released.
        unsafe { std::slice::from_raw_parts(self.0.buf.cast(), self.len()) }
    }
}

impl Drop for BufferGuard {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: PyObject_GetBuffer() has filled the view, and it is released here only; the dropping thread is attached, as
        // the type's contract demands.
        unsafe { ffi::PyBuffer_Release(&raw mut self.0) };
    }
}
