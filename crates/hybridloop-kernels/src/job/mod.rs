//! One call of a kernel, from the queue to its outcome.

pub mod batch;
pub mod event;
pub mod result;

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use hybridloop_sync::primitives::{
    lock, AtomicBool, AtomicU64, AtomicU8, Condvar, Mutex, OnceLock, Ordering,
};

use crate::bus::{Bus, Key};
use crate::job::batch::Batch;
use crate::job::event::{Event, EventQueue};
use crate::job::result::Outcome;
use crate::memory::borrows::Loan;
use crate::registry::Kernel;
use crate::scheduler::worker::Shared;
use crate::value::{Arg, Value};

const QUEUED: u8 = 0;
const RUNNING: u8 = 1;
/// It runs, and somebody was promised that it ends as cancelled.
const ASKED: u8 = 2;
/// The kernel has returned, and how the job ends does not change any more.
const SETTLED: u8 = 3;
const DONE: u8 = 4;

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Waiting for a worker.
    Queued,
    /// The kernel runs.
    Running,
    /// It has an outcome.
    Done,
}

/// How to run a job.
#[derive(Default)]
pub struct Options {
    /// Who is told; nobody, if one only waits.
    pub listener: Option<Arc<EventQueue>>,
    /// From then on it counts as timed out.
    pub deadline: Option<Instant>,
    /// Higher ones run first.
    pub priority: i32,
    /// Whether [`Event::Progress`] is posted.
    pub progress: bool,
    /// The result is sealed on the bus under this key as well.
    pub key: Option<Key>,
}

/// What a job uses until it is done; arguments go before the memory behind them is free for others.
#[derive(Default)]
pub(crate) struct Lent {
    pub args: Vec<Arg>,
    pub _loan: Loan,
}

#[derive(Default)]
struct Listeners {
    done: bool,
    /// Threads in [`Job::wait`]: to notify nobody is a system call as well.
    waiting: usize,
    more: Vec<Arc<EventQueue>>,
}

/// See the [module's documentation](self). A handle on it keeps the keys that belong to it.
pub struct Job {
    id: u64,
    kernel: Arc<Kernel>,
    state: AtomicU8,
    deadline: Option<Instant>,
    priority: i32,
    key: Option<Key>,
    lent: Mutex<Lent>,
    wants_progress: bool,
    has_progress: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
    outcome: OnceLock<Outcome>,
    listener: Option<Arc<EventQueue>>,
    batch: Option<Arc<Batch>>,
    listeners: Mutex<Listeners>,
    finished: Condvar,
    keys: Mutex<Vec<Key>>,
    pub(crate) shared: Arc<Shared>,
}

