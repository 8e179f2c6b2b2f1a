//! Parts of the load generator and of the reference echo server.

pub mod client;
pub mod pattern;
pub mod phase;
pub mod reconnect;
pub mod stream;
pub mod target;
pub mod tls;
