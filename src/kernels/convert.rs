//! Conversion between Python objects and the values of kernels and channels.

use std::collections::TryReserveError;
use std::sync::Arc;

use hybridloop_kernels::{MemoryLimit, Text, Value};
use pyo3::exceptions::{PyMemoryError, PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt, PyString};

use crate::kernels::buffer::{copy_bytes, NativeBuffer};
use crate::kernels::pushed::Pushed;
use crate::python::bytes::new_str;

/// The Python object of a value.
pub fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::None => py.None().into_bound(py),
        Value::Bool(value) => PyBool::new(py, *value).to_owned().into_any(),
        Value::Int(value) => value.into_pyobject(py)?.into_any(),
        Value::UInt(value) => value.into_pyobject(py)?.into_any(),
        Value::Float(value) => PyFloat::new(py, *value).into_any(),
        Value::Str(text) => new_str(py, text)?.into_any(),
        Value::Buffer(view) => Bound::new(py, NativeBuffer::new(view.clone()))?.into_any(),
    })
}

/// Copies a string; fails if there is no memory.
pub fn copy_str(text: &str) -> Result<Box<str>, TryReserveError> {
    let mut copy = String::new();
    copy.try_reserve_exact(text.len())?;
    copy.push_str(text);
    Ok(copy.into())
}

/// A copy of a Python object as a value; bytes are charged to `memory`.
///
/// # Errors
/// `TypeError` for a type that has no native form, `OverflowError` for an int of more than 64 bits, `MemoryError` if there is
/// no memory.
pub fn from_python(object: &Bound<'_, PyAny>, memory: &Arc<MemoryLimit>) -> PyResult<Value> {
    if object.is_none() {
        return Ok(Value::None);
    }
    if let Ok(value) = object.cast::<PyBool>() {
        return Ok(Value::Bool(value.is_true()));
    }
    if object.is_instance_of::<PyInt>() {
        if let Ok(value) = object.extract::<i64>() {
            return Ok(Value::Int(value));
        }
        return object.extract::<u64>().map(Value::UInt).map_err(|_| {
            PyOverflowError::new_err("an int of more than 64 bits has no native form")
        });
    }
    if object.is_instance_of::<PyFloat>() {
        return object.extract().map(Value::Float);
    }
    if let Ok(text) = object.cast::<PyString>() {
        let (py, text) = (text.py(), text.to_str()?);
        return copy_bytes(py, text.len(), || Text::copy(text, memory))
            .map(Value::Str)
            .ok_or_else(|| PyMemoryError::new_err(()));
    }
    let Some(pushed) = Pushed::of(object)? else {
        return Err(PyTypeError::new_err(format!(
            "expected None, bool, int, float, str, bytes or an array, not {}",
            object.get_type().name()?
        )));
    };
    let view = pushed.into_view(object.py(), memory);
    view.map(Value::Buffer)
        .ok_or_else(|| PyMemoryError::new_err(()))
}
