//! The arguments of `call_soon()` and related methods: `callback, *args, context=None`, after a time for timers.

use std::ffi::CStr;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::python::args::{bind, Parameter};
use crate::python::stdlib::Stdlib;
use crate::python::vectorcall::{missing, unexpected};
use crate::python::{Args, ErrSet, FfiResult, Ref};

/// The arguments `(callback, *args, context=None)` from position `at` on.
pub struct CallbackArgs<'a> {
    pub callback: *mut PyObject,
    pub args: &'a [*mut PyObject],
    pub context: Option<Ref>,
}

/// # Safety
/// The arguments are live.
#[inline]
pub unsafe fn parse<'a>(function: &str, args: &Args<'a>, at: usize) -> FfiResult<CallbackArgs<'a>> {
    let names = &Stdlib::get().names;
    let mut callback = args.positional.get(at).copied().unwrap_or(ptr::null_mut());
    let mut context = ptr::null_mut();
    for (name, value) in args.keywords() {
        if is_context(name) {
            context = value;
        } else if callback.is_null() && is_name(name, &names.callback) {
            callback = value;
        } else {
            return Err(unexpected(function, name));
        }
    }
    if callback.is_null() {
        return Err(missing(function, "callback"));
    }
    // SAFETY: the caller guarantees live arguments.
    let context = (!context.is_null())
        .then(|| unsafe { some(context) })
        .flatten();
    Ok(CallbackArgs {
        callback,
        args: args.positional.get(at + 1..).unwrap_or(&[]),
        context,
    })
}

/// The keyword argument `context` of a method; other keywords are ignored. `None` if it is not given or is `None`.
///
/// # Safety
/// The arguments are live.
pub unsafe fn context_keyword(args: &Args<'_>) -> Option<Ref> {
    let (_, value) = args.keywords().find(|&(name, _)| is_context(name))?;
    // SAFETY: the caller guarantees live arguments.
    unsafe { some(value) }
}

/// An argument that may be `None`.
///
/// # Safety
/// The argument is live.
unsafe fn some(argument: *mut PyObject) -> Option<Ref> {
    // SAFETY: the caller guarantees that `argument` is live.
    unsafe { (argument != ffi::Py_None()).then(|| Ref::borrowed(argument)) }
}

/// Whether a keyword's name is `wanted`. Names in compiled code are interned; others are compared by content.
#[inline]
fn is_name(name: *mut PyObject, wanted: &Ref) -> bool {
    // SAFETY: CPython passes names of keywords as live strings, and `wanted` is an interned one. Comparing strings does not
    // raise.
    name == wanted.as_ptr() || unsafe { ffi::PyUnicode_Compare(name, wanted.as_ptr()) == 0 }
}

/// The name that asyncio's C code passes: always the same object, and not the interned one.
static CONTEXT: AtomicPtr<PyObject> = AtomicPtr::new(ptr::null_mut());

/// Whether a keyword's name is `context`. The first such name that is not interned is kept, so that later calls compare
/// addresses.
#[inline]
fn is_context(name: *mut PyObject) -> bool {
    let interned = &Stdlib::get().names.context;
    if name == interned.as_ptr() || name == CONTEXT.load(Ordering::Relaxed) {
        return true;
    }
    let equal = is_name(name, interned);
    if equal && CONTEXT.load(Ordering::Relaxed).is_null() {
        // SAFETY: CPython passes names of keywords as live strings. The reference is never released.
        let kept = unsafe { Ref::borrowed(name) }.into_ptr();
        CONTEXT.store(kept, Ordering::Relaxed);
    }
    equal
}

/// A number of seconds.
///
/// # Safety
/// The object is live.
pub unsafe fn number(object: *mut PyObject) -> FfiResult<f64> {
    // SAFETY: the caller guarantees that `object` is live. -1.0 may be a value or an error: the error indicator shows which.
    unsafe {
        let value = ffi::PyFloat_AsDouble(object);
        #[allow(clippy::float_cmp)]
        if value == -1.0 && !ffi::PyErr_Occurred().is_null() {
            return Err(ErrSet);
        }
        Ok(value)
    }
}

/// `call_later(delay=1, callback=f)`: rare, so it goes through a call with positional arguments.
///
/// # Safety
/// `slf` is a live loop, and `args` are the arguments of the current call, none of them positional.
#[cold]
pub unsafe fn by_keyword(slf: *mut PyObject, function: &CStr, args: &Args<'_>) -> FfiResult<Ref> {
    let time = if function == c"call_at" {
        c"when"
    } else {
        c"delay"
    };
    let parameters = [
        Parameter::required(time),
        Parameter::required(c"callback"),
        Parameter::optional(c"context"),
    ];
    // SAFETY: CPython calls methods attached. The caller guarantees a live loop, and that `args` are the arguments of the
    // current call, which CPython keeps alive until it returns.
    unsafe {
        let [time, callback, context] = bind(function, parameters, args)?;
        let py = Python::assume_attached();
        let positional = (
            Bound::from_borrowed_ptr(py, time),
            Bound::from_borrowed_ptr(py, callback),
        );
        let keywords = PyDict::new(py);
        if !context.is_null() {
            keywords.set_item("context", Bound::from_borrowed_ptr(py, context))?;
        }
        let name = function.to_str().unwrap_or_default();
        let slf = Bound::from_borrowed_ptr(py, slf);
        Ok(slf.call_method(name, positional, Some(&keywords))?.into())
    }
}
