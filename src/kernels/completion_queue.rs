//! `CompletionQueue`: events of native threads on their way to a loop.
//!
//! Each loop has one queue. A native thread posts an event and wakes the loop, once for all events that the loop has not seen
//! yet. The loop then dispatches each event: to the future of the job or batch with that id, or to the future that waits for a
//! key or a channel. A [`LoopCore`](crate::event_loop::LoopCore) is woken by its own notifier; loops of other implementations
//! watch a socket ([`foreign_loop`](crate::kernels::foreign_loop)). Jobs without a loop, and jobs whose loop was closed, are
//! detached: their queue is drained when kernels are used next, which releases their buffers.

use std::any::Any;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hybridloop_kernels::{BusError, Event, EventQueue};
use hybridloop_sync::primitives::lock;
use hybridloop_sync::{AdaptiveSpin, Process, WakeFn};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::PyTraverseError;
use rustc_hash::FxHashMap;

use crate::event_loop::{exceptions, CompletionSource, LoopContext};
use crate::kernels::buffer::NativeBuffer;
use crate::kernels::deferred_drop::drop_deferred;
use crate::kernels::exceptions::bus_error;
use crate::python::future::resolve;
use crate::python::{normalized, ErrSet, FfiResult, Ref};

/// Events dispatched per iteration of the loop, and items given to each job in it, so that kernels do not starve the loop.
const EVENTS_PER_ITERATION: usize = 1024;

