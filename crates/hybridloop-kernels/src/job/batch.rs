//! Jobs that were submitted together.

use std::fmt;
use std::sync::Arc;

use hybridloop_sync::fork::Process;
use hybridloop_sync::primitives::{lock, AtomicUsize, Mutex, Ordering};

use crate::completion_queue::Mailbox;
use crate::job::event::Event;

/// Jobs that were submitted together.
pub struct Batch {
    id: u64,
    remaining: AtomicUsize,
    listeners: Mutex<Vec<Arc<Mailbox<Event>>>>,
    process: Process,
}

impl Batch {
    pub(crate) fn new(jobs: usize, mailbox: Option<Arc<Mailbox<Event>>>) -> Arc<Self> {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            remaining: AtomicUsize::new(jobs),
            listeners: Mutex::new(mailbox.into_iter().collect()),
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

    /// Posts [`Event::Batch`] to another mailbox; at once if all jobs are done. In the child of a fork it never does.
    pub fn subscribe(&self, mailbox: Arc<Mailbox<Event>>) {
        if !self.process.is_current() {
            return;
        }
        let mut listeners = lock(&self.listeners);
        // Whoever takes the last job down to nothing empties the list afterwards.
        if self.remaining() > 0 {
            listeners.push(mailbox);
            return;
        }
        drop(listeners);
        mailbox.post(Event::Batch(self.id));
    }

    pub(crate) fn job_done(&self) {
        if self.remaining.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let listeners = std::mem::take(&mut *lock(&self.listeners));
        for mailbox in listeners {
            mailbox.post(Event::Batch(self.id));
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({}, {} to come)", self.id, self.remaining())
    }
}
