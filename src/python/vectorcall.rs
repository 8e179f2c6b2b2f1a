//! Methods called through CPython's fast-call convention: arguments arrive as a C array.

use std::ffi::{c_int, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::python::refs::Ref;

/// The Python error indicator is set.
#[derive(Debug, Clone, Copy)]
pub struct ErrSet;

/// What calls into CPython give: the error itself waits in the interpreter.
pub type FfiResult<T> = Result<T, ErrSet>;

impl From<PyErr> for ErrSet {
    #[cold]
    fn from(error: PyErr) -> Self {
        // SAFETY: code in this module runs attached.
        error.restore(unsafe { Python::assume_attached() });
        Self
    }
}

impl From<ErrSet> for PyErr {
    #[cold]
    fn from(_: ErrSet) -> Self {
        // SAFETY: code in this module runs attached.
        PyErr::fetch(unsafe { Python::assume_attached() })
    }
}

/// Positional and keyword arguments of a fast call.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    pub positional: &'a [*mut PyObject],
    names: *mut PyObject,
    values: *const *mut PyObject,
}

impl<'a> Args<'a> {
    /// # Safety
    /// The three arguments are those CPython passed to a `METH_FASTCALL | METH_KEYWORDS` function.
    #[inline]
    pub unsafe fn new(args: *const *mut PyObject, n: isize, names: *mut PyObject) -> Self {
        let n = n.unsigned_abs();
        Self {
            positional: if n == 0 {
                &[]
            } else {
                // SAFETY: CPython passes `n` positional arguments.
                unsafe { std::slice::from_raw_parts(args, n) }
            },
            names,
            // The keyword values follow the positional arguments in the same array.
            values: args.wrapping_add(n),
        }
    }

    /// Keyword arguments by name.
    #[inline]
    pub fn keywords(&self) -> impl Iterator<Item = (*mut PyObject, *mut PyObject)> + use<'a> {
        let (names, values) = (self.names, self.values);
        let n = if names.is_null() {
            0
        } else {
            // SAFETY: `names` is a tuple.
            unsafe { ffi::PyTuple_GET_SIZE(names) }
        };
        // SAFETY: a tuple of `n` names comes with `n` values.
        (0..n).map(move |i| unsafe { (ffi::PyTuple_GET_ITEM(names, i), *values.offset(i)) })
    }

    #[inline]
    pub fn has_keywords(&self) -> bool {
        !self.names.is_null()
    }

    /// The number of keyword arguments.
    pub fn keyword_count(&self) -> usize {
        self.keywords().count()
    }
}

/// Runs the body of a C entry point: errors set the error indicator, and a panic becomes a Python exception, because
/// one that crossed the C frame would abort the process.
#[inline]
pub fn guard(body: impl FnOnce() -> FfiResult<Ref>) -> *mut PyObject {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => value.into_ptr(),
        Ok(Err(ErrSet)) => std::ptr::null_mut(),
        Err(panic) => raise_panic(&*panic),
    }
}

/// As [`guard`], for entry points that return a status.
#[inline]
pub fn guard_int(body: impl FnOnce() -> FfiResult<()>) -> c_int {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(ErrSet)) => -1,
        Err(panic) => {
            raise_panic(&*panic);
            -1
        }
    }
}

#[cold]
fn raise_panic(panic: &(dyn std::any::Any + Send)) -> *mut PyObject {
    let text = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    let _ = ErrSet::from(PyRuntimeError::new_err(format!(
        "internal error in hybridloop, please report it: {text}"
    )));
    std::ptr::null_mut()
}

/// `TypeError` in the words CPython uses for a missing argument.
#[cold]
pub fn missing(function: &str, argument: &str) -> ErrSet {
    PyTypeError::new_err(format!(
        "{function}() missing 1 required positional argument: '{argument}'"
    ))
    .into()
}

