//! Native kernels: what Python sees of the crate `hybridloop-native`.
//!
//! * [`engine`] — `NativeEngine`: workers and a bus; the one of the process.
//! * [`kernel`] — `Kernel`, and the registry of kernels by name.
//! * [`targets`] — what can be registered as a kernel.
//! * [`buffer`] — `NativeBuffer`: memory that a kernel or the bus has given, read without a copy.
//! * [`bus`] — `Bus`: Python's side of the memory bus.
//! * [`channel`] — `Channel`: a list that kernels and Python push to and take from.
//! * [`courier`] — news from the bus and from channels for an event loop.
//! * [`value`] — results, and what channels carry, as Python objects.
//! * [`exceptions`] — the classes of `hybridloop.errors`.

mod buffer;
mod bus;
mod channel;
mod courier;
mod engine;
mod exceptions;
mod kernel;
mod targets;
mod value;

use pyo3::prelude::*;

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<engine::NativeEngine>()?;
    module.add_class::<kernel::Kernel>()?;
    module.add_class::<buffer::NativeBuffer>()?;
    module.add_class::<bus::Bus>()?;
    module.add_class::<channel::Channel>()?;
    module.add_class::<courier::Courier>()?;
    module.add_class::<courier::Watch>()?;
    kernel::register(module)?;
    targets::register(module)?;
    engine::register(module)
}
