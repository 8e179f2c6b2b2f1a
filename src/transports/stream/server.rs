//! The server that a connection belongs to: it counts its connections, and from Python 3.13 on it knows them.

use pyo3::prelude::*;

use crate::python::stdlib::Stdlib;
use crate::python::Ref;

/// `server._attach(transport)`, or without the argument before Python 3.13.
pub fn attach(py: Python<'_>, server: &Ref, transport: &Ref) -> PyResult<()> {
    call(py, server, "_attach", transport)
}

/// `server._detach(transport)`, or without the argument before Python 3.13.
pub fn detach(py: Python<'_>, server: &Ref, transport: &Ref) -> PyResult<()> {
    call(py, server, "_detach", transport)
}

fn call(py: Python<'_>, server: &Ref, name: &str, transport: &Ref) -> PyResult<()> {
    let server = server.bind(py);
    if Stdlib::get().attach_takes_transport {
        server.call_method1(name, (transport.bind(py),))?;
    } else {
        server.call_method0(name)?;
    }
    Ok(())
}
