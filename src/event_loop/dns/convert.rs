//! Conversion of lookup results to the objects that `socket` returns.

use std::ffi::{c_int, CStr};
use std::io;
use std::sync::OnceLock;

use hybridloop_reactor::dns::{Address, AddressInfo, LookupError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

use crate::event_loop::exceptions;
use crate::python::bytes::new_list;
use crate::python::once::get_or_try_set;
use crate::python::stdlib::current;
use crate::python::{ErrSet, Ref};

/// Objects of the `socket` module.
pub struct Module {
    whole: Ref,
    /// The dictionary of `asyncio.base_events`, in which `socket` is looked up.
    user_contents: Ref,
    socket: Ref,
    contents: Ref,
    native_contents: Ref,
    name: Ref,
    /// Python's own functions, which the resolver replaces; `None` if they were replaced at import.
    functions: Option<[Ref; 2]>,
    gaierror: Ref,
    families: Enumeration,
    kinds: Enumeration,
}

/// Numbers that `socket` converts to members of an enumeration.
struct Enumeration {
    known: Vec<(c_int, Ref)>,
    converter: Ref,
    class: Ref,
}

impl Enumeration {
    fn new(module: &Bound<'_, PyModule>, class: &str, names: &[&str]) -> PyResult<Self> {
        let mut known = Vec::new();
        for name in names {
            if let Ok(member) = module.getattr(*name) {
                known.push((member.extract()?, member.into()));
            }
        }
        Ok(Self {
            known,
            converter: module.getattr("_intenum_converter")?.into(),
            class: module.getattr(class)?.into(),
        })
    }

    fn member(&self, py: Python<'_>, number: c_int) -> PyResult<Ref> {
        if let Some((_, member)) = self.known.iter().find(|(known, _)| *known == number) {
            return Ok(member.clone());
        }
        Ok(self
            .converter
            .bind(py)
            .call1((number, self.class.bind(py)))?
            .into())
    }
}

static MODULE: OnceLock<Module> = OnceLock::new();

impl Module {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let module = py.import("socket")?;
        let native = py.import("_socket")?;
        let (function, native_function) = (
            module.getattr("getaddrinfo")?,
            native.getattr("getaddrinfo")?,
        );
        // A program may have replaced the functions before it imported this package.
        let original = function
            .getattr("__globals__")
            .is_ok_and(|globals| globals.is(module.dict()))
            && native_function
                .getattr("__self__")
                .is_ok_and(|owner| owner.is(&native));
        Ok(Self {
            whole: module.clone().into_any().into(),
            user_contents: py.import("asyncio.base_events")?.dict().into_any().into(),
            socket: PyString::intern(py, "socket").into(),
            contents: module.dict().into_any().into(),
            native_contents: native.dict().into_any().into(),
            name: PyString::intern(py, "getaddrinfo").into(),
            functions: original.then(|| [function.into(), native_function.into()]),
            gaierror: module.getattr("gaierror")?.into(),
            families: Enumeration::new(&module, "AddressFamily", &["AF_INET", "AF_INET6"])?,
            kinds: Enumeration::new(
                &module,
                "SocketKind",
                &["SOCK_STREAM", "SOCK_DGRAM", "SOCK_RAW"],
            )?,
        })
    }

    /// Whether the `socket.getaddrinfo` that asyncio would call is Python's own.
    pub fn is_original(&self) -> bool {
        let same = |contents, name, object: &Ref| match current(contents, name) {
            Ok(found) => std::ptr::eq(found.as_ptr(), object.as_ptr()),
            Err(ErrSet) => {
                // SAFETY: `current` has just set an exception, so the thread is attached.
                unsafe { ffi::PyErr_Clear() };
                false
            }
        };
        self.functions.as_ref().is_some_and(|[function, native]| {
            same(&self.contents, &self.name, function)
                && same(&self.native_contents, &self.name, native)
                && same(&self.user_contents, &self.socket, &self.whole)
        })
    }
}

pub fn module(py: Python<'_>) -> PyResult<&'static Module> {
    get_or_try_set(&MODULE, || Module::new(py))
}

/// The list that `socket.getaddrinfo` returns.
pub fn list(py: Python<'_>, found: &[AddressInfo]) -> PyResult<Ref> {
    let module = module(py)?;
    let list = new_list(py)?;
    for entry in found {
        let name = match &entry.canonical_name {
            Some(name) => decoded(py, name)?,
            None => PyString::intern(py, ""),
        };
        list.append((
            module.families.member(py, entry.family)?.bind(py),
            module.kinds.member(py, entry.socktype)?.bind(py),
            entry.protocol,
            name,
            address(py, entry)?,
        ))?;
    }
    Ok(list.into_any().into())
}

pub fn decoded<'py>(py: Python<'py>, text: &CStr) -> PyResult<Bound<'py, PyString>> {
    PyString::from_bytes(py, text.to_bytes())
}

fn address<'py>(py: Python<'py>, entry: &AddressInfo) -> PyResult<Bound<'py, PyTuple>> {
    match &entry.address {
        Address::V4 { host, port } => (host, *port).into_pyobject(py),
        Address::V6 {
            host,
            port,
            flow,
            scope,
        } => (host, *port, *flow, *scope).into_pyobject(py),
        Address::Other(data) => (entry.family, PyBytes::new(py, data)).into_pyobject(py),
    }
}

/// `socket.gaierror`, or an `OSError` for an error of the system.
pub fn error_of(py: Python<'_>, failure: &LookupError) -> PyResult<PyErr> {
    if failure.code == libc::EAI_SYSTEM {
        return Ok(exceptions::os_error(&io::Error::from_raw_os_error(
            failure.errno,
        )));
    }
    let message = decoded(py, &failure.message)?;
    let error = module(py)?
        .gaierror
        .bind(py)
        .call1((failure.code, message))?;
    Ok(PyErr::from_value(error))
}
