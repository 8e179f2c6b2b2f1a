//! Futures that readers and writers wait for.

use pyo3::ffi::{self, PyObject};

use crate::event_loop::LoopCore;
use crate::python::future::is_cancelled;
pub use crate::python::future::wake;
use crate::python::stdlib::Stdlib;
use crate::python::{FfiResult, Ref};

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

/// The loop of a stream, and whether its futures can be made without asking it.
#[derive(Clone)]
pub struct EventLoop {
    object: Ref,
    is_core: bool,
}

impl EventLoop {
    pub fn new(object: Ref) -> FfiResult<Self> {
        let is_core = LoopCore::makes_futures_of(&object)?;
        Ok(Self { object, is_core })
    }

    pub fn object(&self) -> &Ref {
        &self.object
    }

    /// `loop.create_future()`
    #[inline]
    pub fn create_future(&self) -> FfiResult<Ref> {
        if self.is_core {
            // SAFETY: a live loop object of ours.
            return unsafe { LoopCore::of(self.object.as_ptr()).new_waiter(self.object.as_ptr()) };
        }
        call(&Stdlib::get().names.create_future, [self.object.as_ptr()])
    }
}
