//! Transports over sockets, and the listening sockets that make them.
//!
//! * [`base`] — what every transport has: descriptor, protocol, context, flow control.
//! * [`lifecycle`] — how transports end: fatal errors, `connection_lost()`, closing the descriptor.
//! * [`object`] — the objects of all transport classes; [`attributes`] — the attributes that all of them have.
//! * [`address`] — socket addresses; [`args`] — arguments of methods; [`socket`] — descriptors without a transport.
//! * [`stream`] — stream transports: state, queue, read, write, close, methods, attributes, class.
//! * [`datagram`] — datagram transports, in files of the same names.
//! * [`listener`] — accepting connections.
//! * [`tls`] — TLS on top of stream transports.

mod address;
mod args;
mod attributes;
mod base;
mod datagram;
mod lifecycle;
mod listener;
mod object;
mod socket;
pub mod stream;
pub mod tls;

use pyo3::prelude::*;

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    stream::class::register(module)?;
    datagram::class::register(module)?;
    listener::register(module)?;
    listener::accept_task::register(module.py())?;
    tls::register(module)
}
