//! Native kernels: what Python sees of the crate `hybridloop-kernels`.
//!
//! * [`engine`] — `NativeEngine`: workers and a bus; the one of the process.
//! * [`kernel`] — `Kernel`, and the registry of kernels by name.
//! * [`targets`] — what can be registered as a kernel; [`keep`] — what that keeps alive.
//! * [`buffer`] — `NativeBuffer`: memory that a kernel or the bus has given, read without a copy.
//! * [`bus`] — `Bus`: Python's side of the memory bus.
//! * [`channel`] — `Channel`: a list that kernels and Python push to and take from.
//! * [`watch`] — futures that wait for the bus and for channels.
//! * [`value`] — results, and what channels carry, as Python objects.
//! * [`submit`] — `run_native()` and `run_native_many()`; [`arguments`] — Python objects as arguments, and what stays pinned.
//! * [`awaitable`] — what jobs and batches have in common: a future of any loop; [`job`], [`many`] — the two.
//! * [`completion`] — from workers to loops; [`home`] — a loop, as jobs see it; [`foreign`] — loops that are not ours.
//! * [`outcome`] — how jobs end.
//! * [`exceptions`] — the classes of `hybridloop.errors`.

mod arguments;
mod awaitable;
mod buffer;
mod bus;
mod channel;
mod completion;
mod engine;
mod exceptions;
mod foreign;
mod home;
mod job;
mod keep;
mod kernel;
mod many;
mod outcome;
mod submit;
mod targets;
mod value;
mod watch;

use pyo3::prelude::*;

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<engine::NativeEngine>()?;
    module.add_class::<kernel::Kernel>()?;
    module.add_class::<buffer::NativeBuffer>()?;
    module.add_class::<bus::Bus>()?;
    module.add_class::<channel::Channel>()?;
    module.add_class::<watch::Watch>()?;
    kernel::register(module)?;
    targets::register(module)?;
    engine::register(module)?;
    awaitable::register(module)?;
    job::register(module)?;
    awaitable::add_class::<many::NativeBatch>(module)?;
    module.add_class::<foreign::NativeInlet>()?;
    module.add_function(wrap_pyfunction!(home::_wake, module)?)?;
    submit::register(module)?;
    // A kernel runs without Python's lock, and leaves without it.
    hybridloop_kernels::check_calls(|| {
        // SAFETY: both may be called by any thread; once Python has ended there is no lock.
        unsafe { pyo3::ffi::Py_IsInitialized() == 0 || pyo3::ffi::PyGILState_Check() == 0 }
    });
    Ok(())
}
