//! Limits on memory.

use std::sync::{Arc, OnceLock};

use hybridloop_sync::primitives::{AtomicUsize, Ordering};

/// Whether the system has no memory left.
static LOW_CHECK: OnceLock<fn() -> bool> = OnceLock::new();

/// Sets a function that is asked before each reservation: while it returns true, nothing is reserved. The binding checks with it
/// whether its allocator has begun to use what it keeps for allocations that must not fail. Only the first call has an effect.
pub fn set_memory_check(check: fn() -> bool) {
    let _ = LOW_CHECK.set(check);
}

pub(crate) fn is_memory_low() -> bool {
    LOW_CHECK.get().is_some_and(|check| check())
}

/// A number of bytes, and how many of them are in use.
#[derive(Debug)]
pub struct MemoryLimit {
    limit: usize,
    used: AtomicUsize,
    /// The limit that the bytes count towards as well.
    parent: Option<Arc<MemoryLimit>>,
}

impl MemoryLimit {
    /// A limit of `limit` bytes, of which none is in use.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            parent: None,
        })
    }

    /// A limit of `limit` bytes, which count towards `parent` as well.
    #[must_use]
    pub fn within(parent: &Arc<Self>, limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            parent: Some(parent.clone()),
        })
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes in all.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Reserves `bytes` until the reservation is dropped; `None` if fewer are left, or the system has no memory.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        (!is_memory_low() && self.try_acquire(bytes)).then(|| Reservation {
            limit: Some(self.clone()),
            bytes,
        })
    }

    pub(crate) fn try_acquire(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        // Relaxed: only the number counts. The memory itself passes between threads by other means.
        let acquired = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .is_ok();
        if !acquired {
            return false;
        }
        match &self.parent {
            Some(parent) if !parent.try_acquire(bytes) => {
                self.used.fetch_sub(bytes, Ordering::Relaxed);
                false
            }
            _ => true,
        }
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.release(bytes);
        }
    }
}

/// Bytes reserved of a [`MemoryLimit`], released when dropped.
#[derive(Debug, Default)]
pub struct Reservation {
    limit: Option<Arc<MemoryLimit>>,
    bytes: usize,
}

impl Reservation {
    /// Changes the number of bytes; `false`, and no change, if fewer are left.
    pub(crate) fn resize(&mut self, bytes: usize) -> bool {
        if let Some(limit) = &self.limit {
            if bytes > self.bytes {
                if is_memory_low() || !limit.try_acquire(bytes - self.bytes) {
                    return false;
                }
            } else {
                limit.release(self.bytes - bytes);
            }
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(limit) = &self.limit {
            limit.release(self.bytes);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::MemoryLimit;

    #[test]
    fn reservations_are_released() {
        let limit = MemoryLimit::new(100);
        let mut first = limit.reserve(60).unwrap();
        assert!(limit.reserve(41).is_none());
        assert!(limit.reserve(usize::MAX).is_none());
        assert!(!first.resize(101));
        assert!(first.resize(100));
        assert_eq!(limit.used(), 100);
        assert!(first.resize(10));
        drop(limit.reserve(90));
        assert_eq!(limit.used(), 10);
        drop(first);
        assert_eq!(limit.used(), 0);
    }

    #[test]
    fn a_limit_within_another_counts_towards_both() {
        let outer = MemoryLimit::new(100);
        let (one, other) = (
            MemoryLimit::within(&outer, 80),
            MemoryLimit::within(&outer, 80),
        );
        let mut first = one.reserve(70).unwrap();
        assert!(one.reserve(11).is_none(), "its own limit");
        assert!(other.reserve(31).is_none(), "the limit of both");
        assert_eq!((one.used(), other.used(), outer.used()), (70, 0, 70));
        assert!(first.resize(20));
        let second = other.reserve(80).unwrap();
        assert!(!first.resize(21));
        assert_eq!((one.used(), other.used(), outer.used()), (20, 80, 100));
        drop((first, second));
        assert_eq!((one.used(), other.used(), outer.used()), (0, 0, 0));
    }
}
