//! `CompletionQueue`: events of native threads on their way to a loop.
//!
//! Each loop has one queue. A native thread posts an event and wakes the loop, once for all events that the loop has not seen
//! yet. The loop then dispatches each event: to the future of the job or batch with that id, or to the future that waits for a
//! key or a channel. A [`LoopCore`](crate::event_loop::LoopCore) is woken by its own notifier; loops of other implementations
//! watch a socket ([`foreign_loop`](crate::kernels::foreign_loop)). Jobs without a loop, and jobs whose loop was closed, are
//! detached: their queue is drained when kernels are used next, which releases their buffers.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hybridloop_kernels::{BusError, Event, Mailbox, Patience, Process, Wake};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::PyTraverseError;
use rustc_hash::FxHashMap;

use crate::event_loop::{exceptions, CompletionSource, LoopContext};
use crate::kernels::buffer::NativeBuffer;
use crate::kernels::deferred_drop::drop_deferred;
use crate::kernels::exceptions::bus_error;
use crate::kernels::future::{NativeAwaitable, Work};
use crate::python::future::resolve;
use crate::python::{ErrSet, FfiResult, Ref};

/// Events dispatched per iteration of the loop, so that a kernel that emits without end does not starve the loop.
const EVENTS_PER_ITERATION: usize = 1024;

/// Locks a mutex. No code of the kernels leaves data inconsistent when it panics, so poison is ignored.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The futures to complete, by the id in the event.
#[derive(Default)]
struct Table {
    jobs: FxHashMap<u64, Ref>,
    batches: FxHashMap<u64, Ref>,
    /// Futures that wait for a key or a channel.
    waiters: FxHashMap<u64, Ref>,
}

/// The events for one loop, and the futures that they complete.
pub struct CompletionQueue {
    mailbox: Arc<Mailbox<Event>>,
    notifier: Notifier,
    /// While it is locked, no Python code runs and no object is dropped.
    table: Mutex<Table>,
    /// The number of jobs and batches in the table.
    pending_jobs: AtomicUsize,
    spin: Mutex<Patience>,
    process: Process,
}

/// Wakes the loop of a queue.
pub type WakeFn = Box<dyn Fn() + Send>;

/// The wake function that native threads call; empty once the loop is closed.
#[derive(Clone)]
struct Notifier(Arc<Mutex<Option<WakeFn>>>);

impl Wake for Notifier {
    fn wake(&self) {
        if let Some(wake) = lock(&self.0).as_ref() {
            wake();
        }
    }
}

impl CompletionQueue {
    /// A queue whose loop is woken by `wake`. Without it nothing is woken: the loop is closed already.
    pub fn new(wake: Option<WakeFn>) -> Arc<Self> {
        let notifier = Notifier(Arc::new(Mutex::new(wake)));
        Arc::new(Self {
            mailbox: Arc::new(Mailbox::new(Box::new(notifier.clone()))),
            notifier,
            table: Mutex::default(),
            pending_jobs: AtomicUsize::new(0),
            spin: Mutex::default(),
            process: Process::current(),
        })
    }

    /// Whether this process created the queue. After a fork no event arrives in the child, and locks may be held by threads
    /// that exist in the parent only.
    pub fn is_here(&self) -> bool {
        self.process.is_here()
    }

