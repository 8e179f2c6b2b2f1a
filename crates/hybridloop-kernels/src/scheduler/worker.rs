//! One worker: a thread that takes jobs from the queue and runs them.

use std::sync::Arc;

use hybridloop_sync::primitives::{lock, AtomicBool, Condvar, Mutex, Ordering};
use hybridloop_sync::AdaptiveSpin;

use crate::call;
use crate::job::resources::Resources;
use crate::job::result::JobResult;
use crate::job::Job;
use crate::order::Order;
use crate::scheduler::idle::Idle;
use crate::scheduler::queue::JobQueue;

/// What the workers share.
pub(super) struct Workers {
    pub resources: Arc<Resources>,
    pub queue: JobQueue<Arc<Job>>,
    pub idle: Idle,
    pub closed: AtomicBool,
    /// The job that each worker runs.
    pub running: Vec<Mutex<Option<Arc<Job>>>>,
    /// Workers that have not ended.
    pub alive: Mutex<usize>,
    /// Notified when a worker ends.
    pub ended: Condvar,
}

impl Workers {
    pub fn new(threads: usize, order: Order, resources: Arc<Resources>) -> Arc<Self> {
        Arc::new(Self {
            resources,
            queue: JobQueue::new(order),
            idle: Idle::new(),
            closed: AtomicBool::new(false),
            running: (0..threads.max(1)).map(|_| Mutex::new(None)).collect(),
            alive: Mutex::new(0),
            ended: Condvar::new(),
        })
    }

    /// Runs jobs until the pool is closed.
    pub fn work(&self, index: usize) {
        lower_priority();
        let slot = &self.running[index];
        let has_work = || !self.queue.is_empty();
        let mut spin = AdaptiveSpin::default();
        // A thread that waited for the last job often submits the next one at once.
        let mut just_worked = false;
        loop {
            let Some(job) = self.queue.pop() else {
                if std::mem::take(&mut just_worked) && spin.should_spin() {
                    let mut in_time = AdaptiveSpin::time_limit();
                    let keep_spinning = || in_time() && !self.closed.load(Ordering::Relaxed);
                    let found = self.idle.spin(has_work, keep_spinning);
                    spin.record(found);
                    if found {
                        continue;
                    }
                }
                if !self.idle.sleep(has_work) {
                    break;
                }
                continue;
            };
            just_worked = true;
            if !self.queue.is_empty() {
                // The producer that woke this worker relies on it to wake the next.
                self.idle.notify();
            }
            *lock(slot) = Some(job.clone());
            // `close()` sets the flag, then cancels the jobs in the slots: a job that misses the one meets the other.
            if self.closed.load(Ordering::SeqCst) {
                job.finish_if_queued(JobResult::Closed);
            } else if job.start() {
                call::run(job);
            }
            *lock(slot) = None;
        }
        *lock(&self.alive) -= 1;
        self.ended.notify_all();
    }
}

/// Makes the system prefer event loops: one that wakes up on a processor where a kernel computes would otherwise wait for
/// milliseconds, until the time slice of the kernel is over.
#[cfg(all(target_os = "linux", not(any(loom, miri))))]
fn lower_priority() {
    /// Steps of `nice`. Beside a thread that never sleeps a worker still gets a quarter of a processor.
    const STEPS: libc::c_int = 5;
    // SAFETY: both calls take numbers only. On Linux, 0 means the calling thread.
    unsafe {
        let nice = libc::getpriority(libc::PRIO_PROCESS, 0);
        // A sandbox may forbid it; then the priority stays as it is.
        libc::setpriority(libc::PRIO_PROCESS, 0, nice + STEPS);
    }
}

#[cfg(not(all(target_os = "linux", not(any(loom, miri)))))]
fn lower_priority() {}
