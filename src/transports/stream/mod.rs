//! The stream transport: TCP and Unix sockets.
//!
//! * [`state`] — the state of a transport, and what the others use to look at it and change it.
//! * [`queue`] — bytes that wait to be sent.
//! * [`read`] — from the socket to the protocol.
//! * [`write`](mod@write) — from the protocol to the socket, in one system call an iteration of the loop.
//! * [`close`] — `close()` and `abort()`.
//! * [`server`] — the server that counts its connections.
//! * [`methods`], [`attributes`] — what Python calls and reads.
//! * [`class`] — the Python class, the functions for the loop, and how transports are made.
//! * [`native_protocol`] — protocols that take bytes without a Python call.
//! * [`fast_path`] — calls from native code that skip the Python methods.

mod attributes;
pub mod class;
pub mod close;
pub mod fast_path;
mod methods;
pub mod native_protocol;
mod queue;
mod read;
mod server;
pub mod state;
pub mod write;
