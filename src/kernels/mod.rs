//! Native kernels: what Python sees of the crate `hybridloop-kernels`.
//!
//! * [`engine`] — `NativeEngine`: workers and a bus; the one of the process.
//! * [`kernel`] — `Kernel`, and the registry of kernels by name.
//! * [`sources`] — what can be registered as a kernel; [`deferred_drop`] — what that keeps alive.
//! * [`buffer`] — `NativeBuffer`: memory that a kernel or the bus has given, read without a copy.
//! * [`bus`] — `Bus`: Python's side of the memory bus.
//! * [`channel`] — `Channel`: a list that kernels and Python push to and take from.
//! * [`waiters`] — futures that wait for the bus and for channels.
//! * [`convert`] — results, and what channels carry, as Python objects.
//! * [`submit`] — `run_native()` and `run_native_many()`; [`arguments`] — Python objects as arguments, and which buffers they
//!   hold.
//! * [`future`] — what jobs and batches have in common: a future of any loop; [`job`], [`batch`] — the two.
//! * [`completion_queue`] — from workers to loops; [`loop_handle`] — a loop, as jobs see it; [`foreign_loop`] — other asyncio
//!   loops.
//! * [`result`] — how jobs end.
//! * [`exceptions`] — the exception classes.

mod arguments;
mod batch;
mod buffer;
mod buffer_guards;
mod bus;
mod channel;
mod completion_queue;
mod convert;
mod deferred_drop;
mod engine;
mod exceptions;
mod foreign_loop;
mod future;
mod job;
mod kernel;
mod loop_handle;
mod result;
mod sources;
mod submit;
mod waiters;

use pyo3::prelude::*;

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<engine::NativeEngine>()?;
    module.add_class::<kernel::Kernel>()?;
    module.add_class::<buffer::NativeBuffer>()?;
    module.add_class::<bus::Bus>()?;
    module.add_class::<channel::Channel>()?;
    module.add_class::<waiters::Waiter>()?;
    kernel::register(module)?;
    sources::register(module)?;
    engine::register(module)?;
    future::register(module)?;
    job::register(module)?;
    future::add_class::<batch::NativeBatch>(module)?;
    module.add_class::<foreign_loop::CompletionReader>()?;
    submit::register(module)?;
    // A kernel runs without Python's lock, and leaves without it.
    hybridloop_kernels::check_calls(|| {
        // SAFETY: both may be called by any thread; once Python has ended there is no lock.
        unsafe { pyo3::ffi::Py_IsInitialized() == 0 || pyo3::ffi::PyGILState_Check() == 0 }
    });
    Ok(())
}
