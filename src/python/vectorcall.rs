//! Methods called through CPython's fast-call convention: arguments arrive as a C array.

use std::ffi::{c_int, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::python::refs::Ref;

/// The Python error indicator is set.
#[derive(Debug, Clone, Copy)]
pub struct ErrSet;

/// The result of calls into CPython. The exception itself is in the error indicator.
pub type FfiResult<T> = Result<T, ErrSet>;

impl From<PyErr> for ErrSet {
    #[cold]
    fn from(error: PyErr) -> Self {
        // SAFETY: code of this folder runs in attached threads.
        error.restore(unsafe { Python::assume_attached() });
        Self
    }
}

impl From<ErrSet> for PyErr {
    #[cold]
    fn from(_: ErrSet) -> Self {
        // SAFETY: an `ErrSet` is made only in attached threads, by a call that has set the error indicator.
        PyErr::fetch(unsafe { Python::assume_attached() })
    }
}

/// The error with its exception object made.
///
/// PyO3 makes it when it is first asked for, and gives the interpreter away meanwhile. If the interpreter is finalized then, a
/// daemon thread panics, because PyO3 does not attach any more.
pub fn normalized(error: PyErr) -> PyErr {
    PyErr::from(ErrSet::from(error))
}

/// Runs `body`, a destructor that may run Python code, also while an exception is set: that stays, and another one is reported.
///
/// # Safety
/// The thread is attached.
#[cold]
pub unsafe fn keep_error(body: impl FnOnce()) {
    // SAFETY: the caller guarantees an attached thread.
    let py = unsafe { Python::assume_attached() };
    let error = PyErr::take(py);
    body();
    if let Some(raised) = PyErr::take(py) {
        raised.write_unraisable(py, None);
    }
    if let Some(error) = error {
        error.restore(py);
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
                // SAFETY: the caller guarantees that `args` are those of CPython, which begin with `n` positional arguments.
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
            // SAFETY: `new` got `names` of CPython, which passes a tuple or null.
            unsafe { ffi::PyTuple_GET_SIZE(names) }
        };
        // SAFETY: CPython passes a value for each of the `n` names, behind the positional arguments.
        (0..n).map(move |i| unsafe { (ffi::PyTuple_GET_ITEM(names, i), *values.offset(i)) })
    }

    /// Calls `function(slf, *args, **kwargs)`.
    ///
    /// # Safety
    /// `self` holds the arguments of the current call. `function` and `slf` are live objects.
    pub unsafe fn call_method(
        &self,
        function: *mut PyObject,
        slf: *mut PyObject,
    ) -> FfiResult<Ref> {
        const FEW: usize = 8;
        let positional = self.positional.len() + 1;
        // In front is a scratch slot for the callee.
        let count = 1 + positional + self.keyword_count();
        let (mut few, mut many) = ([ptr::null_mut(); FEW], Vec::new());
        let arguments = if count <= FEW {
            &mut few[..]
        } else {
            many.resize(count, ptr::null_mut());
            &mut many[..]
        };
        arguments[1] = slf;
        arguments[2..=positional].copy_from_slice(self.positional);
        for (slot, (_, value)) in arguments[positional + 1..].iter_mut().zip(self.keywords()) {
            *slot = value;
        }
        // SAFETY: the caller guarantees that all objects are live and that the thread is attached. The values of the keywords
        // follow the positional arguments in the order of their names. The result is a new reference or null.
        unsafe {
            Ref::new(ffi::PyObject_Vectorcall(
                function,
                arguments.as_ptr().add(1),
                positional | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
                self.names,
            ))
        }
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

/// Like [`guard`], for entry points that return a status.
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

/// The `TypeError` of CPython for a missing argument.
#[cold]
pub fn missing(function: &str, argument: &str) -> ErrSet {
    PyTypeError::new_err(format!(
        "{function}() missing 1 required positional argument: '{argument}'"
    ))
    .into()
}

/// The `TypeError` of CPython for an unexpected keyword argument.
#[cold]
pub fn unexpected(function: &str, name: *mut PyObject) -> ErrSet {
    // SAFETY: CPython calls methods attached, and passes names of keywords as live strings.
    let name = unsafe { Bound::from_borrowed_ptr(Python::assume_attached(), name) };
    PyTypeError::new_err(format!(
        "{function}() got an unexpected keyword argument '{name}'"
    ))
    .into()
}

/// Wraps `fn(*mut PyObject, Args) -> FfiResult<Ref>` as a `METH_FASTCALL | METH_KEYWORDS` method.
///
/// Here and in the related macros the optional third argument is `fn(*mut PyObject) -> FfiResult<()>`. It raises in threads
/// other than the loop's. Only free-threaded builds call it.
#[macro_export]
macro_rules! fastcall {
    ($name:literal, $body:path $(, $check_thread:path)?) => {{
        unsafe extern "C" fn entry(
            slf: *mut pyo3::ffi::PyObject,
            args: *const *mut pyo3::ffi::PyObject,
            n: isize,
            names: *mut pyo3::ffi::PyObject,
        ) -> *mut pyo3::ffi::PyObject {
            // SAFETY: CPython calls this attached, with a live `self` and the arguments of `METH_FASTCALL | METH_KEYWORDS`.
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
            // SAFETY: CPython calls this attached, with a live `self`.
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
            // SAFETY: CPython calls this attached, with a live `self` and argument.
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

/// A method without its documentation.
pub struct Method {
    pub name: &'static CStr,
    pub meth: ffi::PyMethodDefPointer,
    pub flags: c_int,
}

impl Method {
    /// The definition with its text signature and documentation, which must live as long as the class.
    pub fn def(&self, doc: &CStr) -> ffi::PyMethodDef {
        ffi::PyMethodDef {
            ml_name: self.name.as_ptr(),
            ml_meth: self.meth,
            ml_flags: self.flags,
            ml_doc: doc.as_ptr(),
        }
    }
}
