//! Transports over sockets, and the listener that makes streams of connections.
//!
//! * [`base`] — what every transport has: descriptor, protocol, context, flow control, end.
//! * [`object`] — the layout that the objects of all transports begin with.
//! * [`address`] — socket addresses and `get_extra_info()`; [`args`] — arguments of methods of all kinds of transports.
//! * [`stream`] — stream transports: state, methods, read, write.
//! * [`datagram`] — datagram transports, in the same files.
//! * [`listener`] — accepting connections.
//! * [`tls`] — TLS on top of streams.

mod address;
mod args;
mod base;
mod datagram;
mod listener;
mod object;
pub mod stream;
pub mod tls;

use pyo3::prelude::*;

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    stream::register(module)?;
    datagram::register(module)?;
    listener::register(module)?;
    listener::accepting::register(module.py())?;
    tls::register(module)
}