/// `TypeError` in the words CPython uses for an argument it does not know.
#[cold]
pub fn unexpected(function: &str, name: *mut PyObject) -> ErrSet {
    // SAFETY: keyword names are live strings, and this runs attached.
    let name = unsafe { Bound::from_borrowed_ptr(Python::assume_attached(), name) };
    PyTypeError::new_err(format!(
        "{function}() got an unexpected keyword argument '{name}'"
    ))
    .into()
}

/// Wraps `fn(*mut PyObject, Args) -> FfiResult<Ref>` as a `METH_FASTCALL | METH_KEYWORDS` method.
///
/// Here and in its kin a third argument is `fn(*mut PyObject) -> FfiResult<()>`, which refuses calls of other threads than the
/// one that runs the loop. Only free-threaded builds ask it.
#[macro_export]
macro_rules! fastcall {
    ($name:literal, $body:path $(, $check_thread:path)?) => {{
        unsafe extern "C" fn entry(
            slf: *mut pyo3::ffi::PyObject,
            args: *const *mut pyo3::ffi::PyObject,
            n: isize,
            names: *mut pyo3::ffi::PyObject,
        ) -> *mut pyo3::ffi::PyObject {
            // SAFETY: CPython passes what the convention says.
            $crate::python::vectorcall::guard(|| unsafe {
                $(if cfg!(Py_GIL_DISABLED) {
                    $check_thread(slf)?;
                })?
                $body(slf, $crate::python::Args::new(args, n, names))
            })
        }
        $crate::python::vectorcall::Method {
            name: $name,
            meth: pyo3::ffi::PyMethodDefPointer {
                PyCFunctionFastWithKeywords: entry,
            },
            flags: pyo3::ffi::METH_FASTCALL | pyo3::ffi::METH_KEYWORDS,
        }
    }};
}

/// Wraps `fn(*mut PyObject) -> FfiResult<Ref>` as a `METH_NOARGS` method.
#[macro_export]
macro_rules! noargs {
    ($name:literal, $body:path $(, $check_thread:path)?) => {{
        unsafe extern "C" fn entry(
            slf: *mut pyo3::ffi::PyObject,
            _: *mut pyo3::ffi::PyObject,
        ) -> *mut pyo3::ffi::PyObject {
            // SAFETY: CPython passes a live `self`.
            $crate::python::vectorcall::guard(|| unsafe {
                $(if cfg!(Py_GIL_DISABLED) {
                    $check_thread(slf)?;
                })?
                $body(slf)
            })
        }
        $crate::python::vectorcall::Method {
            name: $name,
            meth: pyo3::ffi::PyMethodDefPointer { PyCFunction: entry },
            flags: pyo3::ffi::METH_NOARGS,
        }
    }};
}

/// Wraps `fn(*mut PyObject, *mut PyObject) -> FfiResult<Ref>` as a `METH_O` method.
#[macro_export]
macro_rules! onearg {
    ($name:literal, $body:path $(, $check_thread:path)?) => {{
        unsafe extern "C" fn entry(
            slf: *mut pyo3::ffi::PyObject,
            arg: *mut pyo3::ffi::PyObject,
        ) -> *mut pyo3::ffi::PyObject {
            // SAFETY: CPython passes a live `self` and argument.
            $crate::python::vectorcall::guard(|| unsafe {
                $(if cfg!(Py_GIL_DISABLED) {
                    $check_thread(slf)?;
                })?
                $body(slf, arg)
            })
        }
        $crate::python::vectorcall::Method {
            name: $name,
            meth: pyo3::ffi::PyMethodDefPointer { PyCFunction: entry },
            flags: pyo3::ffi::METH_O,
        }
    }};
}

/// One method before it has its documentation.
pub struct Method {
    pub name: &'static CStr,
    pub meth: ffi::PyMethodDefPointer,
    pub flags: c_int,
}

impl Method {
    /// The definition with its text signature and documentation, for CPython to keep for good.
    pub fn def(&self, doc: &CStr) -> ffi::PyMethodDef {
        ffi::PyMethodDef {
            ml_name: self.name.as_ptr(),
            ml_meth: self.meth,
            ml_flags: self.flags,
            ml_doc: doc.as_ptr(),
        }
    }
}
