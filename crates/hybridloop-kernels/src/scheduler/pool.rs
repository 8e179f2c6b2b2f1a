//! The workers of an engine: admission of jobs, start and end of the threads.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use hybridloop_sync::primitives::{lock, thread, AtomicBool, Mutex, Ordering};

use crate::error::SubmitError;
use crate::job::resources::Resources;
use crate::job::result::JobResult;
use crate::job::Job;
use crate::order::Order;
use crate::scheduler::worker::Workers;

/// Threads that start with the first job.
pub(crate) struct Pool {
    workers: Arc<Workers>,
    pub max_queue: usize,
    started: Mutex<bool>,
    is_started: AtomicBool,
}

impl Pool {
    pub fn new(threads: usize, order: Order, max_queue: usize, resources: Arc<Resources>) -> Self {
        Self {
            workers: Workers::new(threads, order, resources),
            max_queue,
            started: Mutex::new(false),
            is_started: AtomicBool::new(false),
        }
    }

    fn resources(&self) -> &Resources {
        &self.workers.resources
    }

    pub fn threads(&self) -> usize {
        self.workers.running.len()
    }

    pub fn running(&self) -> usize {
        self.workers
            .running
            .iter()
            .filter(|slot| lock(slot).is_some())
            .count()
    }

    /// Reserves places in the queue for `n` jobs, and starts the workers if need be.
    pub fn admit(&self, n: usize) -> Result<(), SubmitError> {
        let resources = self.resources();
        if !resources.is_current_process() {
            return Err(SubmitError::Forked);
        }
        if self.workers.closed.load(Ordering::Acquire) {
            return Err(SubmitError::Closed);
        }
        if !self.is_started.load(Ordering::Acquire) {
            self.start()?;
        }
        // Those that wait for their completion use no worker, so only this limits their number.
        let limit = self.max_queue.saturating_sub(resources.deferred.len());
        let fits = |queued: usize| queued.checked_add(n).filter(|sum| *sum <= limit);
        match resources
            .queued
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, fits)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(self.queue_full(n)),
        }
    }

    /// The error for `wanted` jobs that cannot be queued.
    pub fn queue_full(&self, wanted: usize) -> SubmitError {
        SubmitError::QueueFull {
            wanted,
            queued: self.resources().queued.load(Ordering::Relaxed)
                + self.resources().deferred.len(),
            limit: self.max_queue,
        }
    }

    /// Queues jobs that were admitted.
    pub fn submit<'a>(&self, jobs: impl Iterator<Item = &'a Arc<Job>>) {
        let workers = &self.workers;
        let mut count = 0_usize;
        for job in jobs {
            workers.queue.push(job.priority(), job.clone());
            count += 1;
            if count == 1 {
                workers.idle.notify();
            }
        }
        if count > 1 {
            // The worker that took the first one may not have seen the others.
            workers.idle.notify();
        }
        // If the pool was closed meanwhile, no worker takes these jobs.
        if workers.closed.load(Ordering::SeqCst) {
            self.end_queued();
        }
    }

    fn start(&self) -> Result<(), SubmitError> {
        let mut started = lock(&self.started);
        if *started {
            return Ok(());
        }
        for index in 0..self.threads() {
            let workers = self.workers.clone();
            *lock(&workers.alive) += 1;
            let spawned = thread::Builder::new()
                .name(format!("hybridloop-{index}"))
                .spawn(move || workers.work(index));
            if let Err(error) = spawned {
                *lock(&self.workers.alive) -= 1;
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

    /// Refuses new jobs, and starts none of those in the queue.
    pub fn stop_starting(&self) {
        self.workers.closed.store(true, Ordering::SeqCst);
    }

    fn end_queued(&self) {
        while let Some(job) = self.workers.queue.pop() {
            job.finish_if_queued(JobResult::Closed);
        }
    }

    /// Ends queued jobs, cancels running ones and waits for them for at most `timeout`. Returns the names of the kernels that
    /// still run, and of those whose calls are not completed; threads end when kernels return.
    pub fn close(&self, timeout: Duration) -> Vec<String> {
        let workers = &self.workers;
        if !workers.resources.is_current_process() {
            return Vec::new();
        }
        self.stop_starting();
        self.end_queued();
        for slot in &workers.running {
            let job = lock(slot).clone();
            if let Some(job) = job {
                job.cancel();
            }
        }
        workers.resources.deferred.close();
        workers.idle.close();
        let until = Instant::now().checked_add(timeout);
        let mut alive = lock(&workers.alive);
        while *alive > 0 {
            let left = until.map_or(Duration::from_secs(3600), |until| {
                until.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                break;
            }
            alive = workers
                .ended
                .wait_timeout(alive, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        drop(alive);
        let deferred = &workers.resources.deferred;
        deferred.wait_until_empty(until);
        let running = workers.running.iter().filter_map(|slot| {
            let job = lock(slot).clone()?;
            Some((job.id(), job.kernel().name().to_owned()))
        });
        // A job whose kernel has just returned may be in both.
        let names: BTreeMap<_, _> = running.chain(deferred.kernels()).collect();
        names.into_values().collect()
    }
}
