//! `Engine`: workers that run kernels, and a bus.

use std::sync::Arc;
use std::time::Duration;

use hybridloop_sync::primitives::{AtomicU64, Ordering};

use crate::arg::Arg;
use crate::bus::{Bus, BusStats, Policy};
use crate::error::SubmitError;
use crate::job::batch::{Batch, BatchListener};
use crate::job::inputs::Inputs;
use crate::job::resources::Resources;
use crate::job::{Job, JobOptions};
use crate::memory::limit::{is_memory_low, MemoryLimit};
use crate::order::Order;
use crate::registry::kernel::Kernel;
use crate::scheduler::pool::Pool;

/// Sizes and limits of an engine.
#[derive(Clone, Debug)]
pub struct Config {
    /// Threads that run kernels; by default one per processor.
    pub threads: usize,
    /// The order of jobs with the same priority.
    pub order: Order,
    /// The greatest number of queued jobs.
    pub max_queue: usize,
    /// The greatest size of the bus, in bytes.
    pub bus_capacity: usize,
    /// What to do when the bus is full.
    pub bus_policy: Policy,
    /// The greatest size of live results and blocks of the bus, in bytes.
    pub memory: usize,
    /// The number of bytes that one job may allocate.
    pub job_memory: usize,
    /// The number of values that one job may have emitted and nobody has taken.
    pub job_items: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            order: Order::Fifo,
            max_queue: 65536,
            bus_capacity: 256 << 20,
            bus_policy: Policy::Error,
            memory: usize::MAX,
            job_memory: usize::MAX,
            job_items: 1 << 20,
        }
    }
}

/// Counters and sizes of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Threads that run kernels.
    pub threads: usize,
    /// Queued jobs.
    pub queued: usize,
    /// Running jobs.
    pub running: usize,
    /// Jobs whose kernels have returned, and whose calls wait for their completion.
    pub pending: usize,
    /// Jobs that have run.
    pub completed: u64,
    /// Jobs whose kernel has returned a value.
    pub done: u64,
    /// Jobs whose kernel has failed.
    pub failed: u64,
    /// Jobs that were cancelled, timed out, or were queued when the engine was closed.
    pub cancelled: u64,
    /// Bytes of live results and blocks.
    pub memory: usize,
    /// The bus.
    pub bus: BusStats,
}

/// A pool of workers that run kernels, and a bus. The threads start with the first job.
pub struct Engine {
    pool: Pool,
    resources: Arc<Resources>,
}

impl Engine {
    /// An engine of this process. The child of a fork has to make its own.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let memory = MemoryLimit::new(config.memory);
        let bus = Bus::new(config.bus_capacity, config.bus_policy, memory.clone());
        let resources = Resources::new(bus, memory, config.job_memory, config.job_items);
        Self {
            pool: Pool::new(
                config.threads,
                config.order,
                config.max_queue,
                resources.clone(),
            ),
            resources,
        }
    }

    /// Whether this process made it. In the child of a fork neither the engine nor its bus may be used.
    pub fn is_current_process(&self) -> bool {
        self.resources.is_current_process()
    }

    /// Its bus.
    pub fn bus(&self) -> &Arc<Bus> {
        &self.resources.bus
    }

    /// The limit on the memory of results, for memory that the binding allocates for them.
    pub fn memory(&self) -> &Arc<MemoryLimit> {
        &self.resources.memory
    }

    /// Checks the arguments of a call, and queues a job that runs it. `out` becomes the argument for the parameter that is
    /// written, or the last one if the kernel has no signature. If it fails, nothing has run and nothing is kept.
    ///
    /// # Errors
    /// [`SubmitError`]
    pub fn submit(
        &self,
        kernel: &Arc<Kernel>,
        args: Vec<Arg>,
        out: Option<Arg>,
        options: JobOptions,
    ) -> Result<Arc<Job>, SubmitError> {
        let id = Job::next_id();
        let inputs = Inputs::bind(id, kernel, args, out, self.memory())?;
        self.pool.admit(1)?;
        let resources = self.resources.clone();
        let job = Job::new(id, kernel.clone(), inputs, options, None, resources);
        self.pool.submit(std::iter::once(&job));
        Ok(job)
    }

    /// Submits many calls of one kernel: all of them, or none. When all jobs are done, `listener` is notified once of the
    /// batch, and not of single jobs.
    ///
    /// # Errors
    /// [`SubmitError`]
    pub fn submit_many(
        &self,
        kernel: &Arc<Kernel>,
        calls: Vec<Vec<Arg>>,
        listener: Option<Arc<dyn BatchListener>>,
        options: &dyn Fn() -> JobOptions,
    ) -> Result<(Arc<Batch>, Vec<Arc<Job>>), SubmitError> {
        let mut jobs = Vec::new();
        let room = jobs.try_reserve_exact(calls.len());
        room.map_err(|_| SubmitError::Memory)?;
        let batch = Batch::new(calls.len(), listener);
        for (index, args) in calls.into_iter().enumerate() {
            if is_memory_low() {
                return Err(SubmitError::Memory);
            }
            let id = Job::next_id();
            let inputs = Inputs::bind(id, kernel, args, None, self.memory())
                .map_err(|error| SubmitError::Call(index, Box::new(error)))?;
            let (batch, resources) = (Some(batch.clone()), self.resources.clone());
            let kernel = kernel.clone();
            jobs.push(Job::new(id, kernel, inputs, options(), batch, resources));
        }
        self.pool.admit(jobs.len())?;
        self.pool.submit(jobs.iter());
        Ok((batch, jobs))
    }

    /// The greatest number of queued jobs.
    pub fn max_queue(&self) -> usize {
        self.pool.max_queue
    }

    /// The error for more calls than can be queued.
    pub fn queue_full(&self, wanted: usize) -> SubmitError {
        self.pool.queue_full(wanted)
    }

    /// Counters and sizes.
    pub fn stats(&self) -> Stats {
        let resources = &self.resources;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            threads: self.pool.threads(),
            queued: resources.queued.load(Ordering::Relaxed),
            running: self.pool.running(),
            pending: resources.deferred.len(),
            completed: count(&resources.completed),
            done: count(&resources.done),
            failed: count(&resources.failed),
            cancelled: count(&resources.cancelled),
            memory: resources.memory.used(),
            bus: resources.bus.stats(),
        }
    }

    /// Refuses new jobs, and starts none of those in the queue. [`Engine::close`] must follow.
    pub fn stop_starting(&self) {
        if self.is_current_process() {
            self.pool.stop_starting();
        }
    }

    /// Ends queued jobs, cancels running ones, waits for them for at most `timeout`, and empties the bus. Returns the names of
    /// the kernels that have not returned, or whose calls are not completed: these keep their threads and buffers until they do.
    pub fn close(&self, timeout: Duration) -> Vec<String> {
        let names = self.pool.close(timeout);
        if self.is_current_process() {
            self.bus().close();
        }
        names
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}
