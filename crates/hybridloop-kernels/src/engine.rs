//! A pool of workers and a bus: what kernels run on.

use std::sync::Arc;
use std::time::Duration;

use hybridloop_sync::primitives::Ordering;

use crate::bus::{Bus, BusStats, Policy};
use crate::channel::Order;
use crate::error::SubmitError;
use crate::job::batch::Batch;
use crate::job::event::EventQueue;
use crate::job::{Job, Lent, Options};
use crate::memory::borrows::{Loan, Loans};
use crate::memory::limit::Budget;
use crate::registry::Kernel;
use crate::scheduler::worker::{Pool, Shared};
use crate::value::Arg;

/// Sizes and limits of an engine.
#[derive(Clone, Debug)]
pub struct Config {
    /// Workers; as many as there are processors unless said otherwise.
    pub threads: usize,
    /// In which order jobs of one priority run.
    pub order: Order,
    /// Jobs that may wait.
    pub max_queue: usize,
    /// Bytes on the bus.
    pub bus_capacity: usize,
    /// What to do when the bus is full.
    pub bus_policy: Policy,
    /// Bytes of results, and of blocks of the bus, that are alive.
    pub memory: usize,
    /// Bytes that one job may allocate.
    pub job_memory: usize,
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
        }
    }
}

/// What an engine is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Workers.
    pub threads: usize,
    /// Jobs that wait.
    pub queued: usize,
    /// Jobs that run.
    pub running: usize,
    /// Jobs that have run.
    pub completed: u64,
    /// Jobs whose kernel has returned a value.
    pub done: u64,
    /// Jobs whose kernel has failed.
    pub failed: u64,
    /// Jobs that were cancelled, or too late, or that the end of the engine has ended.
    pub cancelled: u64,
    /// Bytes of results and blocks that are alive.
    pub memory: usize,
    /// The bus.
    pub bus: BusStats,
}

/// See the [module's documentation](self). It starts no thread before the first job.
pub struct Engine {
    pool: Pool,
}

impl Engine {
    /// An engine of this process; a child of a fork makes its own.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let memory = Budget::new(config.memory);
        let bus = Bus::new(config.bus_capacity, config.bus_policy, memory.clone());
        Self {
            pool: Pool::new(
                config.threads,
                config.order,
                config.max_queue,
                bus,
                memory,
                config.job_memory,
            ),
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.pool.shared
    }

    /// Whether this is the process that made it. In a child of a fork neither it nor its bus may be used.
    pub fn is_current_process(&self) -> bool {
        self.shared().is_current_process()
    }

    /// Its bus.
    pub fn bus(&self) -> &Arc<Bus> {
        &self.shared().bus
    }

    /// The budget of results, for memory that the binding wants to charge.
    pub fn memory(&self) -> &Arc<Budget> {
        &self.shared().memory
    }

    /// Checks the arguments of a call, and gives the job that runs it. `out` goes to the parameter that is written to, or to
    /// the end if the kernel has no signature. When it fails, nothing has run and nothing is kept.
    ///
    /// # Errors
    /// [`SubmitError`]
    pub fn submit(
        &self,
        kernel: &Arc<Kernel>,
        mut args: Vec<Arg>,
        out: Option<Arg>,
        options: Options,
    ) -> Result<Arc<Job>, SubmitError> {
        let id = Job::next_id();
        let loan = Self::bind(id, kernel, &mut args, out)?;
        self.pool.admit(1)?;
        let (lent, shared) = (Lent { args, _loan: loan }, self.shared().clone());
        let job = Job::new(id, kernel.clone(), lent, options, None, shared);
        self.pool.submit(std::iter::once(&job));
        Ok(job)
    }

    /// Submits many calls of one kernel at a time; when all are done, one [`Event::Batch`](crate::Event::Batch) with the number
    /// of the batch is pushed to `listener`, and nothing for single jobs. All are taken, or none.
    ///
    /// # Errors
    /// [`SubmitError`]
    pub fn submit_many(
        &self,
        kernel: &Arc<Kernel>,
        calls: Vec<Vec<Arg>>,
        listener: Option<Arc<EventQueue>>,
        options: &dyn Fn() -> Options,
    ) -> Result<(Arc<Batch>, Vec<Arc<Job>>), SubmitError> {
        let mut bound = Vec::with_capacity(calls.len());
        for mut args in calls {
            let id = Job::next_id();
            let loan = Self::bind(id, kernel, &mut args, None)?;
            bound.push((id, Lent { args, _loan: loan }));
        }
        self.pool.admit(bound.len())?;
        let batch = Batch::new(bound.len(), listener);
        let jobs: Vec<_> = bound
            .into_iter()
            .map(|(id, lent)| {
                let (batch, shared) = (Some(batch.clone()), self.shared().clone());
                Job::new(id, kernel.clone(), lent, options(), batch, shared)
            })
            .collect();
        self.pool.submit(jobs.iter());
        Ok((batch, jobs))
    }

    /// Checks the arguments of a job, and borrows their memory.
    fn bind(
        job: u64,
        kernel: &Kernel,
        args: &mut Vec<Arg>,
        out: Option<Arg>,
    ) -> Result<Loan, SubmitError> {
        let has_out = out.is_some();
        if let Some(signature) = kernel.signature() {
            signature.bind(kernel.name(), args, out)?;
        } else {
            // Without a signature only `out` is written to.
            for arg in &mut *args {
                if let Arg::Buffer(buffer) = arg {
                    buffer.writable = false;
                }
            }
            args.extend(out);
        }
        let last = args.len();
        let is_out = |i: usize| match kernel.signature() {
            Some(signature) => signature.params.get(i).is_some_and(|param| param.out),
            None => has_out && i + 1 == last,
        };
        let name = |i: usize| match kernel.signature() {
            Some(signature) => signature
                .params
                .get(i)
                .map_or_else(String::new, |param| param.name.clone()),
            None if is_out(i) => "out".to_owned(),
            None => format!("arg{i}"),
        };
        // A kernel sees as writable only what it was lent for writing.
        for (i, arg) in args.iter_mut().enumerate() {
            if let Arg::Buffer(buffer) = arg {
                buffer.writable &= is_out(i);
            }
        }
        Loans::of_process().lend(job, args, &is_out, &name)
    }

    /// What it is doing.
    pub fn stats(&self) -> Stats {
        let shared = self.shared();
        Stats {
            threads: self.pool.threads(),
            queued: shared.queued(),
            running: self.pool.running(),
            completed: shared.completed.load(Ordering::Relaxed),
            done: shared.done.load(Ordering::Relaxed),
            failed: shared.failed.load(Ordering::Relaxed),
            cancelled: shared.cancelled.load(Ordering::Relaxed),
            memory: shared.memory.used(),
            bus: shared.bus.stats(),
        }
    }

    /// Ends jobs that wait, asks those that run to end, waits for them at most `timeout`, and empties the bus. Gives the names
    /// of the kernels that did not end: they go on by themselves, and so do their buffers.
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
