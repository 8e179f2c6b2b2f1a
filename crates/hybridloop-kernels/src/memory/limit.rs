//! Memory limits.

use std::sync::Arc;

use hybridloop_sync::primitives::{AtomicUsize, Ordering};

/// So many bytes and no more.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
        })
    }

    /// Bytes that are taken.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that can be taken in all.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Takes `bytes` until the charge is dropped; `None` if that many are not left.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        self.reserve(bytes).then(|| Charge {
            budget: Some(self.clone()),
            bytes,
        })
    }

    pub(crate) fn reserve(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        // Relaxed: a count; what it counts is handed over by other means.
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .is_ok()
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes of a [`Budget`], given back when dropped.
#[derive(Debug, Default)]
pub struct Charge {
    budget: Option<Arc<Budget>>,
    bytes: usize,
}

impl Charge {
    /// Charges another number of bytes instead; `false`, and no change, if they are not left.
    pub(crate) fn resize(&mut self, bytes: usize) -> bool {
        if let Some(budget) = &self.budget {
            if bytes > self.bytes && !budget.reserve(bytes - self.bytes) {
                return false;
            }
            budget.release(self.bytes.saturating_sub(bytes));
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.release(self.bytes);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Budget;

    #[test]
    fn charges_are_given_back() {
        let budget = Budget::new(100);
        let mut first = budget.take(60).unwrap();
        assert!(budget.take(41).is_none());
        assert!(budget.take(usize::MAX).is_none());
        assert!(!first.resize(101));
        assert!(first.resize(100));
        assert_eq!(budget.used(), 100);
        assert!(first.resize(10));
        drop(budget.take(90));
        assert_eq!(budget.used(), 10);
        drop(first);
        assert_eq!(budget.used(), 0);
    }
}
