//! Futures of the loop.

use std::ptr;

use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::event_loop::LoopCore;
use crate::python::stdlib::{current, Stdlib};
use crate::python::{ErrSet, FfiResult, Ref};

impl LoopCore {
    /// `Future(loop=event_loop)`, of the class that `asyncio.futures.Future` is now.
    ///
    /// # Safety
    /// `event_loop` is the live loop object of this core.
    pub unsafe fn new_future(&self, event_loop: *mut PyObject) -> FfiResult<Ref> {
        let stdlib = Stdlib::get();
        let class = current(&stdlib.futures, &stdlib.names.Future)?;
        let is_native = stdlib
            .native_future
            .as_ref()
            .is_some_and(|native| native.class.as_ptr() == class.as_ptr());
        // SAFETY: the caller guarantees a live loop. `class` is held here and called as `type.__call__` does it.
        unsafe {
            if is_native {
                return self.new_native_future(event_loop, &class);
            }
            let args = [ptr::null_mut(), event_loop];
            Ref::new(ffi::PyObject_Vectorcall(
                class.as_ptr(),
                args.as_ptr().add(1),
                ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
                stdlib.loop_keyword.as_ptr(),
            ))
        }
    }

    /// A future for a native coroutine to wait for. It is a `_asyncio.Future`, even if a program has replaced
    /// `asyncio.futures.Future`.
    ///
    /// # Safety
    /// `event_loop` is the live loop object of this core.
    #[inline]
    pub unsafe fn new_waiter(&self, event_loop: *mut PyObject) -> FfiResult<Ref> {
        // SAFETY: the caller guarantees that `event_loop` is the live loop object of this core.
        unsafe {
            match &Stdlib::get().native_future {
                Some(native) => self.new_native_future(event_loop, &native.class),
                None => self.new_future(event_loop),
            }
        }
    }

    /// # Safety
    /// `event_loop` is the live loop object of this core.
    unsafe fn new_native_future(&self, event_loop: *mut PyObject, class: &Ref) -> FfiResult<Ref> {
        let stdlib = Stdlib::get();
        // SAFETY: the caller guarantees a live loop. `class` is held here and called as `type.__call__` does it.
        unsafe {
            // A call with keywords would make this dictionary each time.
            let keywords = match self.future_keywords.get() {
                Some(keywords) => keywords,
                None => self.make_future_keywords(event_loop)?,
            };
            let ty = class.as_ptr().cast::<PyTypeObject>();
            let (Some(new), Some(init)) = ((*ty).tp_new, (*ty).tp_init) else {
                return Ref::new(ffi::PyObject_Call(
                    class.as_ptr(),
                    stdlib.no_arguments.as_ptr(),
                    keywords.as_ptr(),
                ));
            };
            let future = Ref::new(new(ty, stdlib.no_arguments.as_ptr(), ptr::null_mut()))?;
            if init(
                future.as_ptr(),
                stdlib.no_arguments.as_ptr(),
                keywords.as_ptr(),
            ) != 0
            {
                return Err(ErrSet);
            }
            Ok(future)
        }
    }

    /// `{"loop": event_loop}`. Only the initializer of futures gets this dictionary.
    ///
    /// # Safety
    /// `event_loop` is the live loop object of this core.
    #[cold]
    unsafe fn make_future_keywords(&self, event_loop: *mut PyObject) -> FfiResult<Ref> {
        // SAFETY: the loop's thread calls this attached; the caller guarantees that `event_loop` is live.
        let keywords = unsafe {
            let py = Python::assume_attached();
            let keywords: Ref = PyDict::new(py).into();
            let name = ffi::PyTuple_GET_ITEM(Stdlib::get().loop_keyword.as_ptr(), 0);
            if ffi::PyDict_SetItem(keywords.as_ptr(), name, event_loop) != 0 {
                return Err(ErrSet);
            }
            keywords
        };
        if !self.is_closed() {
            drop(self.future_keywords.replace(Some(keywords.clone())));
        }
        Ok(keywords)
    }
}

impl LoopCore {
    /// Whether `object` is a `LoopCore` whose class has not replaced `create_future()`.
    pub fn has_native_create_future(object: &Ref) -> FfiResult<bool> {
        // SAFETY: the thread is attached: only such threads have a `Ref`.
        let py = unsafe { Python::assume_attached() };
        let core = py.get_type::<Self>();
        let class = object.bind(py).get_type();
        let name = Stdlib::get().names.create_future.bind(py);
        let name = name.cast::<PyString>().map_err(PyErr::from)?;
        Ok(class.is_subclass(&core)? && class.getattr(name)?.is(core.getattr(name)?))
    }
}
