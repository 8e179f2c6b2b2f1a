//! `hybridloop._core`: the native part of the event loop.
//!
//! * [`ffi`] — raw CPython: references, fast calls, object layouts.
//! * [`stdlib`] — what is used of Python's standard library.
//! * [`event_loop`] — `LoopCore`: turns, callbacks, timers, descriptors.
//! * [`transports`] — streams over sockets, and the listener that makes them.
//! * [`streams`] — readers and writers over them.
//! * [`memory`] — what happens when there is none left.
//! * [`native`] — kernels on threads of their own, and the memory bus.
//! * [`cycles`] — the processor's own clock.

mod cycles;
mod event_loop;
mod ffi;
mod memory;
mod native;
mod stdlib;
mod streams;
mod transports;

use pyo3::prelude::*;

#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator;

/// Native core of hybridloop; use the `hybridloop` package.
#[pymodule(gil_used = false)]
mod _core {
    use super::{
        cycles, event_loop, ffi, native, stdlib, streams, transports, wrap_pyfunction, Bound,
        PyModule, PyModuleMethods, PyResult,
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        // Before anything else: what is looked up once belongs to the interpreter that was first.
        ffi::interpreters::check_is_main()?;
        stdlib::Stdlib::init(module.py())?;
        ffi::context::probe(module.py())?;
        ffi::socket::probe(module.py());
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        event_loop::register(module)?;
        transports::register(module)?;
        streams::register(module)?;
        native::register(module)?;
        module.add_function(wrap_pyfunction!(cycles::rdtsc, module)?)
    }
}
