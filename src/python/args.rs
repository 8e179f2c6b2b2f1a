//! Binding of call arguments to the parameters of native methods, with the errors that Python functions raise.

use std::ffi::CStr;
use std::ptr;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi::{self, PyObject};

use crate::python::vectorcall::{missing, unexpected, ErrSet, FfiResult};
use crate::python::Args;

/// A parameter.
#[derive(Clone, Copy)]
pub struct Parameter {
    name: &'static CStr,
    alias: Option<&'static CStr>,
    is_required: bool,
}

impl Parameter {
    pub const fn required(name: &'static CStr) -> Self {
        Self {
            name,
            alias: None,
            is_required: true,
        }
    }

    pub const fn optional(name: &'static CStr) -> Self {
        Self {
            name,
            alias: None,
            is_required: false,
        }
    }

    /// Adds a second name for the parameter.
    pub const fn alias(self, name: &'static CStr) -> Self {
        Self {
            alias: Some(name),
            ..self
        }
    }

    /// # Safety
    /// `name` is the name of a keyword argument of the current call.
    unsafe fn is_named(&self, name: *mut PyObject) -> bool {
        [Some(self.name), self.alias].iter().flatten().any(|own| {
            // SAFETY: CPython passes the names of keyword arguments as live strings.
            unsafe { ffi::PyUnicode_CompareWithASCIIString(name, own.as_ptr()) == 0 }
        })
    }
}

/// The arguments in the order of the parameters, given by position or by name; null for an optional one that is not given.
/// `function` is the name for errors; the class in front of it is left out. Required parameters come before optional ones.
///
/// # Safety
/// `args` are the arguments of the current call.
#[inline]
pub unsafe fn bind<const N: usize>(
    function: &CStr,
    parameters: [Parameter; N],
    args: &Args<'_>,
) -> FfiResult<[*mut PyObject; N]> {
    let required = parameters
        .iter()
        .filter(|parameter| parameter.is_required)
        .count();
    if !args.has_keywords() && (required..=N).contains(&args.positional.len()) {
        // Unlike a copy of the slice, this needs no call of `memcpy`.
        return Ok(std::array::from_fn(|index| {
            let value = args.positional.get(index);
            value.copied().unwrap_or(ptr::null_mut())
        }));
    }
    // SAFETY: the caller guarantees that `args` are the arguments of the current call.
    unsafe { bind_slow(function, &parameters, args) }
}

/// Arguments by name, or an error.
///
/// # Safety
/// `args` are the arguments of the current call.
#[cold]
unsafe fn bind_slow<const N: usize>(
    function: &CStr,
    parameters: &[Parameter; N],
    args: &Args<'_>,
) -> FfiResult<[*mut PyObject; N]> {
    let mut bound = [ptr::null_mut(); N];
    if args.positional.len() > N {
        return Err(too_many(function, parameters, args.positional.len()));
    }
    bound[..args.positional.len()].copy_from_slice(args.positional);
    // SAFETY: the caller guarantees that `args` are the arguments of the current call.
    unsafe { bind_named(function, parameters, args, &mut bound)? };
    for (parameter, value) in parameters.iter().zip(&bound) {
        if parameter.is_required && value.is_null() {
            let name = parameter.name.to_string_lossy();
            return Err(missing(&short_name(function), &name));
        }
    }
    Ok(bound)
}

/// The keyword arguments of a method whose other arguments are given by position only; null for one that is not given.
///
/// # Safety
/// `args` are the arguments of the current call.
#[inline]
pub unsafe fn bind_keywords<const N: usize>(
    function: &CStr,
    names: [&'static CStr; N],
    args: &Args<'_>,
) -> FfiResult<[*mut PyObject; N]> {
    let mut bound = [ptr::null_mut(); N];
    if args.has_keywords() {
        // SAFETY: the caller guarantees that `args` are the arguments of the current call.
        unsafe { bind_named(function, &names.map(Parameter::optional), args, &mut bound)? };
    }
    Ok(bound)
}

/// Like [`bind_keywords`], but other names than these go to `others`, with their values.
///
/// # Safety
/// `args` are the arguments of the current call.
pub unsafe fn split_keywords<const N: usize>(
    names: [&'static CStr; N],
    args: &Args<'_>,
    mut others: impl FnMut(*mut PyObject, *mut PyObject),
) -> [*mut PyObject; N] {
    let mut bound = [ptr::null_mut(); N];
    for (name, value) in args.keywords() {
        let index = names.iter().position(|own| {
            // SAFETY: the caller guarantees that `args` are those of the current call, so `name` is one of its keywords.
            unsafe { Parameter::optional(own).is_named(name) }
        });
        match index {
            Some(index) => bound[index] = value,
            None => others(name, value),
        }
    }
    bound
}

/// # Safety
/// `args` are the arguments of the current call.
unsafe fn bind_named(
    function: &CStr,
    parameters: &[Parameter],
    args: &Args<'_>,
    bound: &mut [*mut PyObject],
) -> FfiResult<()> {
    for (name, value) in args.keywords() {
        let index = parameters
            .iter()
            // SAFETY: the caller guarantees that `args` are those of the current call, so `name` is one of its keywords.
            .position(|parameter| unsafe { parameter.is_named(name) });
        let Some(index) = index else {
            return Err(unexpected(&short_name(function), name));
        };
        if !bound[index].is_null() {
            return Err(given_twice(function, parameters[index].name));
        }
        bound[index] = value;
    }
    Ok(())
}

/// The name of a method without that of its class.
#[cold]
fn short_name(function: &CStr) -> String {
    let name = function.to_string_lossy();
    name.rsplit('.').next().unwrap_or_default().to_owned()
}

#[cold]
fn too_many(function: &CStr, parameters: &[Parameter], given: usize) -> ErrSet {
    let most = parameters.len() + 1;
    let required = parameters
        .iter()
        .filter(|parameter| parameter.is_required)
        .count()
        + 1;
    let range = if required < most {
        format!("from {required} to {most}")
    } else {
        most.to_string()
    };
    PyTypeError::new_err(format!(
        "{}() takes {range} positional arguments but {} were given",
        short_name(function),
        given + 1
    ))
    .into()
}

#[cold]
fn given_twice(function: &CStr, name: &CStr) -> ErrSet {
    PyTypeError::new_err(format!(
        "{}() got multiple values for argument '{}'",
        short_name(function),
        name.to_string_lossy()
    ))
    .into()
}
