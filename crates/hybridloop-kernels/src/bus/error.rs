//! Why the bus refuses.

use std::fmt;

use crate::bus::Key;

/// Why the bus refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusError {
    /// A key is empty or longer than [`Key::MAX`].
    BadKey(usize),
    /// Keys that begin with `job:` belong to jobs.
    ReservedKey,
    /// The key is there, and the foreign side does not overwrite.
    Exists,
    /// A native write of the key is open.
    Busy,
    /// There is nothing under the key.
    NotFound,
    /// More bytes than the bus has left.
    Capacity {
        /// Bytes that were asked for.
        wanted: usize,
        /// Bytes that are taken.
        used: usize,
        /// Bytes in all.
        capacity: usize,
    },
    /// The system, or the engine's budget, has no memory left.
    Memory,
    /// The bus is closed.
    Closed,
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadKey(0) => f.write_str("a key must not be empty"),
            Self::BadKey(len) => write!(f, "a key has at most {} bytes, not {len}", Key::MAX),
            Self::ReservedKey => f.write_str("keys that begin with 'job:' belong to jobs"),
            Self::Exists => f.write_str("the key exists"),
            Self::Busy => f.write_str("the key is being written"),
            Self::NotFound => f.write_str("no such key"),
            Self::Capacity {
                wanted,
                used,
                capacity,
            } => write!(
                f,
                "{wanted} bytes do not fit on the bus: {used} of {capacity} bytes are taken"
            ),
            Self::Memory => f.write_str("out of memory"),
            Self::Closed => f.write_str("the bus is closed"),
        }
    }
}

impl std::error::Error for BusError {}