/// The functions that a queue calls on the future of a job or batch, on the loop's thread. They are given by the layer above:
/// the queue does not know what a future is.
pub struct FutureVTable {
    /// The job is done, or every job of the batch.
    pub completed: fn(Python<'_>, &Ref, &CompletionQueue) -> PyResult<()>,
    /// A kernel has reported what is done and what there is to do.
    pub progressed: fn(Python<'_>, &Ref, (u64, u64)) -> PyResult<()>,
    /// This many items that a kernel has emitted may be taken until the next call.
    pub emitted: fn(Python<'_>, &Ref, usize) -> PyResult<()>,
    /// There will be no more progress and items. Called by the future itself, with the queue of the loop that runs in this
    /// thread.
    pub ended: fn(Python<'_>, &Ref, &CompletionQueue) -> PyResult<()>,
    /// The queue was closed before the work was done.
    pub detached: fn(Python<'_>, &Ref),
}

/// The future of a job or batch.
#[derive(Clone)]
pub struct PendingFuture {
    pub object: Ref,
    pub vtable: &'static FutureVTable,
}

/// What a future waits for.
#[derive(Clone, Copy)]
pub enum WorkId {
    Job(u64),
    Batch(u64),
}

/// The futures to complete, by the id in the event.
#[derive(Default)]
struct Table {
    jobs: FxHashMap<u64, PendingFuture>,
    batches: FxHashMap<u64, PendingFuture>,
    /// Futures that wait for a key or a channel.
    waiters: FxHashMap<u64, Ref>,
}

/// The events for one loop, and the futures that they complete.
pub struct CompletionQueue {
    events: Arc<EventQueue>,
    /// While it is locked, no Python code runs and no object is dropped.
    table: Mutex<Table>,
    /// The number of jobs and batches in the table.
    pending_jobs: AtomicUsize,
    spin: Mutex<AdaptiveSpin>,
    process: Process,
}

impl CompletionQueue {
    /// A queue whose loop is woken by `wake`. Without it nothing is woken: the loop is closed already.
    pub fn new(wake: Option<WakeFn>) -> Arc<Self> {
        Arc::new(Self {
            events: Arc::new(EventQueue::new(wake)),
            table: Mutex::default(),
            pending_jobs: AtomicUsize::new(0),
            spin: Mutex::default(),
            process: Process::current(),
        })
    }

    /// Whether this process created the queue. After a fork no event arrives in the child, and locks may be held by threads
    /// that exist in the parent only.
    pub fn is_current_process(&self) -> bool {
        self.process.is_current()
    }

    /// Where native threads post events.
    pub fn events(&self) -> &Arc<EventQueue> {
        &self.events
    }

    /// Reserves memory for one more future of each kind, so that registering it cannot fail.
    pub fn reserve(&self) -> PyResult<()> {
        let mut table = lock(&self.table);
        let reserved = table
            .jobs
            .try_reserve(1)
            .and_then(|()| table.batches.try_reserve(1))
            .and_then(|()| table.waiters.try_reserve(1));
        reserved.map_err(|_| PyMemoryError::new_err(()))
    }

    /// Registers the future of a job or batch. Returns the one that was registered before, for the caller to drop.
    pub fn register(&self, id: WorkId, future: PendingFuture) -> Option<PendingFuture> {
        let mut table = lock(&self.table);
        let before = match id {
            WorkId::Job(id) => table.jobs.insert(id, future),
            WorkId::Batch(id) => table.batches.insert(id, future),
        };
        self.count(&table);
        before
    }

    /// Removes the future of a job or batch; later events of it are ignored. Returns the future, for the caller to drop.
    pub fn deregister(&self, id: WorkId) -> Option<PendingFuture> {
        let mut table = lock(&self.table);
        let found = match id {
            WorkId::Job(id) => table.jobs.remove(&id),
            WorkId::Batch(id) => table.batches.remove(&id),
        };
        self.count(&table);
        found
    }

    /// Registers a future that waits for a key or a channel; returns its token, which the event carries.
    pub fn register_waiter(&self, future: Ref) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let token = NEXT.fetch_add(1, Ordering::Relaxed);
        lock(&self.table).waiters.insert(token, future);
        token
    }

    /// Removes the future with that token; later events for it are ignored. Returns the future, for the caller to drop.
    pub fn deregister_waiter(&self, token: u64) -> Option<Ref> {
        lock(&self.table).waiters.remove(&token)
    }

    fn finish_waiter(
        &self,
        py: Python<'_>,
        token: u64,
        finish: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<()>,
    ) -> PyResult<()> {
        let Some(future) = self.deregister_waiter(token) else {
            return Ok(());
        };
        let future = future.bind(py);
        if future.call_method0("done")?.is_truthy()? {
            return Ok(());
        }
        finish(future)
    }

    fn count(&self, table: &Table) {
        let count = table.jobs.len() + table.batches.len();
        self.pending_jobs.store(count, Ordering::Relaxed);
    }

    /// Whether events wait to be dispatched.
    pub fn is_pending(&self) -> bool {
        self.events.is_pending()
    }

    /// Dispatches the events that have arrived, on the loop's thread. Errors go to `report`.
    pub fn dispatch(
        &self,
        py: Python<'_>,
        report: &dyn Fn(PyErr) -> FfiResult<()>,
    ) -> FfiResult<()> {
        if !self.is_current_process() {
            return Ok(());
        }
        self.events.clear();
        // A job that has ended may have dropped the memory of an array, in a thread that must not give it back.
        drop_deferred(py);
        for _ in 0..EVENTS_PER_ITERATION {
            let Some(event) = self.events.pop() else {
                return Ok(());
            };
            if let Err(error) = self.dispatch_event(py, event) {
                report(error)?;
            }
        }
        self.events.mark_pending();
        Ok(())
    }

    fn dispatch_event(&self, py: Python<'_>, event: Event) -> PyResult<()> {
        let job_future = |id: u64| {
            let table = lock(&self.table);
            table.jobs.get(&id).cloned()
        };
        let completed = |id: WorkId| match self.deregister(id) {
            Some(PendingFuture { object, vtable }) => (vtable.completed)(py, &object, self),
            None => Ok(()),
        };
        match event {
            Event::Done(job) => completed(WorkId::Job(job.id())),
            Event::Batch(id) => completed(WorkId::Batch(id)),
            Event::Progress(job) => {
                let progress = job.take_progress();
                match job_future(job.id()) {
                    Some(future) => (future.vtable.progressed)(py, &future.object, progress),
                    None => Ok(()),
                }
            }
            Event::Items(job) => match job_future(job.id()) {
                Some(future) => {
                    let items = job.notice_items().min(EVENTS_PER_ITERATION);
                    (future.vtable.emitted)(py, &future.object, items)
                }
                None => Ok(()),
            },
            Event::Sealed(token, view) => self.finish_waiter(py, token, |future| {
                let buffer = Bound::new(py, NativeBuffer::new(*view))?;
                future.call_method1("set_result", (buffer,)).map(drop)
            }),
            Event::Closed(token) => self.finish_waiter(py, token, |future| {
                let error = normalized(bus_error(py, &BusError::Closed, None));
                future.call_method1("set_exception", (error,)).map(drop)
            }),
            Event::Readable(token) => match self.deregister_waiter(token) {
                Some(future) => Ok(resolve(&future)?),
                None => Ok(()),
            },
        }
    }

    /// Detaches the pending jobs: the loop is closed.
    pub fn close(&self) {
        if self.is_current_process() {
            self.events.stop_waking();
        }
        let table = std::mem::take(&mut *lock(&self.table));
        self.pending_jobs.store(0, Ordering::Relaxed);
        // SAFETY: this thread is attached: it runs the loop's `close()`, or the destructor of a Python object.
        let py = unsafe { Python::assume_attached() };
        let Table {
            jobs,
            batches,
            waiters,
        } = table;
        drop(waiters);
        for future in jobs.into_values().chain(batches.into_values()) {
            if self.is_current_process() {
                (future.vtable.detached)(py, &future.object);
            } else {
                // A job of the parent process: its locks may be held by threads that exist in the parent only.
                std::mem::forget(future);
            }
        }
    }

    fn traverse(
        &self,
        visit: &mut dyn FnMut(&Ref) -> Result<(), PyTraverseError>,
    ) -> Result<(), PyTraverseError> {
        let table = lock(&self.table);
        let futures = table.jobs.values().chain(table.batches.values());
        let objects = futures.map(|future| &future.object);
        objects.chain(table.waiters.values()).try_for_each(visit)
    }
}

/// The queue of a [`LoopCore`](crate::event_loop::LoopCore) as its completion source.
pub struct LoopCompletions(pub Arc<CompletionQueue>);

impl CompletionSource for LoopCompletions {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn is_pending(&self) -> bool {
        self.0.is_pending()
    }

    fn dispatch(&self, cx: LoopContext<'_>) -> FfiResult<()> {
        let report = |error: PyErr| {
            error.restore(cx.py);
            exceptions::report_unless_fatal(cx.event_loop, Err(ErrSet))
        };
        self.0.dispatch(cx.py, &report)
    }

    fn should_spin(&self) -> bool {
        self.0.pending_jobs.load(Ordering::Relaxed) > 0 && lock(&self.0.spin).should_spin()
    }

    fn spin(&self, found: &dyn Fn() -> bool) -> bool {
        let found = AdaptiveSpin::spin_until(found);
        lock(&self.0.spin).record(found);
        found
    }

    fn close(&self) {
        self.0.close();
    }

    fn traverse(
        &self,
        visit: &mut dyn FnMut(&Ref) -> Result<(), PyTraverseError>,
    ) -> Result<(), PyTraverseError> {
        self.0.traverse(visit)
    }
}
