//! Owned and weak references without PyO3's bookkeeping.

use std::ptr::{self, NonNull};

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::PyTraverseError;

use crate::python::vectorcall::{ErrSet, FfiResult};

/// An owned reference that is counted directly. `Py<T>` reads a thread-local variable on each drop.
///
/// It is cloned and dropped only in threads that are attached to the interpreter.
#[repr(transparent)]
pub struct Ref(NonNull<PyObject>);

// SAFETY: a reference may move between threads; counting it needs attachment, which this type's contract demands.
unsafe impl Send for Ref {}
// SAFETY: a shared `Ref` gives only its pointer and clones. Counting needs attachment, which this type's contract demands.
unsafe impl Sync for Ref {}

impl Ref {
    /// Takes ownership of a new reference. Null means that the call has set an exception.
    ///
    /// # Safety
    /// `ptr` is null or an owned reference.
    #[inline]
    pub unsafe fn new(ptr: *mut PyObject) -> FfiResult<Self> {
        NonNull::new(ptr).map(Self).ok_or(ErrSet)
    }

    /// Makes a new reference to a borrowed object.
    ///
    /// # Safety
    /// `ptr` is a live object.
    #[inline]
    pub unsafe fn borrowed(ptr: *mut PyObject) -> Self {
        // SAFETY: the caller guarantees a live object, so `ptr` is not null.
        unsafe {
            ffi::Py_INCREF(ptr);
            Self(NonNull::new_unchecked(ptr))
        }
    }

    /// Takes a pointer for an owned reference without counting it; the caller must not drop it.
    ///
    /// # Safety
    /// `ptr` is a live object.
    pub unsafe fn unowned(ptr: *mut PyObject) -> Self {
        // SAFETY: the caller guarantees a live object, so `ptr` is not null.
        Self(unsafe { NonNull::new_unchecked(ptr) })
    }

    /// A pointer as a reference that is neither counted nor dropped.
    ///
    /// # Safety
    /// `*ptr` is an object that is live as long as the result is used.
    #[inline]
    pub unsafe fn from_ptr_ref(ptr: &*mut PyObject) -> &Self {
        // SAFETY: `Ref` is a transparent wrapper of one non-null pointer, as the pointer of a live object is.
        unsafe { &*std::ptr::from_ref(ptr).cast::<Self>() }
    }

    /// `None`, the object.
    #[inline]
    pub fn none() -> Self {
        // SAFETY: `Py_None` is always live.
        unsafe { Self::borrowed(ffi::Py_None()) }
    }

    /// `True` or `False`.
    pub fn bool(value: bool) -> Self {
        // SAFETY: both are always live.
        unsafe {
            Self::borrowed(if value {
                ffi::Py_True()
            } else {
                ffi::Py_False()
            })
        }
    }

    #[inline]
    pub fn as_ptr(&self) -> *mut PyObject {
        self.0.as_ptr()
    }

    /// Gives up ownership of the reference.
    #[inline]
    pub fn into_ptr(self) -> *mut PyObject {
        std::mem::ManuallyDrop::new(self).0.as_ptr()
    }

    /// The same object with PyO3's safe methods.
    #[inline]
    pub fn bind<'py>(&self, _py: Python<'py>) -> &Bound<'py, PyAny> {
        // SAFETY: `Bound` is, like `Ref`, a transparent wrapper of one non-null pointer; `_py` proves attachment.
        unsafe { &*std::ptr::from_ref(self).cast::<Bound<'py, PyAny>>() }
    }

    /// The same reference as PyO3's.
    pub fn into_bound(self, py: Python<'_>) -> Bound<'_, PyAny> {
        // SAFETY: `into_ptr` gives an owned reference, and `py` proves attachment.
        unsafe { Bound::from_owned_ptr(py, self.into_ptr()) }
    }

    /// Visits the object, for the garbage collector.
    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: `Py` is, like `Ref`, a transparent wrapper of one non-null pointer.
        visit.call(unsafe { &*std::ptr::from_ref(self).cast::<Py<PyAny>>() })
    }
}

/// A weak reference.
#[derive(Clone)]
pub struct WeakRef(Ref);

impl WeakRef {
    /// # Errors
    /// `TypeError` if the class of the object does not support weak references.
    ///
    /// # Safety
    /// The thread is attached, and `object` is live.
    pub unsafe fn new(object: *mut PyObject) -> FfiResult<Self> {
        // SAFETY: the caller guarantees an attached thread and a live object. The result is a new reference or null.
        unsafe { Ref::new(ffi::PyWeakref_NewRef(object, ptr::null_mut())) }.map(Self)
    }

    /// `None` if the class of the object does not support weak references.
    ///
    /// # Safety
    /// The thread is attached, and `object` is live.
    pub unsafe fn try_new(object: *mut PyObject) -> FfiResult<Option<Self>> {
        // SAFETY: the caller guarantees an attached thread and a live object. After a failure an exception is set.
        unsafe {
            match Self::new(object) {
                Ok(weak) => Ok(Some(weak)),
                Err(ErrSet) if ffi::PyErr_ExceptionMatches(ffi::PyExc_TypeError) != 0 => {
                    ffi::PyErr_Clear();
                    Ok(None)
                }
                Err(ErrSet) => Err(ErrSet),
            }
        }
    }

    /// The object, while it is alive. This runs no Python code, so it can be called while a cell is open.
    #[inline]
    pub fn upgrade(&self) -> Option<Ref> {
        // It fails only if the object is not a weak reference.
        referent(&self.0).ok().flatten()
    }

    /// The weak reference itself.
    pub fn object(&self) -> &Ref {
        &self.0
    }
}

/// The object of a weak reference, while it is alive.
///
/// # Errors
/// `TypeError` if `weak` is no weak reference.
#[inline]
pub fn referent(weak: &Ref) -> FfiResult<Option<Ref>> {
    let mut object = ptr::null_mut();
    // SAFETY: the holder of a `Ref` is attached, and its object is live. The call returns 1 and a new reference, 0 and null, or
    // -1 with an exception set.
    unsafe {
        match ffi::compat::PyWeakref_GetRef(weak.as_ptr(), &raw mut object) {
            0 => Ok(None),
            1 => Ref::new(object).map(Some),
            _ => Err(ErrSet),
        }
    }
}

impl Clone for Ref {
    #[inline]
    fn clone(&self) -> Self {
        // SAFETY: an owned reference is live, and its holder is attached.
        unsafe { Self::borrowed(self.as_ptr()) }
    }
}

impl Drop for Ref {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the reference is owned and released once, here. The dropping thread is attached, as the type's contract
        // demands.
        unsafe { ffi::Py_DECREF(self.as_ptr()) }
    }
}

impl<T> From<Bound<'_, T>> for Ref {
    fn from(bound: Bound<'_, T>) -> Self {
        // SAFETY: `into_ptr` gives an owned, non-null reference.
        unsafe { Self(NonNull::new_unchecked(bound.into_ptr())) }
    }
}

impl<T> From<&Bound<'_, T>> for Ref {
    fn from(bound: &Bound<'_, T>) -> Self {
        // SAFETY: a `Bound` proves that the thread is attached and its object live.
        unsafe { Self::borrowed(bound.as_ptr()) }
    }
}
