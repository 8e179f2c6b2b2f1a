//! The threads that run kernels.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use hybridloop_sync::primitives::{
    lock, thread, AtomicBool, AtomicU64, AtomicUsize, Condvar, Mutex, Ordering,
};
use hybridloop_sync::{AdaptiveSpin, Process};

use crate::bus::Bus;
use crate::call;
use crate::channel::Order;
use crate::error::SubmitError;
use crate::job::result::Outcome;
use crate::job::Job;
use crate::memory::limit::Budget;
use crate::scheduler::idle::Idle;
use crate::scheduler::queue::JobQueue;

/// What jobs, workers and the engine share.
pub(crate) struct Shared {
    process: Process,
    queue: JobQueue<Arc<Job>>,
    idle: Idle,
    queued: AtomicUsize,
    max_queue: usize,
    closed: AtomicBool,
    /// What each worker runs.
    running: Vec<Mutex<Option<Arc<Job>>>>,
    live: Mutex<usize>,
    ended: Condvar,
    pub bus: Arc<Bus>,
    pub memory: Arc<Budget>,
    pub job_memory: usize,
    pub completed: AtomicU64,
    pub done: AtomicU64,
    pub failed: AtomicU64,
    pub cancelled: AtomicU64,
}

impl Shared {
    pub fn is_current_process(&self) -> bool {
        self.process.is_current()
    }

    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// A job has ended.
    pub fn count(&self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Value(_) => &self.done,
            Outcome::Error(_) => &self.failed,
            Outcome::Cancelled | Outcome::TimedOut | Outcome::Closed => &self.cancelled,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// A job is no longer waiting.
    pub fn left_queue(&self) {
        self.queued.fetch_sub(1, Ordering::AcqRel);
    }
}

pub(crate) struct Pool {
    pub shared: Arc<Shared>,
    started: Mutex<bool>,
    is_started: AtomicBool,
}

impl Pool {
    pub fn new(
        threads: usize,
        order: Order,
        max_queue: usize,
        bus: Arc<Bus>,
        memory: Arc<Budget>,
        job_memory: usize,
    ) -> Self {
        let shared = Shared {
            process: Process::current(),
            queue: JobQueue::new(order),
            idle: Idle::new(),
            queued: AtomicUsize::new(0),
            max_queue,
            closed: AtomicBool::new(false),
            running: (0..threads.max(1)).map(|_| Mutex::new(None)).collect(),
            live: Mutex::new(0),
            ended: Condvar::new(),
            bus,
            memory,
            job_memory,
            completed: AtomicU64::new(0),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
            started: Mutex::new(false),
            is_started: AtomicBool::new(false),
        }
    }

    pub fn threads(&self) -> usize {
        self.shared.running.len()
    }

    pub fn running(&self) -> usize {
        self.shared
            .running
            .iter()
            .filter(|slot| lock(slot).is_some())
            .count()
    }

