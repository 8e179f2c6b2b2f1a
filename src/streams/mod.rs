//! Readers and writers over stream transports.
//!
//! * [`stdlib_reader`] — feeding `asyncio.StreamReader` without a Python call.
//! * [`waiter`] — futures that readers and writers wait for.

mod stdlib_reader;
mod waiter;

use pyo3::prelude::*;

/// Makes the native protocols known.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    stdlib_reader::register(module.py())
}
