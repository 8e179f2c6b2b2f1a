//! greenlet's C interface. Its capsule gives the functions, so nothing is linked, and programs that do not use greenlet do not
//! need it.

use std::ffi::c_void;
use std::sync::OnceLock;

use pyo3::exceptions::PyImportError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::python::once::get_or_try_set;
use crate::python::refs::Ref;
use crate::python::vectorcall::FfiResult;

/// Places in the table of the capsule, of `greenlet.h`.
const GET_CURRENT: usize = 4;
const SWITCH: usize = 6;

type GetCurrent = unsafe extern "C" fn() -> *mut PyObject;
type Switch = unsafe extern "C" fn(*mut PyObject, *mut PyObject, *mut PyObject) -> *mut PyObject;

pub struct Greenlets {
    get_current: GetCurrent,
    switch: Switch,
    /// `greenlet.__dict__["gr_context"]`, and the function of its class that gets the attribute of a greenlet.
    context: Ref,
    get_context: ffi::descrgetfunc,
}

static GREENLETS: OnceLock<Greenlets> = OnceLock::new();

impl Greenlets {
    /// # Errors
    /// `ImportError` if greenlet is not installed.
    pub fn get(py: Python<'_>) -> PyResult<&'static Self> {
        get_or_try_set(&GREENLETS, || Self::find(py))
    }

    fn find(py: Python<'_>) -> PyResult<Self> {
        let context = py
            .import("greenlet")?
            .getattr("greenlet")?
            .getattr("__dict__")?
            .get_item("gr_context")?;
        // SAFETY: the thread is attached, and the object is live. The slot of a class has the type that its number says.
        unsafe {
            let table =
                ffi::PyCapsule_Import(c"greenlet._C_API".as_ptr(), 0).cast::<*const c_void>();
            if table.is_null() {
                return Err(PyErr::fetch(py));
            }
            let get = ffi::PyType_GetSlot(ffi::Py_TYPE(context.as_ptr()), ffi::Py_tp_descr_get);
            let (get_current, switch) = (*table.add(GET_CURRENT), *table.add(SWITCH));
            if get.is_null() || get_current.is_null() || switch.is_null() {
                return Err(PyImportError::new_err("greenlet has another C interface"));
            }
            Ok(Self {
                get_current: std::mem::transmute::<*const c_void, GetCurrent>(get_current),
                switch: std::mem::transmute::<*const c_void, Switch>(switch),
                context: context.into(),
                get_context: std::mem::transmute::<*mut c_void, ffi::descrgetfunc>(get),
            })
        }
    }

    /// `greenlet.getcurrent()`.
    #[inline]
    pub fn current(&self) -> FfiResult<Ref> {
        // SAFETY: `find` got the function of greenlet. It is called attached, and returns a new reference or null.
        unsafe { Ref::new((self.get_current)()) }
    }

    /// `greenlet.switch(*arguments)`.
    ///
    /// # Errors
    /// `TypeError` if it is no greenlet; whatever is raised in this greenlet.
    #[inline]
    pub fn switch(&self, greenlet: &Ref, arguments: &Bound<'_, PyTuple>) -> FfiResult<Ref> {
        // SAFETY: `find` got the function of greenlet, which checks its argument. The objects are live: callers hold them, on a
        // stack that is kept while it is not the running one. The result is a new reference or null.
        unsafe {
            Ref::new((self.switch)(
                greenlet.as_ptr(),
                arguments.as_ptr(),
                std::ptr::null_mut(),
            ))
        }
    }

    /// The context of a greenlet, which is the current one of the running greenlet; or `None`.
    #[inline]
    pub fn context_of(&self, greenlet: &Ref) -> FfiResult<Ref> {
        // SAFETY: the slot belongs to the class of the descriptor, which checks the class of the greenlet. Both are live.
        unsafe {
            Ref::new((self.get_context)(
                self.context.as_ptr(),
                greenlet.as_ptr(),
                ffi::Py_TYPE(greenlet.as_ptr()).cast(),
            ))
        }
    }
}
