//! Stream transports over sockets, and the listener that makes them.
//!
//! * [`endpoint`] — what every transport has: descriptor, protocol, context, flow control, end.
//! * [`stream`] — the object: state, lifetime, protocol.
//! * [`methods`] — what Python calls on it.
//! * [`read`] — from the socket to the protocol.
//! * [`write`] — from the protocol to the socket, one system call a turn.
//! * [`sink`] — handing bytes to native protocols.
//! * [`address`] — socket addresses and `get_extra_info()`.
//! * [`listener`] — accepting connections.

mod address;
mod endpoint;
mod listener;
mod methods;
mod read;
pub mod sink;
pub mod stream;
mod write;

use pyo3::prelude::*;

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    stream::register(module)?;
    listener::register(module)
}
