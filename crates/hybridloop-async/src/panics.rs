//! Panics become exceptions.

use std::any::Any;
use std::panic::{catch_unwind, AssertUnwindSafe};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// Runs `body`; a panic becomes `RuntimeError` with its text. The panic hook has told the place.
pub fn catch<T>(body: impl FnOnce() -> T) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|payload| {
        let error = PyRuntimeError::new_err(match text(&*payload) {
            Some(text) => format!("the future panicked: {text}"),
            None => "the future panicked".to_owned(),
        });
        // The drop of a payload may panic itself.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
        error
    })
}

fn text(payload: &(dyn Any + Send)) -> Option<&str> {
    if let Some(text) = payload.downcast_ref::<&str>() {
        Some(text)
    } else {
        payload.downcast_ref::<String>().map(String::as_str)
    }
}
