//! Errors of the bus.

use std::fmt;

/// The greatest length of a key.
pub(super) const MAX_KEY_LENGTH: usize = 255;

/// Why an operation on the bus fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusError {
    /// A key has this length: it is empty or too long.
    BadKey(usize),
    /// The key begins with `job:`, which only kernels may write.
    ReservedKey,
    /// The key exists, and Python does not overwrite.
    Exists,
    /// A kernel is writing the key.
    Busy,
    /// The key does not exist.
    NotFound,
    /// The bus has fewer bytes left.
    Capacity {
        /// Bytes of the write.
        wanted: usize,
        /// Bytes in use.
        used: usize,
        /// Bytes in all.
        capacity: usize,
    },
    /// The system or the memory limit of the engine has no memory left.
    Memory,
    /// The bus is closed.
    Closed,
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadKey(0) => f.write_str("a key must not be empty"),
            Self::BadKey(len) => {
                write!(f, "a key has at most {MAX_KEY_LENGTH} bytes, not {len}")
            }
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
