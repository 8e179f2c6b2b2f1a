//! Counters of a bus.

use hybridloop_sync::primitives::AtomicU64;

/// Counters and sizes of a bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct BusStats {
    pub keys: usize,
    pub bytes: usize,
    pub capacity: usize,
    pub writes: u64,
    pub reads: u64,
    pub pops: u64,
    pub evictions: u64,
    /// Calls of Python that were refused because a kernel was writing.
    pub busy: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub writes: AtomicU64,
    pub reads: AtomicU64,
    pub pops: AtomicU64,
    pub evictions: AtomicU64,
    pub busy: AtomicU64,
}
