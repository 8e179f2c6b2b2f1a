//! The processor's cycle counter for Python.

use hybridloop_sync::tsc::ticks_serialized;
use pyo3::prelude::*;

/// The processor's cycle counter. The difference of two readings is the time between them, in ticks.
///
/// The processor defines the length of a tick. On x86-64 and ARM64 the counter runs at a constant
/// rate and is the same on all cores. On other processors it counts nanoseconds.
#[pyfunction]
pub fn rdtsc() -> u64 {
    ticks_serialized()
}
