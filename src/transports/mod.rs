//! Transports over sockets, and the listener that makes streams of connections.
//!
//! * [`endpoint`] — what every transport has: descriptor, protocol, context, flow control, end.
//! * [`object`] — what the objects of all of them begin with.
//! * [`stream`] — a stream's object: state, lifetime, protocol.
//! * [`methods`], [`attributes`] — what Python calls on it, and reads; [`arguments`] — of methods of all kinds of transports.
//! * [`read`] — from the socket to the protocol.
//! * [`write`] — from the protocol to the socket, one system call a turn.
//! * [`tls`] — TLS on top of streams.
//! * [`sink`] — handing bytes to native protocols.
//! * [`datagram`] — datagram transports: state, lifetime; [`datagram_methods`], [`datagram_io`], [`datagram_queue`].
//! * [`direct`] — calling streams of ours without their Python methods.
//! * [`address`] — socket addresses and `get_extra_info()`.
//! * [`listener`] — accepting connections; [`accepting`] — the task that stands for them.

mod accepting;
mod address;
mod arguments;
mod attributes;
mod datagram;
mod datagram_io;
mod datagram_methods;
mod datagram_queue;
pub mod direct;
mod endpoint;
mod listener;
mod methods;
mod object;
mod read;
pub mod sink;
pub mod stream;
pub mod tls;
mod write;

use pyo3::prelude::*;

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    stream::register(module)?;
    datagram::register(module)?;
    listener::register(module)?;
    accepting::register(module.py())?;
    tls::register(module)
}
