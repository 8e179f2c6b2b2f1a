//! Jobs that were submitted together.

use std::fmt;
use std::sync::Arc;

use hybridloop_sync::fork::Process;
use hybridloop_sync::primitives::{lock, AtomicUsize, Mutex, Ordering};

use crate::job::event::{Event, EventQueue};

/// Jobs that were submitted together.
pub struct Batch {
    id: u64,
    remaining: AtomicUsize,
    listeners: Mutex<Vec<Arc<EventQueue>>>,
    process: Process,
}

impl Batch {
    pub(crate) fn new(jobs: usize, listener: Option<Arc<EventQueue>>) -> Arc<Self> {
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

    /// How many of its jobs are not done.
    pub fn remaining(&self) -> usize {
        self.remaining.load(Ordering::Acquire)
    }

    /// Posts [`Event::Batch`] to another queue; at once if all jobs are done. In the child of a fork it never does.
    pub fn subscribe(&self, listener: Arc<EventQueue>) {
        if !self.process.is_current() {
            return;
        }
        let mut listeners = lock(&self.listeners);
        // Whoever takes the last job down to nothing empties the list afterwards.
        if self.remaining() > 0 {
            listeners.push(listener);
            return;
        }
        drop(listeners);
        listener.push(Event::Batch(self.id));
    }

    pub(crate) fn job_done(&self) {
        if self.remaining.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let listeners = std::mem::take(&mut *lock(&self.listeners));
        for listener in listeners {
            listener.push(Event::Batch(self.id));
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({}, {} to come)", self.id, self.remaining())
    }
}