    /// Makes room for `n` jobs and sees to it that there are workers.
    pub fn admit(&self, n: usize) -> Result<(), SubmitError> {
        let shared = &self.shared;
        if !shared.is_current_process() {
            return Err(SubmitError::Forked);
        }
        if shared.closed.load(Ordering::Acquire) {
            return Err(SubmitError::Closed);
        }
        if !self.is_started.load(Ordering::Acquire) {
            self.start()?;
        }
        let fits = |queued: usize| queued.checked_add(n).filter(|sum| *sum <= shared.max_queue);
        match shared
            .queued
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, fits)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(SubmitError::QueueFull(shared.max_queue)),
        }
    }

    /// Queues jobs that were admitted.
    pub fn submit<'a>(&self, jobs: impl Iterator<Item = &'a Arc<Job>>) {
        let mut count = 0_usize;
        for job in jobs {
            self.shared.queue.push(job.priority(), job.clone());
            count += 1;
            if count == 1 {
                self.shared.idle.notify();
            }
        }
        if count > 1 {
            // Whoever has taken the first has not seen these.
            self.shared.idle.notify();
        }
        // The engine was closed meanwhile: nobody else will take these.
        if self.shared.closed.load(Ordering::SeqCst) {
            self.drain();
        }
    }

    fn start(&self) -> Result<(), SubmitError> {
        let mut started = lock(&self.started);
        if *started {
            return Ok(());
        }
        for index in 0..self.threads() {
            let shared = self.shared.clone();
            *lock(&shared.live) += 1;
            let spawned = thread::Builder::new()
                .name(format!("hybridloop-{index}"))
                .spawn(move || work(&shared, index));
            if let Err(error) = spawned {
                *lock(&self.shared.live) -= 1;
                if index == 0 {
                    return Err(SubmitError::Thread(error.to_string()));
                }
                break;
            }
        }
        *started = true;
        self.is_started.store(true, Ordering::Release);
        Ok(())
    }

    fn drain(&self) {
        while let Some(job) = self.shared.queue.pop() {
            job.end_if_queued(Outcome::Closed);
        }
    }

    /// Ends what waits, tells what runs, and waits at most so long for it. Gives the names of the kernels that still run: they
    /// go on by themselves.
    pub fn close(&self, timeout: Duration) -> Vec<String> {
        let shared = &self.shared;
        if !shared.is_current_process() {
            return Vec::new();
        }
        shared.closed.store(true, Ordering::SeqCst);
        self.drain();
        for slot in &shared.running {
            let job = lock(slot).clone();
            if let Some(job) = job {
                job.cancel();
            }
        }
        shared.idle.close();
        let until = Instant::now().checked_add(timeout);
        let mut live = lock(&shared.live);
        while *live > 0 {
            let left = until.map_or(Duration::from_secs(3600), |until| {
                until.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                break;
            }
            live = shared
                .ended
                .wait_timeout(live, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        drop(live);
        let names = shared.running.iter().filter_map(|slot| {
            let job = lock(slot).clone()?;
            Some(job.kernel().name().to_owned())
        });
        names.collect()
    }
}

/// Has the scheduler prefer the threads that answer clients: an event loop that wakes up where a kernel computes would
/// otherwise wait for milliseconds, until the kernel's time slice is over.
#[cfg(all(target_os = "linux", not(any(loom, miri))))]
fn give_way() {
    /// Steps of `nice`. Beside a thread that never sleeps a worker still has a quarter of a processor.
    const STEPS: libc::c_int = 5;
    // SAFETY: neither takes a pointer. On Linux both are about the calling thread alone.
    unsafe {
        let nice = libc::getpriority(libc::PRIO_PROCESS, 0);
        // May be forbidden by a sandbox: then nothing changes.
        libc::setpriority(libc::PRIO_PROCESS, 0, nice + STEPS);
    }
}

#[cfg(not(all(target_os = "linux", not(any(loom, miri)))))]
fn give_way() {}

fn work(shared: &Arc<Shared>, index: usize) {
    give_way();
    let slot = &shared.running[index];
    let has_work = || !shared.queue.is_empty();
    let mut spin = AdaptiveSpin::default();
    // What is to be done next often comes from whoever waited for what was done last.
    let mut just_worked = false;
    loop {
        let Some(job) = shared.queue.pop() else {
            if std::mem::take(&mut just_worked) && spin.should_spin() {
                let mut in_time = AdaptiveSpin::time_limit();
                let go_on = || in_time() && !shared.closed.load(Ordering::Relaxed);
                let found = shared.idle.look(has_work, go_on);
                spin.record(found);
                if found {
                    continue;
                }
            }
            if !shared.idle.sleep(has_work) {
                break;
            }
            continue;
        };
        just_worked = true;
        if !shared.queue.is_empty() {
            // Whoever woke this worker relies on it to wake the next.
            shared.idle.notify();
        }
        *lock(slot) = Some(job.clone());
        if job.start() {
            if shared.closed.load(Ordering::SeqCst) {
                job.cancel();
            }
            call::run(&job);
            shared.completed.fetch_add(1, Ordering::Relaxed);
        }
        *lock(slot) = None;
    }
    *lock(&shared.live) -= 1;
    shared.ended.notify_all();
}
