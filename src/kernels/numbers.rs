//! Numbers as Python passes them to keyword arguments. Errors say which argument is meant.

use std::time::Duration;

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;

/// Converts a timeout in seconds. A negative one is over at once.
pub fn duration(seconds: f64) -> PyResult<Duration> {
    if seconds.is_nan() {
        return Err(PyValueError::new_err("timeout must not be NaN"));
    }
    Ok(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
}

/// Converts the argument `timeout`.
pub fn timeout(value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    match value.extract() {
        Ok(seconds) => duration(seconds),
        Err(error) if error.is_instance_of::<PyTypeError>(value.py()) => {
            let class = value.get_type();
            let text = format!("timeout must be a number of seconds, not {}", class.name()?);
            Err(PyTypeError::new_err(text))
        }
        Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => {
            Err(PyOverflowError::new_err("timeout: too large"))
        }
        Err(error) => Err(error),
    }
}

/// What is wrong with an argument that is not an int of the type.
#[cold]
fn not_in_range(name: &str, value: &Bound<'_, PyAny>, error: PyErr, range: &str) -> PyErr {
    let py = value.py();
    if error.is_instance_of::<PyOverflowError>(py) {
        return PyOverflowError::new_err(format!("{name} must be an int {range}, not {value}"));
    }
    if error.is_instance_of::<PyTypeError>(py) {
        return match value.get_type().name() {
            Ok(class) => PyTypeError::new_err(format!("{name} must be an int, not {class}")),
            Err(error) => error,
        };
    }
    error
}

/// Converts the argument `priority`.
pub fn priority(value: &Bound<'_, PyAny>) -> PyResult<i32> {
    let range = "from -2147483648 to 2147483647";
    let priority = value.extract();
    priority.map_err(|error| not_in_range("priority", value, error, range))
}

/// Converts an argument that is a size or a number of things, at least `least`.
pub fn size(name: &str, value: &Bound<'_, PyAny>, least: usize) -> PyResult<usize> {
    match value.extract() {
        Ok(size) if size >= least => Ok(size),
        Ok(size) => Err(PyValueError::new_err(format!(
            "{name} must be at least {least}, not {size}"
        ))),
        Err(error) => {
            let range = format!("from {least} to {}", usize::MAX);
            Err(not_in_range(name, value, error, &range))
        }
    }
}

/// Converts such an argument if it is not None.
pub fn optional_size(
    name: &str,
    value: Option<&Bound<'_, PyAny>>,
    least: usize,
) -> PyResult<Option<usize>> {
    value.map(|value| size(name, value, least)).transpose()
}
