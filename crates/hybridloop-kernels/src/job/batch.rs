//! Jobs that were submitted together.

use std::fmt;
use std::sync::Arc;

use hybridloop_sync::primitives::{lock, AtomicUsize, Mutex, Ordering};
use hybridloop_sync::Process;

/// Is notified about batches. The method is called by any thread and must not block.
pub trait BatchListener: Send + Sync {
    /// All jobs of the batch with this number are done.
    fn batch_done(&self, batch: u64);
}

/// Counts the jobs that were submitted together.
pub struct Batch {
    id: u64,
    remaining: AtomicUsize,
    listeners: Mutex<Vec<Arc<dyn BatchListener>>>,
    process: Process,
}

impl Batch {
    pub(crate) fn new(jobs: usize, listener: Option<Arc<dyn BatchListener>>) -> Arc<Self> {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            remaining: AtomicUsize::new(jobs),
            listeners: Mutex::new(listener.into_iter().collect()),
            process: Process::current(),
        })
    }

    /// Its number, unique in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The number of its jobs that are not done.
    pub fn remaining(&self) -> usize {
        self.remaining.load(Ordering::Acquire)
    }

    /// Notifies another listener when all jobs are done; at once if they are. In the child of a fork it never does.
    pub fn subscribe(&self, listener: Arc<dyn BatchListener>) {
        if !self.process.is_current() {
            return;
        }
        let mut listeners = lock(&self.listeners);
        // The thread that ends the last job empties the list after it has counted to 0.
        if self.remaining() > 0 {
            listeners.push(listener);
            return;
        }
        drop(listeners);
        listener.batch_done(self.id);
    }

    pub(crate) fn job_done(&self) {
        if self.remaining.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let listeners = std::mem::take(&mut *lock(&self.listeners));
        for listener in listeners {
            listener.batch_done(self.id);
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({}, {} remaining)", self.id, self.remaining())
    }
}
