//! Keys of the bus as Python passes them.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyBytesMethods, PyString};

/// The bytes of a key: those of a `bytes`, or the UTF-8 of a `str`. `None` for any other object.
pub fn try_key_bytes<'a>(key: &'a Bound<'_, PyAny>) -> PyResult<Option<&'a [u8]>> {
    if let Ok(text) = key.cast::<PyString>() {
        return Ok(Some(text.to_str()?.as_bytes()));
    }
    Ok(key.cast::<PyBytes>().ok().map(PyBytesMethods::as_bytes))
}

/// The bytes of a key.
///
/// # Errors
/// `TypeError` for an object that is neither a `str` nor a `bytes`.
pub fn key_bytes<'a>(key: &'a Bound<'_, PyAny>) -> PyResult<&'a [u8]> {
    match try_key_bytes(key)? {
        Some(bytes) => Ok(bytes),
        None => Err(PyTypeError::new_err(format!(
            "a key of the bus is a str or bytes, not {}",
            key.get_type().name()?
        ))),
    }
}
