//! Coroutines of programs in C: `include/hybridloop_await.h`.
//!
//! From the top to the bottom; a module imports only modules below it.
//!
//! * [`table`] — the functions of the header.
//! * [`function`] — functions and methods; [`function_class`] — their class.
//! * [`generator_class`] — the class of async generators; [`generator_call`] — their calls; [`generator`] — what they do.
//! * [`callbacks`] — coroutines of callbacks; [`step`] — coroutines of steps; [`wait`] — waiting for other threads.
//! * [`returned`] — what callbacks return; [`protocols`] — `async with` and `async for`.
//! * [`queue`] — what a coroutine of callbacks has still to do.
//! * [`state`] — memory of a program that a coroutine owns.

mod callbacks;
mod function;
mod function_class;
mod generator;
mod generator_call;
mod generator_class;
mod protocols;
mod queue;
mod returned;
mod state;
mod step;
mod table;
mod wait;

use pyo3::prelude::*;

/// Adds the classes and the capsule to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    callbacks::register(module)?;
    step::register(module)?;
    generator_class::register(module)?;
    function_class::register(module)?;
    table::register(module)
}
