//! References that are known to be loops, so that their `LoopCore` is found without a check.

use pyo3::ffi::PyObject;
use pyo3::prelude::*;

use crate::event_loop::{LoopContext, LoopCore};
use crate::python::{Counted, FfiResult, Ref};

/// A reference to a loop object: an instance of [`LoopCore`] or of a subclass.
#[derive(Clone)]
#[repr(transparent)]
pub struct LoopRef(Ref);

// SAFETY: cloning increments the reference count and runs no Python.
unsafe impl Counted for LoopRef {
    #[inline]
    fn as_object(&self) -> &Ref {
        &self.0
    }
}

impl LoopRef {
    /// The loop as an object of any class.
    #[inline]
    pub fn object(&self) -> &Ref {
        &self.0
    }

    /// A new reference to a borrowed loop.
    ///
    /// # Safety
    /// `event_loop` is a live instance of [`LoopCore`] or of a subclass.
    #[inline]
    pub unsafe fn borrowed(event_loop: *mut PyObject) -> Self {
        // SAFETY: the caller guarantees that `event_loop` is live.
        Self(unsafe { Ref::borrowed(event_loop) })
    }

    #[inline]
    pub fn core(&self) -> &LoopCore {
        // SAFETY: every constructor accepts only a `LoopCore`, and the reference keeps it alive.
        unsafe { LoopCore::of(self.0.as_ptr()) }
    }

    /// The context for calls in this thread.
    #[inline]
    pub fn cx<'a>(&'a self, py: Python<'a>) -> LoopContext<'a> {
        LoopContext {
            py,
            core: self.core(),
            event_loop: self.0.as_ptr(),
        }
    }

    #[inline]
    pub fn as_ptr(&self) -> *mut PyObject {
        self.0.as_ptr()
    }
}

impl From<&Bound<'_, LoopCore>> for LoopRef {
    fn from(event_loop: &Bound<'_, LoopCore>) -> Self {
        // A `Bound` of this type is an instance of `LoopCore` or of a subclass.
        Self(event_loop.into())
    }
}

impl<'a> LoopContext<'a> {
    /// The context of a method of the loop.
    ///
    /// # Safety
    /// `event_loop` is an instance of [`LoopCore`] or of a subclass that is live for `'a`.
    #[inline]
    pub unsafe fn new(py: Python<'a>, event_loop: *mut PyObject) -> Self {
        Self {
            py,
            // SAFETY: the caller guarantees that `event_loop` is a live `LoopCore`.
            core: unsafe { LoopCore::of(event_loop) },
            event_loop,
        }
    }

    /// `loop.call_soon(callback, *args, context=context)`
    pub fn call_soon<const N: usize>(
        self,
        callback: &Ref,
        args: [&Ref; N],
        context: Option<Ref>,
    ) -> FfiResult<()> {
        let args = args.map(Ref::as_ptr);
        // SAFETY: a `LoopContext` has a live loop for `'a`; the references keep the other objects alive.
        let handle = unsafe {
            self.core
                .call_soon(self.event_loop, callback.as_ptr(), &args, context)?
        };
        drop(handle);
        Ok(())
    }

    /// A reference to the loop.
    #[inline]
    pub fn loop_ref(self) -> LoopRef {
        // SAFETY: a `LoopContext` has a live loop for `'a`.
        unsafe { LoopRef::borrowed(self.event_loop) }
    }
}
