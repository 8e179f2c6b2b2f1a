//! The processor's cycle counter for Python.

use hybridloop_sync::tsc::ticks_serialized;
use pyo3::prelude::*;

/// The processor's cycle counter: how much time passes between two readings, in its ticks.
///
/// Ticks are as long as the processor says; on x86-64 and ARM64 the counter runs at one speed and
/// is the same on every core. Elsewhere nanoseconds are counted.
#[pyfunction]
pub fn rdtsc() -> u64 {
    ticks_serialized()
}
