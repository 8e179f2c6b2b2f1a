//! From native threads to loops: what jobs, the bus and channels tell arrives here, and goes to whoever waits for it.
//!
//! Each loop has one [`Inlet`]. A thread puts an event into its mailbox and rings once for as many as come together; the loop
//! then finds the waiting object by the job's number, or the future by that of its watch. A loop of ours is rung by its own
//! wake-up, any other asyncio loop watches a socket ([`foreign`](crate::kernels::foreign_loop)). Jobs that belong to no loop,
//! and those whose loop is gone, come in with the strays: that inlet is looked through whenever kernels are used, so that
//! buffers are released.

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
use crate::kernels::deferred_drop::drop_what_is_left;
use crate::kernels::exceptions::bus_error;
use crate::kernels::future::{NativeAwaitable, Work};
use crate::python::future::resolve;
use crate::python::{FfiResult, Ref};

/// How many events are taken in one iteration, so that a kernel that emits without end does not keep the loop from the rest.
const EVENTS_PER_ITERATION: usize = 1024;

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who waits for what.
#[derive(Default)]
struct Table {
    jobs: FxHashMap<u64, Ref>,
    batches: FxHashMap<u64, Ref>,
    /// Futures that wait for a key or a channel.
    watches: FxHashMap<u64, Ref>,
}

/// Where what is told to one loop arrives.
pub struct Inlet {
    mailbox: Arc<Mailbox<Event>>,
    ring: Arc<Ring>,
    /// Locked for moments in which no Python runs and nothing is dropped.
    table: Mutex<Table>,
    /// Jobs and batches in the table.
    expected: AtomicUsize,
    patience: Mutex<Patience>,
    process: Process,
}

/// How the owner of an inlet is woken.
#[derive(Default)]
pub struct Ring(Mutex<Option<Box<dyn Fn() + Send>>>);

struct RingWake(Arc<Ring>);

impl Wake for RingWake {
    fn wake(&self) {
        if let Some(ring) = lock(&self.0 .0).as_ref() {
            ring();
        }
    }
}

impl Inlet {
    /// `None` for one that is looked through now and then.
    pub fn new(ring: Option<Box<dyn Fn() + Send>>) -> Arc<Self> {
        let ring = Arc::new(Ring(Mutex::new(ring)));
        Arc::new(Self {
            mailbox: Arc::new(Mailbox::new(Box::new(RingWake(ring.clone())))),
            ring,
            table: Mutex::default(),
            expected: AtomicUsize::new(0),
            patience: Mutex::default(),
            process: Process::current(),
        })
    }

    /// Whether this process has made it. In the child of a fork nothing comes in here, and threads that are not there may be
    /// about to post.
    pub fn is_here(&self) -> bool {
        self.process.is_here()
    }

    pub fn mailbox(&self) -> &Arc<Mailbox<Event>> {
        &self.mailbox
    }

    /// Keeps a place for one more of each kind, so that remembering it does not fail.
    pub fn keep_place(&self) -> PyResult<()> {
        let mut table = lock(&self.table);
        let kept = table
            .jobs
            .try_reserve(1)
            .and_then(|()| table.batches.try_reserve(1))
            .and_then(|()| table.watches.try_reserve(1));
        kept.map_err(|_| PyMemoryError::new_err(()))
    }

    /// What waits for a job or batch is told by [`NativeAwaitable::arrived`] on this inlet's thread. Gives what was there
    /// before, for the caller to drop.
    pub fn remember(&self, work: &Work, waiting: Ref) -> Option<Ref> {
        let mut table = lock(&self.table);
        let before = match work {
            Work::One(job) => table.jobs.insert(job.id(), waiting),
            Work::Many { batch, .. } => table.batches.insert(batch.id(), waiting),
        };
        self.count(&table);
        before
    }

    /// Nothing that comes in for it matters any more. Gives what was there, for the caller to drop.
    pub fn forget(&self, work: &Work) -> Option<Ref> {
        self.take(|table| match work {
            Work::One(job) => table.jobs.remove(&job.id()),
            Work::Many { batch, .. } => table.batches.remove(&batch.id()),
        })
    }

