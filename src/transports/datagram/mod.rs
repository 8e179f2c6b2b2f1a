//! The datagram transport: UDP and Unix sockets.
//!
//! * [`state`] — the state of a transport, and what the others use to look at it and change it.
//! * [`queue`] — datagrams that wait to be sent; [`address_cache`] — the last addresses, in the system's form and Python's.
//! * [`read`] — from the socket to the protocol.
//! * [`write`](mod@write) — from the protocol to the socket.
//! * [`close`] — `close()` and `abort()`.
//! * [`methods`], [`attributes`] — what Python calls and reads.
//! * [`class`] — the Python class, the functions for the loop, and how transports are made.

mod address_cache;
mod attributes;
pub mod class;
mod close;
mod methods;
mod queue;
mod read;
mod state;
mod write;
