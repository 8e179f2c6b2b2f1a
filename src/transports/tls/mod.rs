//! TLS: what runs for each record. The rest is asyncio's `SSLProtocol`, the other base of `hybridloop.loop.tls.TlsProtocol`.
//!
//! * [`state`] — `TlsCore`: the state of a connection.
//! * [`read`] — from the stream transport to the application: `SSL_read`.
//! * [`write`](mod@write) — from the application to the stream transport: `SSL_write`.
//! * [`class`] — the Python class `TlsCore`: methods, and the attributes that asyncio's protocol uses.
//! * [`transport`] — the native `write()` of the application's transport.
//! * [`session`] — the OpenSSL calls on one `SSL`; [`bio`] — the memory that it reads from and writes to.
//! * [`openssl`] — OpenSSL's functions. The `SSL*` inside of Python's objects is found by [`crate::python::unstable`].
//! * [`buffers`] — buffers that the connections of a thread share.

mod bio;
mod buffers;
mod class;
mod openssl;
mod read;
mod session;
mod state;
mod transport;
mod write;

use pyo3::prelude::*;

/// Adds the class to the module, and the lookup of TLS protocols to stream transports.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    class::register(module)
}
