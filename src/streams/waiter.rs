//! Futures that readers and writers wait for.

use pyo3::ffi::{self, PyObject};

use crate::event_loop::{LoopCore, LoopRef};
use crate::python::future::is_cancelled;
pub use crate::python::future::wake;
use crate::python::stdlib::Stdlib;
use crate::python::{Counted, FfiResult, Ref};

/// `owner.name(…)`
pub fn call<const N: usize>(name: &Ref, owner_and_args: [*mut PyObject; N]) -> FfiResult<Ref> {
    // SAFETY: attached; the caller's objects are live.
    unsafe {
        Ref::new(ffi::PyObject_VectorcallMethod(
            name.as_ptr(),
            owner_and_args.as_ptr(),
            N,
            std::ptr::null_mut(),
        ))
    }
}

/// `future.set_exception(error)` unless it is cancelled.
pub fn fail(future: &Ref, error: *mut PyObject) -> FfiResult<()> {
    if !is_cancelled(future)? {
        call(&Stdlib::get().names.set_exception, [future.as_ptr(), error])?;
    }
    Ok(())
}

/// The loop of a stream.
#[derive(Clone)]
pub enum EventLoop {
    /// A hybridloop loop whose class does not override `create_future()`.
    Native(LoopRef),
    Other(Ref),
}

// SAFETY: cloning counts a reference.
unsafe impl Counted for EventLoop {
    #[inline]
    fn as_object(&self) -> &Ref {
        self.object()
    }
}

impl EventLoop {
    #[inline]
    pub fn object(&self) -> &Ref {
        match self {
            Self::Native(event_loop) => event_loop.object(),
            Self::Other(object) => object,
        }
    }

    pub fn new(object: Ref) -> FfiResult<Self> {
        if LoopCore::makes_futures_of(&object)? {
            // SAFETY: `makes_futures_of` is true only for live instances of `LoopCore`.
            return Ok(Self::Native(unsafe { LoopRef::borrowed(object.as_ptr()) }));
        }
        Ok(Self::Other(object))
    }

    /// `loop.create_future()`
    #[inline]
    pub fn create_future(&self) -> FfiResult<Ref> {
        match self {
            // SAFETY: `event_loop` is a live loop, and `core()` is its core.
            Self::Native(event_loop) => unsafe {
                event_loop.core().new_waiter(event_loop.as_ptr())
            },
            Self::Other(object) => call(&Stdlib::get().names.create_future, [object.as_ptr()]),
        }
    }
}
