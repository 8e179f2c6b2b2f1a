//! Fork detection, for the Python package.

use hybridloop_sync::fork::Process;
use pyo3::prelude::*;

/// The number of forks between the first process and this one.
#[pyfunction]
pub fn _fork_generation() -> u32 {
    Process::current().generation()
}