impl Job {
    /// A number for a job.
    pub(crate) fn next_id() -> u64 {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn new(
        id: u64,
        kernel: Arc<Kernel>,
        lent: Lent,
        options: Options,
        batch: Option<Arc<Batch>>,
        shared: Arc<Shared>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            kernel,
            state: AtomicU8::new(QUEUED),
            deadline: options.deadline,
            priority: options.priority,
            key: options.key,
            lent: Mutex::new(lent),
            wants_progress: options.progress && options.listener.is_some(),
            has_progress: AtomicBool::new(false),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            outcome: OnceLock::new(),
            listener: options.listener,
            batch,
            listeners: Mutex::default(),
            finished: Condvar::new(),
            keys: Mutex::default(),
            shared,
        })
    }

    /// Its number, unique in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it runs.
    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }

    /// Whether this process runs it. In the child of a fork a job that had not ended has no outcome and never gets one.
    pub fn is_current_process(&self) -> bool {
        self.shared.is_current_process()
    }

    /// Where it is.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            QUEUED => State::Queued,
            DONE => State::Done,
            _ => State::Running,
        }
    }

    /// How it has ended; `None` as long as it has not.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.get()
    }

    pub(crate) fn priority(&self) -> i32 {
        self.priority
    }

    pub(crate) fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// Asks it to end. A job that waits ends here and now; a running kernel is told, and the job ends when the kernel
    /// returns. `false` if it is too late for that; else its outcome is [`Outcome::Cancelled`].
    pub fn cancel(self: &Arc<Self>) -> bool {
        if !self.is_current_process() {
            return false;
        }
        // It may start in between, but it does not go back to the queue.
        self.end_if_queued(Outcome::Cancelled)
            || self.transition(RUNNING, ASKED)
            || self.state.load(Ordering::Acquire) == ASKED
    }

    /// Ends a job that waits and whose deadline has passed; a running kernel notices by itself.
    pub fn expire(self: &Arc<Self>) -> bool {
        self.is_current_process() && self.is_late() && self.end_if_queued(Outcome::TimedOut)
    }

    pub(crate) fn end_if_queued(self: &Arc<Self>, outcome: Outcome) -> bool {
        let ends = self.transition(QUEUED, DONE);
        if ends {
            self.shared.left_queue();
            self.finish(outcome);
        }
        ends
    }

    fn transition(&self, from: u8, to: u8) -> bool {
        self.state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Why it should end, if it should.
    pub(crate) fn interruption(&self) -> Option<Outcome> {
        if self.state.load(Ordering::Acquire) == ASKED {
            Some(Outcome::Cancelled)
        } else if self.is_late() {
            Some(Outcome::TimedOut)
        } else {
            None
        }
    }

    /// A worker takes it; `false` if it has ended meanwhile.
    pub(crate) fn start(&self) -> bool {
        let starts = self.transition(QUEUED, RUNNING);
        if starts {
            self.shared.left_queue();
        }
        starts
    }

    /// The kernel has returned, and from here on it is too late to cancel. What it has returned does not count if somebody
    /// was promised that the job ends, or if it is late: then this says how it ends.
    pub(crate) fn settle(&self) -> Option<Outcome> {
        if !self.transition(RUNNING, SETTLED) {
            self.state.store(SETTLED, Ordering::Release);
            return Some(Outcome::Cancelled);
        }
        self.is_late().then_some(Outcome::TimedOut)
    }

    pub(crate) fn take_args(&self) -> Vec<Arg> {
        std::mem::take(&mut lock(&self.lent).args)
    }

    /// The outcome, once. Arguments are let go before anybody is told.
    pub(crate) fn finish(self: &Arc<Self>, outcome: Outcome) {
        let lent = std::mem::take(&mut *lock(&self.lent));
        drop(lent);
        if self.outcome.set(outcome).is_err() {
            return;
        }
        if let Some(outcome) = self.outcome.get() {
            self.shared.count(outcome);
        }
        self.state.store(DONE, Ordering::Release);
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        listeners.done = true;
        let more = std::mem::take(&mut listeners.more);
        let waiting = listeners.waiting;
        drop(listeners);
        match (&self.batch, &self.listener) {
            (Some(batch), _) => batch.job_done(),
            (None, Some(listener)) => listener.push(Event::Done(self.clone())),
            (None, None) => {}
        }
        for listener in more {
            listener.push(Event::Done(self.clone()));
        }
        if waiting > 0 {
            self.finished.notify_all();
        }
    }

    /// Posts [`Event::Done`] to another queue; at once if it is done. In the child of a fork it never does.
    pub fn subscribe(self: &Arc<Self>, listener: Arc<EventQueue>) {
        if !self.is_current_process() {
            return;
        }
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !listeners.done {
            listeners.more.push(listener);
            return;
        }
        drop(listeners);
        listener.push(Event::Done(self.clone()));
    }

    /// Blocks until it is done, at most until `until`; not at all in the child of a fork.
    pub fn wait(self: &Arc<Self>, until: Option<Instant>) -> Option<&Outcome> {
        if !self.is_current_process() {
            return self.outcome();
        }
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        listeners.waiting += 1;
        while !listeners.done {
            // A job that waits in the queue has nobody else to watch its deadline.
            let own = self.deadline.filter(|_| self.state() == State::Queued);
            let next = match (until, own) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            let Some(next) = next else {
                listeners = self
                    .finished
                    .wait(listeners)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let now = Instant::now();
            if now < next {
                let waited = self.finished.wait_timeout(listeners, next - now);
                listeners = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            drop(listeners);
            self.expire();
            listeners = self
                .listeners
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if until.is_some_and(|until| now >= until) {
                break;
            }
        }
        listeners.waiting -= 1;
        drop(listeners);
        self.outcome()
    }

    pub(crate) fn progress(self: &Arc<Self>, done: u64, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.done.store(done, Ordering::Release);
        if self.wants_progress && !self.has_progress.swap(true, Ordering::AcqRel) {
            if let Some(listener) = &self.listener {
                listener.push(Event::Progress(self.clone()));
            }
        }
    }

    /// How far it is and how far it goes; the next change posts [`Event::Progress`] again.
    pub fn take_progress(&self) -> (u64, u64) {
        self.has_progress.swap(false, Ordering::AcqRel);
        let done = self.done.load(Ordering::Acquire);
        (done, self.total.load(Ordering::Relaxed))
    }

    /// `false` if nobody listens.
    pub(crate) fn emit(self: &Arc<Self>, value: Value) -> bool {
        let Some(listener) = &self.listener else {
            return false;
        };
        listener.push(Event::Item(self.clone(), value));
        true
    }

    /// The key goes with the last handle on the job.
    pub(crate) fn own_key(&self, key: Key) {
        self.keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(key);
    }

    fn bus(&self) -> &Arc<Bus> {
        &self.shared.bus
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let keys = self.keys.get_mut().unwrap_or_else(PoisonError::into_inner);
        // In the child of a fork the bus belongs to the parent, and its locks may be held by threads that are not here.
        for key in std::mem::take(keys) {
            if self.shared.is_current_process() {
                self.bus().pop(key.as_bytes());
            }
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Job({}, '{}', {:?})",
            self.id,
            self.kernel.name(),
            self.state()
        )
    }
}
