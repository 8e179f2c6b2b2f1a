//! The native `write()` of `hybridloop.loop.tls.SSLTransport`, the transport that the application's protocol gets.

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::event_loop::install;
use crate::fastcall;
use crate::python::args::{bind, Parameter};
use crate::python::buffer::BufferGuard;
use crate::python::bytes::{contents, to_bytes};
use crate::python::stdlib::{as_name, Stdlib};
use crate::python::{Args, FfiResult, Ref};
use crate::transports::args::is_bytes_like;
use crate::transports::tls::state::{is_tls, TlsCore};
use crate::transports::tls::write::write_and_send;

/// The TLS protocol of a transport; `None` once asyncio has deleted it.
fn protocol_of(transport: Bound<'_, PyAny>) -> Option<Ref> {
    let name = as_name(transport.py(), &Stdlib::get().names._ssl_protocol).ok()?;
    transport.getattr(name).ok().map(Ref::from).filter(is_tls)
}

/// `SSLTransport.write(data)`
unsafe fn write(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: `args` are the arguments of this call.
    let [data] = unsafe { bind(c"write", [Parameter::required(c"data")], &args)? };
    // SAFETY: CPython calls a method of the `SSLTransport` `slf` in an attached thread; arguments are live during the call.
    let (py, protocol, transport, data) = unsafe {
        let py = Python::assume_attached();
        (
            py,
            protocol_of(Bound::from_borrowed_ptr(py, slf)),
            Ref::from_ptr_ref(&slf),
            Ref::from_ptr_ref(&data),
        )
    };
    let Some(protocol) = protocol else {
        // asyncio deletes it when the connection is lost.
        return inherited_write(py, transport, data);
    };
    // SAFETY: `is_tls` has checked the class.
    let tls = unsafe { TlsCore::of(protocol.as_ptr()) };
    if cfg!(Py_GIL_DISABLED) {
        tls.with_stream(|_, stream| stream.check_thread())
            .transpose()?;
    }
    // SAFETY: the caller's argument is live, and held where Python may run while its contents are used. An exact `bytes` object
    // does not change.
    unsafe {
        if ffi::PyBytes_CheckExact(data.as_ptr()) != 0 {
            let data = data.clone();
            let bytes = contents(data.as_ptr());
            if bytes.is_empty() {
                return Ok(Ref::none());
            }
            if tls.is_ready() {
                write_and_send(py, &protocol, tls, bytes)?;
                return Ok(Ref::none());
            }
        } else if tls.is_ready() && is_bytes_like(data.as_ptr()) {
            if let Ok(buffer) = BufferGuard::readable(data.as_ptr()) {
                if buffer.len() > 0 {
                    // A copy: the object may change when Python runs.
                    let copy = to_bytes(buffer.as_slice())?;
                    drop(buffer);
                    write_and_send(py, &protocol, tls, contents(copy.as_ptr()))?;
                }
                return Ok(Ref::none());
            }
            ffi::PyErr_Clear();
        }
    }
    inherited_write(py, transport, data)
}

/// asyncio's own `write()`.
#[cold]
fn inherited_write(py: Python<'_>, transport: &Ref, data: &Ref) -> FfiResult<Ref> {
    Ok(py
        .import("asyncio.sslproto")?
        .getattr("_SSLProtocolTransport")?
        .getattr("write")?
        .call1((transport.bind(py), data.bind(py)))?
        .into())
}

/// Adds the method to the class: a subclass of asyncio's, with the slot `_ssl_protocol` and nothing else.
pub fn install_write(class: &Bound<'_, PyType>) -> PyResult<()> {
    install(
        class,
        [(
            fastcall!(c"write", write),
            "(self, data)",
            "Encrypt bytes and send them, with whatever else is written in this iteration of the loop.",
        )],
    )
}
