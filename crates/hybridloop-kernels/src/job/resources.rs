//! What the jobs of an engine share.

use std::sync::Arc;

use hybridloop_sync::primitives::{AtomicU64, AtomicUsize, Ordering};
use hybridloop_sync::Process;

use crate::bus::Bus;
use crate::job::deferred::DeferredCalls;
use crate::job::result::JobResult;
use crate::memory::limit::MemoryLimit;

/// The bus, the memory limits and the counters of an engine.
pub(crate) struct Resources {
    process: Process,
    pub bus: Arc<Bus>,
    pub memory: Arc<MemoryLimit>,
    /// Bytes that one job may allocate.
    pub job_memory: usize,
    /// Values that one job may have emitted and nobody has taken.
    pub job_items: usize,
    /// Jobs in the queue.
    pub queued: AtomicUsize,
    /// Calls that wait for their completion.
    pub deferred: Arc<DeferredCalls>,
    /// Jobs that have run.
    pub completed: AtomicU64,
    pub done: AtomicU64,
    pub failed: AtomicU64,
    pub cancelled: AtomicU64,
}

impl Resources {
    pub fn new(
        bus: Arc<Bus>,
        memory: Arc<MemoryLimit>,
        job_memory: usize,
        job_items: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            process: Process::current(),
            bus,
            memory,
            job_memory,
            job_items,
            queued: AtomicUsize::new(0),
            deferred: DeferredCalls::new(),
            completed: AtomicU64::new(0),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
        })
    }

    pub fn is_current_process(&self) -> bool {
        self.process.is_current()
    }

    /// A job has left the queue.
    pub fn dequeued(&self) {
        self.queued.fetch_sub(1, Ordering::AcqRel);
    }

    /// A job has ended.
    pub fn count(&self, result: &JobResult) {
        let counter = match result {
            JobResult::Value(_) => &self.done,
            JobResult::Error(_) => &self.failed,
            JobResult::Cancelled | JobResult::TimedOut | JobResult::Closed => &self.cancelled,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
