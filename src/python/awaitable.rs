//! What `await` does with an object: its iterator, and driving that.

use std::ffi::CStr;
use std::ptr;
use std::sync::OnceLock;

use pyo3::exceptions::{PyAttributeError, PyRuntimeError, PyTypeError};
use pyo3::ffi::{self, PyObject, PySendResult};
use pyo3::prelude::*;

use crate::python::once::get_or_try_set;
use crate::python::stdlib::Stdlib;
use crate::python::stop_iteration::take_result;
use crate::python::{ErrSet, FfiResult, Ref};

/// `CO_ITERABLE_COROUTINE`: the code of a generator that `types.coroutine()` has made.
pub const ITERABLE_COROUTINE: std::ffi::c_int = 0x100;

/// What an iterator has done with a value.
pub enum Sent {
    Yielded(Ref),
    Returned(Ref),
    Raised(ErrSet),
}

impl Sent {
    /// The result of `tp_iternext`, `send()` or `throw()`, which return by `StopIteration`.
    fn new(yielded: FfiResult<Ref>) -> Self {
        match yielded {
            Ok(value) => Self::Yielded(value),
            Err(raised) => Self::raised(raised),
        }
    }

    #[cold]
    fn raised(_: ErrSet) -> Self {
        match take_result() {
            Ok(value) => Self::Returned(value),
            Err(raised) => Self::Raised(raised),
        }
    }
}

/// Whether `await` takes the object.
pub fn is_awaitable(object: &Ref) -> bool {
    // SAFETY: the holder of a `Ref` is attached, and its object is live.
    unsafe {
        let ty = ffi::Py_TYPE(object.as_ptr());
        let methods = (*ty).tp_as_async;
        (!methods.is_null() && (*methods).am_await.is_some()) || is_iterable_coroutine(object)
    }
}

/// Whether the object is a generator that `types.coroutine()` has made.
fn is_iterable_coroutine(object: &Ref) -> bool {
    // SAFETY: the holder of a `Ref` is attached, and its object is live.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: the object is live.
    if unsafe { ffi::PyGen_CheckExact(object.as_ptr()) } == 0 {
        return false;
    }
    let flags = object
        .bind(py)
        .getattr("gi_code")
        .and_then(|code| code.getattr("co_flags")?.extract::<std::ffi::c_int>());
    flags.is_ok_and(|flags| flags & ITERABLE_COROUTINE != 0)
}

/// The iterator that `await object` drives.
///
/// # Errors
/// Those of `await`: `TypeError` if the object is not awaitable, or if its `__await__()` gives no iterator or a coroutine;
/// `RuntimeError` if it is a coroutine that is being awaited.
pub fn iterator(object: &Ref) -> FfiResult<Ref> {
    // SAFETY: the holder of a `Ref` is attached, and its object is live.
    unsafe {
        if ffi::PyCoro_CheckExact(object.as_ptr()) != 0 {
            check_not_awaited(object)?;
            return Ok(object.clone());
        }
        let methods = (*ffi::Py_TYPE(object.as_ptr())).tp_as_async;
        if let Some(am_await) = methods.as_ref().and_then(|methods| methods.am_await) {
            let iterator = Ref::new(am_await(object.as_ptr()))?;
            return check_iterator(object, iterator);
        }
    }
    if is_iterable_coroutine(object) {
        return Ok(object.clone());
    }
    Err(not_awaitable(object))
}

/// The `TypeError` of `await`.
#[cold]
pub fn not_awaitable(object: &Ref) -> ErrSet {
    let text = if cfg!(Py_3_14) {
        format!("'{}' object can't be awaited", class_name(object))
    } else {
        format!(
            "object {} can't be used in 'await' expression",
            class_name(object)
        )
    };
    PyTypeError::new_err(text).into()
}

fn class_name(object: &Ref) -> String {
    // SAFETY: the holder of a `Ref` is attached, and its object is live. A type has a name.
    unsafe {
        let name = CStr::from_ptr((*ffi::Py_TYPE(object.as_ptr())).tp_name);
        name.to_string_lossy().into_owned()
    }
}

fn check_iterator(object: &Ref, iterator: Ref) -> FfiResult<Ref> {
    // SAFETY: the holder of a `Ref` is attached, and its object is live.
    let (is_coroutine, is_iterator) = unsafe {
        let object = iterator.as_ptr();
        (
            ffi::PyCoro_CheckExact(object) != 0,
            ffi::PyIter_Check(object) != 0,
        )
    };
    if is_coroutine || is_iterable_coroutine(&iterator) {
        return Err(no_iterator(object, "coroutine", None));
    }
    if !is_iterator {
        return Err(no_iterator(object, "iterator", Some(&iterator)));
    }
    Ok(iterator)
}

/// The `TypeError` of `await` for what `__await__()` has returned.
#[cold]
fn no_iterator(object: &Ref, returned: &str, other: Option<&Ref>) -> ErrSet {
    // SAFETY: the holder of a `Ref` is attached.
    let py = unsafe { Python::assume_attached() };
    let full_name = |object: &Ref| {
        let name = object.bind(py).get_type().fully_qualified_name();
        name.map_or_else(|_| class_name(object), |name| name.to_string())
    };
    let text = match other {
        _ if cfg!(Py_3_15) => format!(
            "{}.__await__() must return an iterator, not {}",
            full_name(object),
            other.map_or_else(|| returned.to_owned(), full_name)
        ),
        None => format!("__await__() returned a {returned}"),
        Some(other) => format!(
            "__await__() returned non-{returned} of type '{}'",
            class_name(other)
        ),
    };
    PyTypeError::new_err(text).into()
}

