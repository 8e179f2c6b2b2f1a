//! TLS: what runs per record. The rest is asyncio's own `SSLProtocol`, which `hybridloop.loop.tls` puts on top.
//!
//! * [`openssl`] — the functions of the OpenSSL that Python uses, found at run time.
//! * [`bio`] — the memory BIO that an `SSL` reads from and writes to.
//! * [`protocol`] — `TlsCore`: the attributes that asyncio's protocol and the core share.
//! * [`read`] — from the stream to the application's protocol.
//! * [mod@write] — from the application to the stream.

mod bio;
mod openssl;
mod protocol;
mod read;
mod write;

use pyo3::prelude::*;

/// Adds the class to the module, and makes TLS protocols known to streams.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    protocol::register(module)
}
