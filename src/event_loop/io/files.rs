//! File objects, which `add_reader()`, `sock_*` and transports accept in place of a descriptor.

use std::os::fd::RawFd;

use pyo3::exceptions::{PyAttributeError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::event_loop::LoopCore;
use crate::python::{ErrSet, FfiResult, Ref};

/// The number of an integer or of an object with `fileno()`, with the errors of `selectors`. A number outside of `i64` is
/// clamped.
///
/// # Safety
/// Attached; `file` is a live object.
pub unsafe fn file_number(file: *mut PyObject) -> FfiResult<i64> {
    // SAFETY: the caller guarantees an attached thread and a live object.
    let file = unsafe { Bound::from_borrowed_ptr(Python::assume_attached(), file) };
    // SAFETY: `file` proves that the thread is attached and the object live.
    if unsafe { ffi::PyLong_Check(file.as_ptr()) } != 0 {
        return clamped(&file);
    }
    let number = file.call_method0("fileno").and_then(|number| {
        // SAFETY: a `Bound` proves that the thread is attached and its object live. The result is a new reference, or null
        // after an error.
        let number = unsafe { Ref::new(ffi::PyNumber_Long(number.as_ptr())) }?;
        Ok(number)
    });
    match number {
        Ok(number) => clamped(number.bind(file.py())),
        Err(error) => {
            let py = file.py();
            if error.is_instance_of::<PyAttributeError>(py)
                || error.is_instance_of::<PyTypeError>(py)
                || error.is_instance_of::<PyValueError>(py)
            {
                return Err(invalid_object(&file));
            }
            Err(error.into())
        }
    }
}

fn clamped(number: &Bound<'_, PyAny>) -> FfiResult<i64> {
    let mut overflow = 0;
    // SAFETY: a `Bound` proves that the thread is attached and its object live.
    let value = unsafe { ffi::PyLong_AsLongLongAndOverflow(number.as_ptr(), &raw mut overflow) };
    match overflow {
        0 if value == -1 && PyErr::occurred(number.py()) => Err(ErrSet),
        0 => Ok(value),
        1 => Ok(i64::MAX),
        _ => Ok(i64::MIN),
    }
}

/// The descriptor that `file` is or has.
///
/// # Safety
/// Attached; `file` is a live object.
pub unsafe fn file_descriptor(file: *mut PyObject) -> FfiResult<RawFd> {
    // SAFETY: the caller guarantees an attached thread and a live object.
    let number = unsafe { file_number(file)? };
    if number < 0 {
        return Err(invalid_number(number).into());
    }
    RawFd::try_from(number).map_err(|_| too_large())
}

impl LoopCore {
    /// The descriptor under which `file` is watched, or would be; `None` for a number that no descriptor can have. A closed
    /// file has no number, so it is searched among the watched file objects, as in `selectors`.
    ///
    /// # Safety
    /// Attached; `file` is a live object.
    pub unsafe fn find_watched(&self, file: *mut PyObject) -> FfiResult<Option<Watched>> {
        // SAFETY: the caller guarantees an attached thread and a live object.
        let error = match unsafe { file_number(file) } {
            Ok(number) if number >= 0 => {
                let open = RawFd::try_from(number).ok();
                return Ok(open.map(|fd| Watched { fd, open: true }));
            }
            Ok(number) => invalid_number(number),
            // SAFETY: the caller guarantees an attached thread.
            Err(ErrSet) => PyErr::fetch(unsafe { Python::assume_attached() }),
        };
        // SAFETY: the caller guarantees an attached thread.
        let is_refusal = error.is_instance_of::<PyValueError>(unsafe { Python::assume_attached() });
        let found = is_refusal
            .then(|| self.descriptors.with(|all| all.watched_file(file)))
            .flatten();
        match found {
            Some(fd) => Ok(Some(Watched { fd, open: false })),
            None => Err(error.into()),
        }
    }
}

/// The descriptor under which a file object is watched.
#[derive(Clone, Copy)]
pub struct Watched {
    pub fd: RawFd,
    /// Whether the file still has this number.
    pub open: bool,
}

#[cold]
fn invalid_object(file: &Bound<'_, PyAny>) -> ErrSet {
    match file.repr() {
        Ok(shown) => PyValueError::new_err(format!("Invalid file object: {shown}")).into(),
        Err(error) => error.into(),
    }
}

fn invalid_number(number: i64) -> PyErr {
    PyValueError::new_err(format!("Invalid file descriptor: {number}"))
}

/// The error of `select.epoll` for a number that is too large.
#[cold]
pub fn too_large() -> ErrSet {
    PyOverflowError::new_err("Python int too large to convert to C int").into()
}
