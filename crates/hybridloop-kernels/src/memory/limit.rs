//! Limits on memory.

use std::sync::Arc;

use hybridloop_sync::primitives::{AtomicUsize, Ordering};

/// A number of bytes, and how many of them are in use.
#[derive(Debug)]
pub struct MemoryLimit {
    limit: usize,
    used: AtomicUsize,
}

impl MemoryLimit {
    /// A limit of `limit` bytes, of which none is in use.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
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

    /// Reserves `bytes` until the reservation is dropped; `None` if fewer are left.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        self.try_acquire(bytes).then(|| Reservation {
            limit: Some(self.clone()),
            bytes,
        })
    }

    pub(crate) fn try_acquire(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        // Relaxed: only the number counts. The memory itself passes between threads by other means.
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .is_ok()
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
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
            if bytes > self.bytes && !limit.try_acquire(bytes - self.bytes) {
                return false;
            }
            limit.release(self.bytes.saturating_sub(bytes));
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
}
