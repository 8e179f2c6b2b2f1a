//! The exception classes of `hybridloop.native.errors`, and conversion of the errors of `hybridloop-kernels`.

use std::sync::OnceLock;

use hybridloop_kernels::{ArgumentErrorKind, BusError, RegistryError, SubmitError};
use pyo3::exceptions::{PyMemoryError, PyOverflowError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::python::once::get_or_try_set;
use crate::python::package;

macro_rules! exceptions {
    ($($field:ident: $name:literal),* $(,)?) => {
        /// The classes, which are plain Python.
        pub struct Exceptions { $(pub $field: Py<PyType>),* }

        impl Exceptions {
            fn new(py: Python<'_>) -> PyResult<Self> {
                let module = package::errors(py)?;
                Ok(Self { $($field: module.getattr($name)?.cast_into()?.unbind()),* })
            }
        }
    };
}

exceptions! {
    kernel_error: "NativeKernelError",
    not_found: "KernelNotFoundError",
    queue_full: "NativeQueueFullError",
    closed: "NativeClosedError",
    buffer_in_use: "BufferInUseError",
    registration: "KernelRegistrationError",
    exists: "KernelExistsError",
    signature: "KernelSignatureError",
    library: "KernelLibraryError",
    symbol: "KernelSymbolError",
    abi: "KernelAbiError",
    bus: "BusError",
    bus_key: "BusKeyError",
    bus_key_exists: "BusKeyExistsError",
    bus_busy: "BusBusyError",
    bus_full: "BusFullError",
    bus_closed: "BusClosedError",
    channel_full: "ChannelFullError",
    channel_closed: "ChannelClosedError",
}

impl Exceptions {
    /// The classes, looked up on first use.
    pub fn get(py: Python<'_>) -> PyResult<&'static Self> {
        static CLASSES: OnceLock<Exceptions> = OnceLock::new();
        get_or_try_set(&CLASSES, || Self::new(py))
    }
}

/// Creates an exception of one of the classes, with a message.
pub fn new_error(
    py: Python<'_>,
    class: impl FnOnce(&'static Exceptions) -> &'static Py<PyType>,
    message: impl std::fmt::Display,
) -> PyErr {
    match Exceptions::get(py) {
        Ok(classes) => PyErr::from_type(class(classes).bind(py).clone(), (message.to_string(),)),
        Err(error) => error,
    }
}

/// `". Did you mean 'x'?"` with the most similar of the names; nothing if none is similar.
pub fn did_you_mean(py: Python<'_>, name: &str, names: Vec<&str>) -> String {
    let find = || -> PyResult<Vec<String>> {
        let find = py.import("difflib")?.getattr("get_close_matches")?;
        find.call1((name, names, 1))?.extract()
    };
    match find() {
        Ok(found) if !found.is_empty() => format!(". Did you mean '{}'?", found[0]),
        _ => String::new(),
    }
}

/// The error of a lookup of a kernel.
pub fn kernel_not_found(py: Python<'_>, name: &str, names: Vec<&str>) -> PyErr {
    let hint = did_you_mean(py, name, names);
    match Exceptions::get(py) {
        Ok(classes) => {
            let message = if hint.is_empty() {
                format!("no kernel is named '{name}'; hybridloop.kernels has those there are")
            } else {
                format!("no kernel is named '{name}'{hint}")
            };
            PyErr::from_type(
                classes.not_found.bind(py).clone(),
                (name.to_owned(), message),
            )
        }
        Err(error) => error,
    }
}

/// The error of pickling and copying an object. Without a `__reduce__()`, protocols 0 and 1 make an object of nothing.
pub fn cannot_pickle(object: &Bound<'_, PyAny>) -> PyErr {
    match object.get_type().fully_qualified_name() {
        Ok(name) => PyTypeError::new_err(format!("cannot pickle '{name}' object")),
        Err(error) => error,
    }
}

/// The error for an object that was created before a fork.
pub fn forked_error(py: Python<'_>, what: &str) -> PyErr {
    new_error(
        py,
        |classes| &classes.closed,
        format!("this {what} was made before a fork and belongs to the parent process"),
    )
}

/// Converts the error of a registration.
pub fn registry_error(py: Python<'_>, error: &RegistryError) -> PyErr {
    if let RegistryError::Exists(_) = error {
        let message = format!("{error}; replace=True puts this one in its place");
        return new_error(py, |classes| &classes.exists, message);
    }
    new_error(
        py,
        |classes| match error {
            RegistryError::Signature { .. } => &classes.signature,
            RegistryError::Symbol(_) => &classes.symbol,
            RegistryError::Abi { .. } => &classes.abi,
            RegistryError::Library(_) | RegistryError::Module(_) => &classes.library,
            _ => &classes.registration,
        },
        error,
    )
}

/// Converts the error of a submission. `key` is the one for the result.
pub fn submit_error(py: Python<'_>, error: &SubmitError, key: Option<&Bound<'_, PyAny>>) -> PyErr {
    let cause = match error {
        SubmitError::Call(_, cause) => cause,
        error => error,
    };
    match cause {
        SubmitError::Argument(argument) => {
            let message = error.to_string();
            match argument.kind {
                ArgumentErrorKind::Type => PyTypeError::new_err(message),
                ArgumentErrorKind::Value => PyValueError::new_err(message),
                ArgumentErrorKind::Overflow => PyOverflowError::new_err(message),
            }
        }
        SubmitError::BufferInUse { .. } | SubmitError::BufferRead(_) => {
            new_error(py, |classes| &classes.buffer_in_use, error)
        }
        SubmitError::Memory => PyMemoryError::new_err(error.to_string()),
        SubmitError::QueueFull { .. } => new_error(
            py,
            |classes| &classes.queue_full,
            format!("{error}; await some of them first, or raise max_native_queue"),
        ),
        SubmitError::Key(reason) => bus_error(py, reason, key),
        SubmitError::Closed | SubmitError::Forked => {
            new_error(py, |classes| &classes.closed, error)
        }
        _ => PyRuntimeError::new_err(error.to_string()),
    }
}

/// Converts an error of the bus. `key` is the one that the caller has passed.
pub fn bus_error(py: Python<'_>, error: &BusError, key: Option<&Bound<'_, PyAny>>) -> PyErr {
    let key = || key.map_or_else(|| py.None(), |key| key.clone().unbind());
    let about_key =
        |class: fn(&'static Exceptions) -> &'static Py<PyType>| match Exceptions::get(py) {
            Ok(classes) => PyErr::from_type(class(classes).bind(py).clone(), (key(),)),
            Err(error) => error,
        };
    match error {
        BusError::NotFound => about_key(|classes| &classes.bus_key),
        BusError::Exists => about_key(|classes| &classes.bus_key_exists),
        BusError::Busy => about_key(|classes| &classes.bus_busy),
        BusError::Memory => PyMemoryError::new_err(error.to_string()),
        BusError::BadKey(_) | BusError::ReservedKey => match Exceptions::get(py) {
            Ok(classes) => {
                PyErr::from_type(classes.bus_key.bind(py).clone(), (key(), error.to_string()))
            }
            Err(error) => error,
        },
        BusError::Capacity { .. } => new_error(
            py,
            |classes| &classes.bus_full,
            format!("{error}; a larger bus_capacity or bus_policy='evict' makes room"),
        ),
        BusError::Closed => new_error(py, |classes| &classes.bus_closed, error),
        _ => new_error(py, |classes| &classes.bus, error),
    }
}
