//! Several interpreters in one process.

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;

/// Raises `ImportError` in subinterpreters of any kind.
///
/// The types of this module, and objects of the standard library that it caches, exist once per process. Objects of one
/// interpreter must not be used in another, or after their interpreter has ended.
pub fn check_is_main() -> PyResult<()> {
    // SAFETY: this runs at import, in an attached thread. Both functions return an interpreter.
    if unsafe { ffi::PyInterpreterState_Get() == ffi::PyInterpreterState_Main() } {
        Ok(())
    } else {
        Err(PyImportError::new_err(
            "hybridloop does not support subinterpreters: import it in the main interpreter only",
        ))
    }
}
