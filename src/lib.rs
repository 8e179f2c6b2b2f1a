//! `hybridloop._core`: the native part of the event loop.
//!
//! * [`python`] — raw CPython: references, vectorcall methods, object layouts, imported objects of the standard library.
//! * [`event_loop`] — `LoopCore`: callbacks, timers, I/O.
//! * [`transports`] — transports over sockets, and listening sockets.
//! * [`streams`] — stream readers and writers.
//! * [`kernels`] — `NativeEngine`, jobs, the memory bus.
//! * [`awaitables`] — coroutines of programs in C.
//! * [`allocator`] — fallible allocation, and a reserve for allocations that cannot fail.

mod allocator;
mod awaitables;
mod event_loop;
mod kernels;
mod python;
mod streams;
mod transports;

use pyo3::prelude::*;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

/// Native core of hybridloop; use the `hybridloop` package.
#[pymodule(gil_used = false)]
mod _core {
    use super::{
        awaitables, event_loop, kernels, python, streams, transports, wrap_pyfunction, Bound,
        PyModule, PyModuleMethods, PyResult,
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        // First: the objects that are looked up below belong to this interpreter.
        python::interpreters::check_is_main()?;
        python::stdlib::Stdlib::init(module.py())?;
        python::unstable::init(module.py())?;
        python::once::make_lazy_types(module.py());
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        event_loop::register(module)?;
        transports::register(module)?;
        streams::register(module)?;
        kernels::register(module)?;
        awaitables::register(module)?;
        module.add_function(wrap_pyfunction!(python::unstable::_unstable, module)?)?;
        module.add_function(wrap_pyfunction!(python::package::_provide, module)?)?;
        let task_fields = [
            wrap_pyfunction!(python::unstable::task_fields::_probe_task_fields, module)?,
            wrap_pyfunction!(python::unstable::task_fields::_set_task_must_cancel, module)?,
        ];
        for function in task_fields {
            module.add_function(function)?;
        }
        module.add_function(wrap_pyfunction!(python::fork::_fork_generation, module)?)?;
        module.add_function(wrap_pyfunction!(python::rdtsc::rdtsc, module)?)
    }
}
