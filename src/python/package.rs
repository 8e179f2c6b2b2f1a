//! Objects of the Python package that native code uses. The package registers them when it is imported, those of kernels when
//! one is first needed. Native code imports nothing of the package by name, so there is no import cycle.

use std::sync::OnceLock;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::python::Ref;

macro_rules! objects {
    ($($(#[$meta:meta])* $name:ident),* $(,)?) => {
        $(
            $(#[$meta])*
            pub fn $name(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
                found(py, stringify!($name), &slots::$name)
            }
        )*

        #[allow(non_upper_case_globals)]
        mod slots {
            use super::{OnceLock, Ref};
            $(pub static $name: OnceLock<Ref> = OnceLock::new();)*
        }

        fn slot(name: &str) -> Option<&'static OnceLock<Ref>> {
            match name {
                $(stringify!($name) => Some(&slots::$name),)*
                _ => None,
            }
        }
    };
}

objects! {
    /// The class of stream transports, a subclass of `StreamTransport`.
    stream_transport,
    /// Makes an exception of an OpenSSL error.
    make_tls_error,
    /// The module with the exception classes.
    errors,
    /// Loads the kernels of installed packages.
    discover_kernels,
    /// Makes the `inspect.Signature` of a kernel.
    kernel_signature,
    /// The class of what `concurrent.futures` reads of a job.
    future_view,
    /// The class of the future of a task that iterates over a job or batch.
    iteration_waiter,
    /// Starts the thread for callbacks of plain threads.
    start_callback_thread,
    /// The body of `Bus.wait()`.
    bus_wait,
    /// The body of `Channel.wait()`.
    channel_wait,
    /// The body of `Channel.get()`.
    channel_get,
    /// The body of `Channel.__anext__()`.
    channel_next,
}

/// Imports what registers the objects of kernels.
static LOAD_NATIVE: OnceLock<Ref> = OnceLock::new();

static RUN_ON_STACKS: OnceLock<Ref> = OnceLock::new();

/// Runs a loop so that callbacks can wait on stacks of their own. It exists once `hybridloop.sync` was imported.
#[inline]
pub fn run_on_stacks() -> Option<&'static Ref> {
    RUN_ON_STACKS.get()
}

fn found<'py>(
    py: Python<'py>,
    name: &str,
    slot: &'static OnceLock<Ref>,
) -> PyResult<&'py Bound<'py, PyAny>> {
    if let Some(object) = slot.get() {
        return Ok(object.bind(py));
    }
    if let Some(load) = LOAD_NATIVE.get() {
        load.bind(py).call0()?;
    }
    slot.get().map(|object| object.bind(py)).ok_or_else(|| {
        PyRuntimeError::new_err(format!(
            "hybridloop was not imported completely: it has no {name}"
        ))
    })
}

/// Register objects that native code uses. The first registration of a name counts.
#[pyfunction]
#[pyo3(signature = (**objects))]
pub fn _provide(objects: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
    for (name, object) in objects.into_iter().flatten() {
        let name = name.cast::<PyString>()?;
        let slot = match name.to_str()? {
            "load_native" => Some(&LOAD_NATIVE),
            "run_on_stacks" => Some(&RUN_ON_STACKS),
            name => slot(name),
        };
        let Some(slot) = slot else {
            return Err(PyTypeError::new_err(format!("{name} is not used")));
        };
        let _ = slot.set(object.into());
    }
    Ok(())
}
