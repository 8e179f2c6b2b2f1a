//! `async with` and `async for`: the methods that they call, and their errors.

use std::ffi::CStr;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::python::stdlib::Stdlib;
use crate::python::{awaitable, ErrSet, FfiResult, Ref};

/// `__aenter__` and `__aexit__` of an object, bound.
pub fn context_manager(manager: &Ref) -> FfiResult<(Ref, Ref)> {
    let names = &Stdlib::get().names;
    let find = |name: &Ref, text: &str| {
        special_method(manager, name)?.ok_or_else(|| -> ErrSet {
            let class = class_name(manager);
            PyTypeError::new_err(format!(
                "'{class}' object does not support the asynchronous context manager protocol (missed {text} method)"
            ))
            .into()
        })
    };
    let enter = find(&names.__aenter__, "__aenter__")?;
    let exit = find(&names.__aexit__, "__aexit__")?;
    Ok((enter, exit))
}

/// A method of an object's class, bound to the object, as the interpreter looks up special methods.
fn special_method(object: &Ref, name: &Ref) -> FfiResult<Option<Ref>> {
    // SAFETY: the holder of a `Ref` is attached.
    let py = unsafe { Python::assume_attached() };
    let class = object.bind(py).get_type();
    for base in class.mro() {
        let contents = base.getattr("__dict__")?;
        if !contents.contains(name.bind(py))? {
            continue;
        }
        let found = Ref::from(contents.get_item(name.bind(py))?);
        // SAFETY: `found`, the object and its class are live. The result is a new reference, or null after an error.
        return unsafe {
            match (*ffi::Py_TYPE(found.as_ptr())).tp_descr_get {
                Some(get) => Ref::new(get(found.as_ptr(), object.as_ptr(), class.as_ptr())),
                None => Ok(found),
            }
        }
        .map(Some);
    }
    Ok(None)
}

/// `aiter(iterable)`, as `async for` calls it.
pub fn async_iterator(iterable: &Ref) -> FfiResult<Ref> {
    // SAFETY: the holder of a `Ref` is attached, and its object is live. The result is a new reference, or null after an error.
    unsafe {
        let methods = (*ffi::Py_TYPE(iterable.as_ptr())).tp_as_async;
        let Some(aiter) = methods.as_ref().and_then(|methods| methods.am_aiter) else {
            return Err(type_error(
                "'async for' requires an object with __aiter__ method, got",
                iterable,
            ));
        };
        let iterator = Ref::new(aiter(iterable.as_ptr()))?;
        let methods = (*ffi::Py_TYPE(iterator.as_ptr())).tp_as_async;
        if methods
            .as_ref()
            .and_then(|methods| methods.am_anext)
            .is_none()
        {
            return Err(type_error(
                "'async for' received an object from __aiter__ that does not implement __anext__:",
                &iterator,
            ));
        }
        Ok(iterator)
    }
}

/// Whether an object is async iterable.
pub fn check_iterable(iterable: &Ref) -> FfiResult<()> {
    // SAFETY: the holder of a `Ref` is attached, and its object is live.
    let methods = unsafe { (*ffi::Py_TYPE(iterable.as_ptr())).tp_as_async.as_ref() };
    match methods.and_then(|methods| methods.am_aiter) {
        Some(_) => Ok(()),
        None => Err(type_error(
            "'async for' requires an object with __aiter__ method, got",
            iterable,
        )),
    }
}

/// The iterator of the awaitable that `__anext__()` returns.
pub fn next(iterator: &Ref) -> FfiResult<Ref> {
    // SAFETY: the holder of a `Ref` is attached, and its object is live. The result is a new reference, or null after an error.
    let item = unsafe {
        let methods = (*ffi::Py_TYPE(iterator.as_ptr())).tp_as_async;
        match methods.as_ref().and_then(|methods| methods.am_anext) {
            Some(anext) => Ref::new(anext(iterator.as_ptr()))?,
            // The class has changed since.
            None => {
                return Err(type_error(
                    "'async for' requires an iterator with __anext__ method, got",
                    iterator,
                ))
            }
        }
    };
    if !awaitable::is_awaitable(&item) {
        return Err(type_error(
            "'async for' received an invalid object from __anext__:",
            &item,
        ));
    }
    awaitable::iterator(&item)
}

#[cold]
fn type_error(text: &str, object: &Ref) -> ErrSet {
    PyTypeError::new_err(format!("{text} {}", class_name(object))).into()
}

fn class_name(object: &Ref) -> String {
    // SAFETY: the holder of a `Ref` is attached, and its object is live. A type has a name.
    unsafe {
        let name = CStr::from_ptr((*ffi::Py_TYPE(object.as_ptr())).tp_name);
        name.to_string_lossy().into_owned()
    }
}
