//! The attributes of coroutines that debuggers, asyncio's `repr` and `inspect` read.
//!
//! Code and frame are placeholders that are made on access. The code has the name of the method and no source. The frame, which
//! no thread runs, is at its first line. So tools for Python's coroutines work with these as well.

use std::ffi::{c_int, c_void, CStr};
use std::ptr;

use pyo3::ffi::{self, PyGetSetDef, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::python::coroutine::{of, Operation, State};
use crate::python::typespec::getset;
use crate::python::vectorcall::guard;
use crate::python::{FfiResult, Ref};

/// The file name of the code object.
const FILE: &CStr = c"<hybridloop>";
const FIRST_LINE: c_int = 1;

pub fn attributes<T: Operation>() -> Vec<PyGetSetDef> {
    vec![
        getset(c"__name__", get_name::<T>, None),
        getset(c"__qualname__", get_qualname::<T>, None),
        getset(c"cr_await", get_await::<T>, None),
        getset(c"cr_code", get_code::<T>, None),
        getset(c"cr_frame", get_frame::<T>, None),
        getset(c"cr_origin", get_origin, None),
        getset(c"cr_running", get_running::<T>, None),
        getset(c"cr_state", get_state::<T>, None),
        getset(c"cr_suspended", get_suspended::<T>, None),
    ]
}

/// The last part of a qualified name.
pub fn last_part(name: &'static CStr) -> String {
    let name = name.to_string_lossy();
    name.rsplit('.').next().unwrap_or_default().to_owned()
}

/// A code object with that qualified name.
pub fn code_of<'py>(py: Python<'py>, name: &'static CStr) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: `py` proves that the thread is attached. Both are C strings. The result is a new reference, or null after an
    // error.
    let code = unsafe {
        let code = ffi::PyCode_NewEmpty(FILE.as_ptr(), name.as_ptr(), FIRST_LINE);
        Bound::from_owned_ptr_or_err(py, code.cast())?
    };
    let names = PyDict::new(py);
    names.set_item("co_name", last_part(name))?;
    names.set_item("co_qualname", name.to_string_lossy())?;
    code.call_method("replace", (), Some(&names))
}

/// A frame for that code, which no thread runs.
pub fn frame_of<'py>(py: Python<'py>, name: &'static CStr) -> PyResult<Bound<'py, PyAny>> {
    let code = code_of(py, name)?;
    let globals = PyDict::new(py);
    // SAFETY: `py` proves that the thread is attached, and `code` is a code object. The result is a new reference or null.
    unsafe {
        let frame = ffi::PyFrame_New(
            ffi::PyThreadState_Get(),
            code.as_ptr().cast(),
            globals.as_ptr(),
            ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(py, frame.cast())
    }
}

pub unsafe extern "C" fn repr<T: Operation>(slf: *mut PyObject) -> *mut PyObject {
    guard(|| {
        // SAFETY: `slf` is a live coroutine of `T`: CPython passes the receiver of a slot of its class.
        let (py, name) = unsafe { (Python::assume_attached(), of::<T>(slf).name) };
        let text = format!("<coroutine object {} at {slf:p}>", name.to_string_lossy());
        Ok(PyString::new(py, &text).into())
    })
}

/// An attribute made of the coroutine's name and state.
///
/// # Safety
/// `slf` is a live coroutine of `T`.
unsafe fn get<T: Operation>(
    slf: *mut PyObject,
    make: impl FnOnce(Python<'_>, &'static CStr, State) -> FfiResult<Ref>,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: the caller guarantees a live coroutine of `T`, and CPython calls getters attached.
        let (py, this) = unsafe { (Python::assume_attached(), of::<T>(slf)) };
        make(py, this.name, this.state.get())
    })
}

unsafe extern "C" fn get_qualname<T: Operation>(
    slf: *mut PyObject,
    _: *mut c_void,
) -> *mut PyObject {
    // SAFETY: `slf` is a live coroutine of `T`: CPython passes the attribute's owner, whose class the descriptor has checked.
    unsafe {
        get::<T>(slf, |py, name, _| {
            Ok(PyString::new(py, &name.to_string_lossy()).into())
        })
    }
}

unsafe extern "C" fn get_name<T: Operation>(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: `slf` is a live coroutine of `T`: CPython passes the attribute's owner, whose class the descriptor has checked.
    unsafe {
        get::<T>(slf, |py, name, _| {
            Ok(PyString::new(py, &last_part(name)).into())
        })
    }
}

unsafe extern "C" fn get_await<T: Operation>(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: `slf` is a live coroutine of `T`: CPython passes the attribute's owner, whose class the descriptor has checked.
    unsafe { of::<T>(slf) }
        .future
        .get()
        .unwrap_or_else(Ref::none)
        .into_ptr()
}

unsafe extern "C" fn get_code<T: Operation>(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: `slf` is a live coroutine of `T`: CPython passes the attribute's owner, whose class the descriptor has checked.
    unsafe { get::<T>(slf, |py, name, _| Ok(code_of(py, name)?.into())) }
}

unsafe extern "C" fn get_frame<T: Operation>(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: `slf` is a live coroutine of `T`: CPython passes the attribute's owner, whose class the descriptor has checked.
    unsafe {
        get::<T>(slf, |py, name, state| match state {
            State::Finished => Ok(Ref::none()),
            _ => Ok(frame_of(py, name)?.into()),
        })
    }
}

/// Where the coroutine was made, which is not recorded.
unsafe extern "C" fn get_origin(_: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    Ref::none().into_ptr()
}

unsafe extern "C" fn get_running<T: Operation>(
    slf: *mut PyObject,
    _: *mut c_void,
) -> *mut PyObject {
    // SAFETY: `slf` is a live coroutine of `T`: CPython passes the attribute's owner, whose class the descriptor has checked.
    unsafe { get::<T>(slf, |_, _, state| Ok(Ref::bool(state == State::Running))) }
}

unsafe extern "C" fn get_suspended<T: Operation>(
    slf: *mut PyObject,
    _: *mut c_void,
) -> *mut PyObject {
    // SAFETY: `slf` is a live coroutine of `T`: CPython passes the attribute's owner, whose class the descriptor has checked.
    unsafe { get::<T>(slf, |_, _, state| Ok(Ref::bool(state.is_suspended()))) }
}

/// The state by the name that `inspect.getcoroutinestate()` gives it; Python 3.15 and later read it.
unsafe extern "C" fn get_state<T: Operation>(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    let name = |state| match state {
        State::Fresh => "CORO_CREATED",
        State::Running => "CORO_RUNNING",
        State::Waiting | State::Awaiting => "CORO_SUSPENDED",
        State::Finished => "CORO_CLOSED",
    };
    // SAFETY: `slf` is a live coroutine of `T`: CPython passes the attribute's owner, whose class the descriptor has checked.
    unsafe {
        get::<T>(
            slf,
            |py, _, state| Ok(PyString::new(py, name(state)).into()),
        )
    }
}
