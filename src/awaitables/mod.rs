//! Coroutines of programs in C: `include/hybridloop_await.h`.
//!
//! From the top to the bottom; a module imports only modules below it.
//!
//! * [`table`] — the functions of the header.
//! * [`callbacks`] — coroutines of callbacks.
//! * [`returned`] — what callbacks return; [`protocols`] — `async with` and `async for`.
//! * [`queue`] — what a coroutine of callbacks has still to do.
//! * [`state`] — memory of a program that a coroutine owns.

mod callbacks;
mod protocols;
mod queue;
mod returned;
mod state;
mod table;

use pyo3::prelude::*;

/// Adds the classes and the capsule to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    callbacks::register(module)?;
    table::register(module)
}