/// Raises if another coroutine is suspended in this one, a coroutine of Python.
fn check_not_awaited(coroutine: &Ref) -> FfiResult<()> {
    static GETTER: OnceLock<Option<ffi::getter>> = OnceLock::new();
    // SAFETY: the holder of a `Ref` is attached, and its object is a coroutine, as the getter needs it.
    let awaited = unsafe {
        let find = || Ok::<_, ErrSet>(find_getter(&raw const ffi::PyCoro_Type, c"cr_await"));
        match get_or_try_set(&GETTER, find)? {
            Some(get) => Ref::new(get(coroutine.as_ptr(), ptr::null_mut()))?,
            None => Ref::new(ffi::PyObject_GetAttrString(
                coroutine.as_ptr(),
                c"cr_await".as_ptr(),
            ))?,
        }
    };
    // SAFETY: `None` is always live.
    if awaited.as_ptr() != unsafe { ffi::Py_None() } {
        return Err(PyRuntimeError::new_err("coroutine is being awaited already").into());
    }
    Ok(())
}

/// The function of a type's attribute.
///
/// # Safety
/// `ty` is a live type.
unsafe fn find_getter(ty: *const ffi::PyTypeObject, name: &CStr) -> Option<ffi::getter> {
    // SAFETY: the caller guarantees a type; its table, if there is one, ends with a null name.
    unsafe {
        let mut attribute = (*ty).tp_getset;
        while !attribute.is_null() && !(*attribute).name.is_null() {
            if CStr::from_ptr((*attribute).name) == name && (*attribute).closure.is_null() {
                return (*attribute).get;
            }
            attribute = attribute.add(1);
        }
    }
    None
}

/// One level of recursion, until it is dropped. Calls of methods are levels of their own.
struct Level(());

impl Level {
    /// # Errors
    /// `RecursionError` at the limit.
    #[inline]
    fn enter() -> FfiResult<Self> {
        // SAFETY: the callers are attached; the text is a C string.
        match unsafe { ffi::Py_EnterRecursiveCall(c" while awaiting".as_ptr()) } {
            0 => Ok(Self(())),
            _ => Err(ErrSet),
        }
    }
}

impl Drop for Level {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `enter` has succeeded, in this thread.
        unsafe { ffi::Py_LeaveRecursiveCall() };
    }
}

/// Sends a value into an iterator.
#[inline]
pub fn send(iterator: &Ref, value: *mut PyObject) -> Sent {
    let _level = match Level::enter() {
        Ok(level) => level,
        Err(raised) => return Sent::Raised(raised),
    };
    let mut result = ptr::null_mut();
    // SAFETY: the holder of a `Ref` is attached, and its object is live, as is `value`.
    let sent = unsafe { ffi::PyIter_Send(iterator.as_ptr(), value, &raw mut result) };
    // SAFETY: the call sets a new reference, or null after an error.
    match (sent, unsafe { Ref::new(result) }) {
        (PySendResult::PYGEN_NEXT, Ok(value)) => Sent::Yielded(value),
        (PySendResult::PYGEN_RETURN, Ok(value)) => Sent::Returned(value),
        _ => Sent::Raised(ErrSet),
    }
}

/// Calls `iterator.throw(*arguments)`; `None` if it has no such method.
pub fn throw(iterator: &Ref, arguments: &[*mut PyObject]) -> Option<Sent> {
    let throw = match method(iterator, &Stdlib::get().names.throw) {
        Ok(Some(throw)) => throw,
        Ok(None) => return None,
        Err(raised) => return Some(Sent::Raised(raised)),
    };
    // SAFETY: the holder of a `Ref` is attached, and its object is live, as are the arguments.
    let yielded = unsafe {
        Ref::new(ffi::PyObject_Vectorcall(
            throw.as_ptr(),
            arguments.as_ptr(),
            arguments.len(),
            ptr::null_mut(),
        ))
    };
    Some(Sent::new(yielded))
}

/// Calls `close()` of an iterator or coroutine that has it.
pub fn close(object: &Ref) -> FfiResult<()> {
    let Some(close) = method(object, &Stdlib::get().names.close)? else {
        return Ok(());
    };
    // SAFETY: the holder of a `Ref` is attached, and its object is live.
    unsafe { Ref::new(ffi::PyObject_CallNoArgs(close.as_ptr())) }.map(drop)
}

/// Whether closing the object is what one does with a coroutine that is not needed any more.
pub fn is_coroutine(object: &Ref) -> bool {
    // SAFETY: the holder of a `Ref` is attached, and its object is live.
    if unsafe { ffi::PyCoro_CheckExact(object.as_ptr()) } != 0 {
        return true;
    }
    // SAFETY: the holder of a `Ref` is attached.
    let py = unsafe { Python::assume_attached() };
    let class = Stdlib::get().coroutine.bind(py);
    match object.bind(py).is_instance(class) {
        Ok(is_coroutine) => is_coroutine || is_iterable_coroutine(object),
        Err(error) => {
            error.write_unraisable(py, Some(object.bind(py)));
            false
        }
    }
}

fn method(object: &Ref, name: &Ref) -> FfiResult<Option<Ref>> {
    // SAFETY: the holder of a `Ref` is attached.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: the object and the name are live. The result is a new reference, or null after an error.
    match unsafe { Ref::new(ffi::PyObject_GetAttr(object.as_ptr(), name.as_ptr())) } {
        Ok(method) => Ok(Some(method)),
        Err(ErrSet) => {
            let error = PyErr::fetch(py);
            if error.is_instance_of::<PyAttributeError>(py) {
                return Ok(None);
            }
            Err(error.into())
        }
    }
}
