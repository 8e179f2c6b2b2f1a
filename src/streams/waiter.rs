//! Futures that readers and writers wait for, and the loop that makes them.

use pyo3::ffi;
use pyo3::prelude::*;

use crate::event_loop::{LoopCore, LoopRef};
use crate::python::future::is_cancelled;
pub use crate::python::future::wake;
use crate::python::stdlib::Stdlib;
use crate::python::{Counted, FfiResult, Ref, SlotCell};

/// `object.name(*args)`: the object is the first of `object_and_args`.
pub fn call_method<const N: usize>(name: &Ref, object_and_args: [&Ref; N]) -> FfiResult<Ref> {
    let object_and_args = object_and_args.map(Ref::as_ptr);
    // SAFETY: the holder of a `Ref` is attached, and its object is live.
    unsafe {
        Ref::new(ffi::PyObject_VectorcallMethod(
            name.as_ptr(),
            object_and_args.as_ptr(),
            N,
            std::ptr::null_mut(),
        ))
    }
}

/// `future.set_exception(error)`, unless the future is cancelled.
pub fn fail(future: &Ref, error: &Ref) -> FfiResult<()> {
    if !is_cancelled(future)? {
        call_method(&Stdlib::get().names.set_exception, [future, error])?;
    }
    Ok(())
}

/// The object in a slot, or `None`.
pub fn or_none<'py>(py: Python<'py>, slot: &SlotCell<Ref>) -> Bound<'py, PyAny> {
    slot.get().unwrap_or_else(Ref::none).bind(py).clone()
}

/// What an attribute is set to; nothing for `None`.
pub fn unless_none(object: &Bound<'_, PyAny>) -> Option<Ref> {
    (!object.is_none()).then(|| object.into())
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
    pub fn new(object: Ref) -> FfiResult<Self> {
        if LoopCore::has_native_create_future(&object)? {
            // SAFETY: `has_native_create_future` is true only for live instances of `LoopCore`.
            return Ok(Self::Native(unsafe { LoopRef::borrowed(object.as_ptr()) }));
        }
        Ok(Self::Other(object))
    }

    pub fn object(&self) -> &Ref {
        match self {
            Self::Native(event_loop) => event_loop.object(),
            Self::Other(object) => object,
        }
    }

    /// `loop.create_future()`
    #[inline]
    pub fn create_future(&self) -> FfiResult<Ref> {
        match self {
            // SAFETY: `event_loop` is a live loop, and `core()` is its core.
            Self::Native(event_loop) => unsafe {
                event_loop.core().new_waiter(event_loop.as_ptr())
            },
            Self::Other(object) => call_method(&Stdlib::get().names.create_future, [object]),
        }
    }
}