    /// A future that waits for a key or a channel; gives the number of its watch.
    pub fn begin_watch(&self, future: Ref) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let token = NEXT.fetch_add(1, Ordering::Relaxed);
        lock(&self.table).watches.insert(token, future);
        token
    }

    /// Nothing that comes in for that watch matters any more. Gives the future, for the caller to drop.
    pub fn end_watch(&self, token: u64) -> Option<Ref> {
        lock(&self.table).watches.remove(&token)
    }

    fn finish_watch(
        &self,
        py: Python<'_>,
        token: u64,
        finish: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<()>,
    ) -> PyResult<()> {
        let Some(future) = self.end_watch(token) else {
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
        self.expected.store(count, Ordering::Relaxed);
    }

    fn take(&self, find: impl FnOnce(&mut Table) -> Option<Ref>) -> Option<Ref> {
        let mut table = lock(&self.table);
        let found = find(&mut table);
        self.count(&table);
        found
    }

    pub fn has_mail(&self) -> bool {
        self.mailbox.has_mail()
    }

    /// Hands out what has come, on the thread of the loop; `report` gets what goes wrong.
    pub fn deliver(
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
            if let Err(error) = self.hand_out(py, event) {
                report(error)?;
            }
        }
        self.mailbox.leave();
        Ok(())
    }

    fn hand_out(&self, py: Python<'_>, event: Event) -> PyResult<()> {
        let of_job = |id: u64| {
            let table = lock(&self.table);
            table.jobs.get(&id).cloned()
        };
        match event {
            Event::Done(job) => {
                let waiting = self.take(|table| table.jobs.remove(&job.id()));
                waiting.map_or(Ok(()), |it| NativeAwaitable::arrived(py, &it, self))
            }
            Event::Batch(id) => {
                let waiting = self.take(|table| table.batches.remove(&id));
                waiting.map_or(Ok(()), |it| NativeAwaitable::arrived(py, &it, self))
            }
            Event::Progress(job) => {
                let state = job.take_progress();
                of_job(job.id())
                    .map_or(Ok(()), |it| crate::kernels::job::progressed(py, &it, state))
            }
            Event::Item(job, value) => {
                of_job(job.id()).map_or(Ok(()), |it| crate::kernels::job::emitted(py, &it, value))
            }
            Event::Sealed(token, view) => self.finish_watch(py, token, |future| {
                let buffer = Bound::new(py, NativeBuffer::new(view))?;
                future.call_method1("set_result", (buffer,)).map(drop)
            }),
            Event::Closed(token) => self.finish_watch(py, token, |future| {
                let error = bus_error(py, &BusError::Closed, None);
                future.call_method1("set_exception", (error,)).map(drop)
            }),
            Event::Arrived(token) => match self.end_watch(token) {
                Some(future) => Ok(resolve(&future)?),
                None => Ok(()),
            },
        }
    }

    /// The loop is gone: what is still under way comes in with the strays.
    pub fn close(&self) {
        if self.is_here() {
            drop(lock(&self.ring.0).take());
        }
        let table = std::mem::take(&mut *lock(&self.table));
        self.expected.store(0, Ordering::Relaxed);
        // SAFETY: loops are closed by threads that are attached.
        let py = unsafe { Python::assume_attached() };
        let Table {
            jobs,
            batches,
            watches,
        } = table;
        drop(watches);
        for waiting in jobs.into_values().chain(batches.into_values()) {
            if self.is_here() {
                NativeAwaitable::lose_home(py, &waiting);
            } else {
                // The parent's job: its locks may be held by threads that are not here.
                std::mem::forget(waiting);
            }
        }
    }

    fn each(
        &self,
        visit: &mut dyn FnMut(&Ref) -> Result<(), PyTraverseError>,
    ) -> Result<(), PyTraverseError> {
        let table = lock(&self.table);
        let jobs = table.jobs.values().chain(table.batches.values());
        jobs.chain(table.watches.values()).try_for_each(visit)
    }
}

/// Strays have mail.
static STRAYS_HAVE_MAIL: AtomicBool = AtomicBool::new(false);

/// Where jobs without a loop come in.
pub fn strays() -> Arc<Inlet> {
    static STRAYS: Mutex<Option<Arc<Inlet>>> = Mutex::new(None);
    let mut strays = lock(&STRAYS);
    match &*strays {
        Some(inlet) if inlet.is_here() => inlet.clone(),
        _ => {
            // In the child of a fork the parent's stay as they are.
            std::mem::forget(strays.take());
            strays
                .insert(Inlet::new(Some(Box::new(ring_for_strays))))
                .clone()
        }
    }
}

/// Somebody has to look, at the strays or at what threads without Python have dropped.
pub fn ring_for_strays() {
    STRAYS_HAVE_MAIL.store(true, Ordering::Release);
}

/// Looks after the jobs that belong to no loop.
#[inline]
pub fn look_after_strays(py: Python<'_>) {
    if STRAYS_HAVE_MAIL.load(Ordering::Relaxed) {
        deliver_strays(py);
    }
}

#[cold]
fn deliver_strays(py: Python<'_>) {
    let inlet = strays();
    // Before anything is looked at: whoever adds something after that rings again.
    STRAYS_HAVE_MAIL.store(false, Ordering::SeqCst);
    drop_what_is_left(py);
    let report = |error: PyErr| {
        error.write_unraisable(py, None);
        Ok(())
    };
    // What is reported is shown, so nothing comes out.
    let _ = inlet.deliver(py, &report);
    if inlet.has_mail() {
        STRAYS_HAVE_MAIL.store(true, Ordering::Release);
    }
}

/// The desk of a loop of ours.
pub struct LoopDesk(pub Arc<Inlet>);

impl CompletionSource for LoopDesk {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn is_pending(&self) -> bool {
        self.0.has_mail()
    }

    fn dispatch(&self, cx: LoopContext<'_>) -> FfiResult<()> {
        let report = |error: PyErr| {
            error.restore(cx.py);
            exceptions::report_unless_fatal(cx.event_loop, Err(crate::python::ErrSet))
        };
        self.0.deliver(cx.py, &report)
    }

    fn should_spin(&self) -> bool {
        self.0.expected.load(Ordering::Relaxed) > 0 && lock(&self.0.patience).allows()
    }

    fn spin(&self, found: &dyn Fn() -> bool) -> bool {
        let found = Patience::look(found);
        lock(&self.0.patience).learn(found);
        found
    }

    fn close(&self) {
        self.0.close();
    }

    fn traverse(
        &self,
        visit: &mut dyn FnMut(&Ref) -> Result<(), PyTraverseError>,
    ) -> Result<(), PyTraverseError> {
        self.0.each(visit)
    }
}
