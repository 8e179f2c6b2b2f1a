//! What a bus counts.

use hybridloop_sync::primitives::AtomicU64;

/// What has happened on a bus, and what is there.
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
    /// Foreign calls that were refused because of a native write.
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