    /// Where native threads post events.
    pub fn mailbox(&self) -> &Arc<Mailbox<Event>> {
        &self.mailbox
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

    /// Registers the future of a job or batch: [`NativeAwaitable::completed`] is called on the loop's thread. Returns the
    /// future that was registered before, for the caller to drop.
    pub fn register(&self, work: &Work, future: Ref) -> Option<Ref> {
        let mut table = lock(&self.table);
        let before = match work {
            Work::Job(job) => table.jobs.insert(job.id(), future),
            Work::Batch { batch, .. } => table.batches.insert(batch.id(), future),
        };
        self.count(&table);
        before
    }

    /// Removes the future of a job or batch; later events of it are ignored. Returns the future, for the caller to drop.
    pub fn deregister(&self, work: &Work) -> Option<Ref> {
        self.take(|table| match work {
            Work::Job(job) => table.jobs.remove(&job.id()),
            Work::Batch { batch, .. } => table.batches.remove(&batch.id()),
        })
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

    fn take(&self, find: impl FnOnce(&mut Table) -> Option<Ref>) -> Option<Ref> {
        let mut table = lock(&self.table);
        let found = find(&mut table);
        self.count(&table);
        found
    }

    /// Whether events wait to be dispatched.
    pub fn is_pending(&self) -> bool {
        self.mailbox.has_mail()
    }

    /// Dispatches the events that have arrived, on the loop's thread. Errors go to `report`.
    pub fn dispatch(
        &self,
        py: Python<'_>,
        report: &dyn Fn(PyErr) -> FfiResult<()>,
    ) -> FfiResult<()> {
        if !self.is_here() {
            return Ok(());
        }
        self.mailbox.open();
        for _ in 0..EVENTS_PER_ITERATION {
            let Some(event) = self.mailbox.pop() else {
                return Ok(());
            };
            if let Err(error) = self.dispatch_event(py, event) {
                report(error)?;
            }
        }
        self.mailbox.leave();
        Ok(())
    }

    fn dispatch_event(&self, py: Python<'_>, event: Event) -> PyResult<()> {
        let job_future = |id: u64| {
            let table = lock(&self.table);
            table.jobs.get(&id).cloned()
        };
        match event {
            Event::Done(job) => {
                let future = self.take(|table| table.jobs.remove(&job.id()));
                future.map_or(Ok(()), |it| NativeAwaitable::completed(py, &it, self))
            }
            Event::Batch(id) => {
                let future = self.take(|table| table.batches.remove(&id));
                future.map_or(Ok(()), |it| NativeAwaitable::completed(py, &it, self))
            }
            Event::Progress(job) => {
                let state = job.take_progress();
                job_future(job.id())
                    .map_or(Ok(()), |it| crate::kernels::job::progressed(py, &it, state))
            }
            Event::Item(job, value) => job_future(job.id())
                .map_or(Ok(()), |it| crate::kernels::job::emitted(py, &it, value)),
            Event::Sealed(token, view) => self.finish_waiter(py, token, |future| {
                let buffer = Bound::new(py, NativeBuffer::new(view))?;
                future.call_method1("set_result", (buffer,)).map(drop)
            }),
            Event::Closed(token) => self.finish_waiter(py, token, |future| {
                let error = bus_error(py, &BusError::Closed, None);
                future.call_method1("set_exception", (error,)).map(drop)
            }),
            Event::Arrived(token) => match self.deregister_waiter(token) {
                Some(future) => Ok(resolve(&future)?),
                None => Ok(()),
            },
        }
    }

    /// Detaches the pending jobs: the loop is closed.
    pub fn close(&self) {
        if self.is_here() {
            drop(lock(&self.notifier.0).take());
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
            if self.is_here() {
                NativeAwaitable::move_to_detached(py, &future);
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
        let jobs = table.jobs.values().chain(table.batches.values());
        jobs.chain(table.waiters.values()).try_for_each(visit)
    }
}

/// Whether detached jobs have events, or objects wait to be dropped.
static DRAIN_REQUESTED: AtomicBool = AtomicBool::new(false);

/// The queue of detached jobs.
pub fn detached_queue() -> Arc<CompletionQueue> {
    static DETACHED: Mutex<Option<Arc<CompletionQueue>>> = Mutex::new(None);
    let mut queue = lock(&DETACHED);
    match &*queue {
        Some(it) if it.is_here() => it.clone(),
        _ => {
            // After a fork: the parent's queue is leaked, because its locks may be held by threads that exist in the parent
            // only.
            std::mem::forget(queue.take());
            queue
                .insert(CompletionQueue::new(Some(Box::new(request_drain))))
                .clone()
        }
    }
}

/// Requests a call of [`drain_detached`] by the next thread that can make it. Can be called by any thread.
pub fn request_drain() {
    DRAIN_REQUESTED.store(true, Ordering::Release);
}

/// Dispatches the events of detached jobs and drops deferred objects, if there are any.
#[inline]
pub fn drain_detached(py: Python<'_>) {
    if DRAIN_REQUESTED.load(Ordering::Relaxed) {
        drain(py);
    }
}

#[cold]
fn drain(py: Python<'_>) {
    let queue = detached_queue();
    // Cleared first: a thread that adds something from here on sets it again.
    DRAIN_REQUESTED.store(false, Ordering::SeqCst);
    drop_deferred(py);
    let report = |error: PyErr| {
        error.write_unraisable(py, None);
        Ok(())
    };
    // `report` does not fail, so this does not either.
    let _ = queue.dispatch(py, &report);
    if queue.is_pending() {
        DRAIN_REQUESTED.store(true, Ordering::Release);
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
        self.0.pending_jobs.load(Ordering::Relaxed) > 0 && lock(&self.0.spin).allows()
    }

    fn spin(&self, found: &dyn Fn() -> bool) -> bool {
        let found = Patience::look(found);
        lock(&self.0.spin).learn(found);
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
