//! asyncio futures: waiting for them and resolving them.

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::python::refs::Ref;
use crate::python::stdlib::Stdlib;
use crate::python::vectorcall::{ErrSet, FfiResult};

/// `_asyncio.Future`. Its methods cannot be replaced, so they need not be looked up for its instances.
pub struct NativeFuture {
    pub class: Ref,
    set_result: Ref,
}

impl NativeFuture {
    /// `_asyncio.Future` of this Python, if it exists and has the methods.
    pub fn find(py: Python<'_>) -> Option<Self> {
        let class = py.import("_asyncio").ok()?.getattr("Future").ok()?;
        let contents = class.cast::<PyType>().ok()?.getattr("__dict__").ok()?;
        let take = |name: &str| contents.get_item(name).ok();
        Some(Self {
            set_result: take("set_result")?.into(),
            class: class.into(),
        })
    }

    #[inline]
    pub fn is_class_of(&self, object: &Ref) -> bool {
        // SAFETY: the holder of a `Ref` is attached, and its object is live.
        unsafe { ffi::Py_TYPE(object.as_ptr()).cast() == self.class.as_ptr() }
    }
}

/// The methods of `_asyncio.Future`, if the object is an instance of exactly that class.
#[inline]
pub fn native(future: &Ref) -> Option<&'static NativeFuture> {
    let native = Stdlib::get().native_future.as_ref()?;
    native.is_class_of(future).then_some(native)
}

/// Sets `_asyncio_future_blocking`, as `Future.__await__` does, so that the task waits for the yielded future.
#[inline]
pub fn block(future: &Ref) -> FfiResult<()> {
    // SAFETY: the holder of a `Ref` is attached, and its object is live. Names and `None` are never released.
    let failed = unsafe {
        let name = &Stdlib::get().names._asyncio_future_blocking;
        ffi::PyObject_SetAttr(future.as_ptr(), name.as_ptr(), ffi::Py_True())
    };
    if failed != 0 {
        return Err(ErrSet);
    }
    Ok(())
}

/// `future.set_result(None)`
#[inline]
pub fn set_none(future: &Ref) -> FfiResult<()> {
    // SAFETY: the holder of a `Ref` is attached, and its object is live. Names and `None` are never released.
    unsafe {
        let args: [*mut PyObject; 2] = [future.as_ptr(), ffi::Py_None()];
        match native(future) {
            Some(native) => Ref::new(ffi::PyObject_Vectorcall(
                native.set_result.as_ptr(),
                args.as_ptr(),
                args.len(),
                std::ptr::null_mut(),
            )),
            None => Ref::new(ffi::PyObject_VectorcallMethod(
                Stdlib::get().names.set_result.as_ptr(),
                args.as_ptr(),
                args.len(),
                std::ptr::null_mut(),
            )),
        }?;
    }
    Ok(())
}

/// `future.set_result(None)` unless it is done.
#[inline]
pub fn resolve(future: &Ref) -> FfiResult<()> {
    set_none(future).or_else(|raised| unless_done(future, raised))
}

/// Ignores the exception that is set if the future is done.
#[cold]
fn unless_done(future: &Ref, _: ErrSet) -> FfiResult<()> {
    // SAFETY: the holder of a `Ref` is attached.
    let py = unsafe { Python::assume_attached() };
    let error = PyErr::fetch(py);
    let name = Stdlib::get().names.done.bind(py);
    let name = name.cast::<pyo3::types::PyString>().map_err(PyErr::from)?;
    if future.bind(py).call_method0(name)?.is_truthy()? {
        return Ok(());
    }
    Err(error.into())
}

/// `future.set_result(None)` unless it is cancelled.
#[inline]
pub fn wake(future: &Ref) -> FfiResult<()> {
    set_none(future).or_else(|raised| unless_cancelled(future, raised))
}

#[cold]
fn unless_cancelled(future: &Ref, _: ErrSet) -> FfiResult<()> {
    // SAFETY: the holder of a `Ref` is attached.
    let py = unsafe { Python::assume_attached() };
    let error = PyErr::fetch(py);
    if is_cancelled(future)? {
        return Ok(());
    }
    Err(error.into())
}

/// `future.cancelled()`
pub fn is_cancelled(future: &Ref) -> FfiResult<bool> {
    // SAFETY: the holder of a `Ref` is attached.
    let py = unsafe { Python::assume_attached() };
    let name = Stdlib::get().names.cancelled.bind(py);
    let name = name.cast::<pyo3::types::PyString>().map_err(PyErr::from)?;
    Ok(future.bind(py).call_method0(name)?.is_truthy()?)
}
