//! Parts of the echo load generator: the byte stream it sends and checks, and the connections.

pub mod client;
pub mod pattern;
