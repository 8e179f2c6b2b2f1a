//! Futures of the loop.

use std::ptr;

use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::event_loop::LoopCore;
use crate::python::stdlib::{current, Stdlib};
use crate::python::{ErrSet, FfiResult, Ref};

impl LoopCore {
    /// `Future(loop=event_loop)`, of whatever class `asyncio.futures.Future` is now.
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
        // SAFETY: the caller's loop is live; a type is called as `type.__call__` would.
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

    /// A future for a coroutine of ours to wait for, of the native class whatever `asyncio.futures.Future` is now.
    ///
    /// # Safety
    /// `event_loop` is the live loop object of this core.
    #[inline]
    pub unsafe fn new_waiter(&self, event_loop: *mut PyObject) -> FfiResult<Ref> {
        // SAFETY: the caller's promise.
        unsafe {
            match &Stdlib::get().native_future {
                Some(native) => self.new_native_future(event_loop, &native.class),
                None => self.new_future(event_loop),
            }
        }
    }

    unsafe fn new_native_future(&self, event_loop: *mut PyObject, class: &Ref) -> FfiResult<Ref> {
        let stdlib = Stdlib::get();
        // SAFETY: the caller's loop is live; a type is called as `type.__call__` would.
        unsafe {
            // A call would make a dictionary of the keyword each time.
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

    /// `{"loop": event_loop}`, which no code but the initialiser of futures gets to see.
    #[cold]
    unsafe fn make_future_keywords(&self, event_loop: *mut PyObject) -> FfiResult<Ref> {
        // SAFETY: attached; the caller's loop is live.
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
    /// Whether `object` is a loop of ours whose class has not replaced `create_future()`.
    pub fn has_native_create_future(object: &Ref) -> FfiResult<bool> {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        let core = py.get_type::<Self>();
        let class = object.bind(py).get_type();
        let name = Stdlib::get().names.create_future.bind(py);
        let name = name.cast::<PyString>().map_err(PyErr::from)?;
        Ok(class.is_subclass(&core)? && class.getattr(name)?.is(core.getattr(name)?))
    }
}
