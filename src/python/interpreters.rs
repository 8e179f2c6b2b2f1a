//! Several interpreters in one process.

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;

/// Refuses subinterpreters, whatever kind they are.
///
/// The types of this module, and what it has looked up of the standard library, exist once per process. Objects of one
/// interpreter must not reach another, and those of an interpreter that has ended are gone.
pub fn check_is_main() -> PyResult<()> {
    // SAFETY: attached; both return an interpreter.
    if unsafe { ffi::PyInterpreterState_Get() == ffi::PyInterpreterState_Main() } {
        Ok(())
    } else {
        Err(PyImportError::new_err(
            "hybridloop does not support subinterpreters: import it in the main interpreter only",
        ))
    }
}
