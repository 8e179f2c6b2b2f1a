//! Arguments of native methods by position or name, as Python functions take them.

use std::ffi::CStr;
use std::ptr;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi::{self, PyObject};

use crate::python::vectorcall::{missing, unexpected, ErrSet, FfiResult};
use crate::python::Args;

/// A parameter without a type.
#[derive(Clone, Copy)]
pub struct Parameter {
    name: &'static CStr,
    also: Option<&'static CStr>,
    needed: bool,
}

impl Parameter {
    pub const fn needed(name: &'static CStr) -> Self {
        Self {
            name,
            also: None,
            needed: true,
        }
    }

    pub const fn optional(name: &'static CStr) -> Self {
        Self {
            name,
            also: None,
            needed: false,
        }
    }

    /// Another name for it.
    pub const fn or(self, name: &'static CStr) -> Self {
        Self {
            also: Some(name),
            ..self
        }
    }

    unsafe fn is_called(&self, name: *mut PyObject) -> bool {
        [Some(self.name), self.also].iter().flatten().any(|known| {
            // SAFETY: the name of a keyword is a live string.
            unsafe { ffi::PyUnicode_CompareWithASCIIString(name, known.as_ptr()) == 0 }
        })
    }
}

/// The arguments in the order of the parameters; null for an optional one that is not given.
///
/// # Safety
/// The arguments are those of the call under way.
#[inline]
pub unsafe fn bind<const N: usize>(
    function: &[u8],
    parameters: [Parameter; N],
    args: &Args<'_>,
) -> FfiResult<[*mut PyObject; N]> {
    let mut found = [ptr::null_mut(); N];
    if args.positional.len() > N {
        return Err(too_many(function, N, args.positional.len()));
    }
    found[..args.positional.len()].copy_from_slice(args.positional);
    if args.positional.len() == N && !args.has_keywords() {
        return Ok(found);
    }
    for (name, value) in args.keywords() {
        // SAFETY: the caller's promise.
        let at = parameters
            .iter()
            .position(|parameter| unsafe { parameter.is_called(name) });
        let Some(at) = at else {
            return Err(unexpected(&String::from_utf8_lossy(function), name));
        };
        if !found[at].is_null() {
            return Err(twice(function, parameters[at].name));
        }
        found[at] = value;
    }
    for (parameter, value) in parameters.iter().zip(&found) {
        if parameter.needed && value.is_null() {
            let function = String::from_utf8_lossy(function);
            return Err(missing(&function, &parameter.name.to_string_lossy()));
        }
    }
    Ok(found)
}

#[cold]
fn too_many(function: &[u8], most: usize, given: usize) -> ErrSet {
    PyTypeError::new_err(format!(
        "{}() takes {} positional arguments but {} were given",
        String::from_utf8_lossy(function),
        most + 1,
        given + 1
    ))
    .into()
}

#[cold]
fn twice(function: &[u8], name: &CStr) -> ErrSet {
    PyTypeError::new_err(format!(
        "{}() got multiple values for argument '{}'",
        String::from_utf8_lossy(function),
        name.to_string_lossy()
    ))
    .into()
}
