//! Native kernels: the crate `hybridloop-kernels` as Python sees it.
//!
//! From the top to the bottom; a module imports only modules below it.
//!
//! * [`submit`] — `run_native()` and `run_native_many()`.
//! * [`job`] and [`batch`] — `NativeJob` and `NativeBatch`, which [`batch_stream`] iterates over; [`future`] — their base, a future that belongs to no loop.
//! * [`options`] — the keyword arguments of both; [`named_arguments`] — arguments by the names of the signature.
//! * [`arguments`] — conversion of Python objects to arguments; [`buffer_guards`] — what keeps their memory valid.
//! * [`arrays`] — memory by the buffer protocol, Arrow and DLPack; [`pushed`] — the same on its way to the bus or a channel.
//! * [`engine`] — `NativeEngine`: workers and a bus, and the default engine of the process.
//! * [`bus`] and [`channel`] — `Bus` and `Channel`; [`waiters`] — futures that wait for them.
//! * [`sources`] — what can be registered as a kernel; [`kernel`] — `Kernel`, and the registry of kernels by name.
//! * [`loop_handle`] — an event loop of any implementation; [`foreign_loop`] — those that are no `LoopCore`.
//! * [`callback_thread`] — callbacks of threads without a loop.
//! * [`detached`] — jobs without a loop; [`deferred_drop`] — objects that workers have dropped.
//! * [`completion_queue`] — events of workers on their way to a loop.
//! * [`result`] — the result of a job; [`convert`] — values as Python objects; [`buffer`] — `NativeBuffer`.
//! * [`exceptions`], [`key`], [`numbers`] — used by all.

mod arguments;
mod arrays;
mod batch;
mod batch_stream;
mod buffer;
mod buffer_guards;
mod bus;
mod callback_thread;
mod channel;
pub mod completion_queue;
mod convert;
mod deferred_drop;
mod detached;
mod engine;
mod exceptions;
mod foreign_loop;
mod future;
mod job;
mod kernel;
mod key;
pub mod loop_handle;
mod named_arguments;
mod numbers;
mod options;
mod pushed;
mod result;
mod sources;
mod submit;
mod waiters;

use pyo3::prelude::*;

use crate::allocator::is_memory_low;

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
    callback_thread::register(module)?;
    future::register(module)?;
    job::register(module)?;
    batch_stream::register(module)?;
    module.add_class::<foreign_loop::CompletionReader>()?;
    submit::register(module)?;
    hybridloop_kernels::set_memory_check(is_memory_low);
    // A kernel is called detached from the interpreter, and has to return detached.
    hybridloop_kernels::set_call_check(|| {
        // SAFETY: both functions can be called by any thread, the second one only while Python is initialized.
        unsafe { pyo3::ffi::Py_IsInitialized() == 0 || pyo3::ffi::PyGILState_Check() == 0 }
    });
    Ok(())
}
