//! The one argument that most methods of streams take.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::python::vectorcall::{missing, unexpected};
use crate::python::{Args, FfiResult, Ref};

/// The argument `name`, which may be left out.
#[inline]
pub fn optional(args: &Args<'_>, function: &str, name: &str) -> FfiResult<Option<Ref>> {
    match (args.positional, args.keyword_count()) {
        // SAFETY: arguments are live during the call.
        (&[value], 0) => Ok(Some(unsafe { Ref::borrowed(value) })),
        ([], 0) => Ok(None),
        _ => by_keyword(args, function, name),
    }
}

/// The argument `name`.
#[inline]
pub fn required(args: &Args<'_>, function: &str, name: &str) -> FfiResult<*mut PyObject> {
    match (args.positional, args.keyword_count()) {
        (&[value], 0) => Ok(value),
        _ => match by_keyword(args, function, name)? {
            // The caller's array holds it as well.
            Some(value) => Ok(value.as_ptr()),
            None => Err(missing(function, name)),
        },
    }
}

#[cold]
fn by_keyword(args: &Args<'_>, function: &str, name: &str) -> FfiResult<Option<Ref>> {
    let given = args.positional.len() + args.keyword_count();
    if given > 1 {
        return Err(PyTypeError::new_err(format!(
            "{function}() takes at most 1 argument ({given} given)"
        ))
        .into());
    }
    let Some((key, value)) = args.keywords().next() else {
        return Ok(None);
    };
    // SAFETY: attached; keyword names are live strings, and arguments are live during the call.
    unsafe {
        let wanted = pyo3::types::PyString::intern(Python::assume_attached(), name);
        if key != wanted.as_ptr() && ffi::PyUnicode_Compare(key, wanted.as_ptr()) != 0 {
            return Err(unexpected(function, key));
        }
        Ok(Some(Ref::borrowed(value)))
    }
}
