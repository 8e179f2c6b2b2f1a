//! One call of a kernel, from the queue to its result.

pub mod batch;
pub mod deferred;
pub mod event;
pub mod inputs;
pub mod resources;
pub mod result;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use hybridloop_sync::primitives::{
    lock, try_lock, wait, AtomicBool, AtomicU64, AtomicU8, Condvar, Mutex, OnceLock, Ordering,
};

use crate::arg::Arg;
use crate::bus::Key;
use crate::job::batch::Batch;
use crate::job::inputs::Inputs;
use crate::job::resources::Resources;
use crate::job::result::JobResult;
use crate::registry::kernel::Kernel;
use crate::value::{take_if_empty, Queued, Value};

const QUEUED: u8 = 0;
const RUNNING: u8 = 1;
/// The kernel runs, and a caller of [`Job::cancel`] was told that the job will be cancelled.
const CANCELLING: u8 = 2;
/// The kernel has returned, and the result no longer changes.
const RETURNED: u8 = 3;
const DONE: u8 = 4;

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Waiting for a worker.
    Queued,
    /// The kernel runs.
    Running,
    /// It has a result.
    Done,
}

/// Is notified about jobs. The methods are called by any thread and must not block.
pub trait JobListener: Send + Sync {
    /// [`Job::take_progress`] has changed.
    fn progress(&self, job: &Arc<Job>);

    /// [`Job::take_item`] has something to take. It is called once until [`Job::notice_items`] is.
    fn items(&self, job: &Arc<Job>);

    /// The job has a result. It is the last call for the job.
    fn done(&self, job: &Arc<Job>);
}

/// How to run a job.
#[derive(Default)]
pub struct JobOptions {
    /// Who is notified.
    pub listener: Option<Arc<dyn JobListener>>,
    /// The time from which the job counts as timed out.
    pub deadline: Option<Instant>,
    /// Jobs with a higher priority run first.
    pub priority: i32,
    /// Whether the listener is notified of progress.
    pub progress: bool,
    /// A key under which the result is sealed on the bus as well.
    pub key: Option<Key>,
    /// Whether what the kernel emits is dropped, because nobody can take it.
    pub discard_items: bool,
}

#[derive(Default)]
struct Listeners {
    done: bool,
    /// Threads in [`Job::wait`]. Without any, the system call that notifies them is saved.
    waiting: usize,
    subscribed: Vec<Arc<dyn JobListener>>,
}

/// Values that the kernel has emitted and nobody has taken.
#[derive(Default)]
struct Items {
    values: VecDeque<Queued>,
    /// Whether the listener was notified since the last [`Job::notice_items`].
    notified: bool,
    /// Threads in [`Job::wait_until_taken`], and to how few values they wait.
    waiting: usize,
    wanted: usize,
}

/// Why a value is not kept.
pub(crate) enum EmitError {
    /// So many values wait already.
    Full,
    /// There is no memory.
    Memory,
}

/// One call of a kernel, from the queue to its result. The keys of a job are removed from the bus when the job is dropped.
pub struct Job {
    id: u64,
    kernel: Arc<Kernel>,
    state: AtomicU8,
    deadline: Option<Instant>,
    priority: i32,
    key: Option<Key>,
    inputs: Mutex<Inputs>,
    wants_progress: bool,
    has_progress: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
    result: OnceLock<JobResult>,
    listener: Option<Arc<dyn JobListener>>,
    batch: Option<Arc<Batch>>,
    listeners: Mutex<Listeners>,
    finished: Condvar,
    items: Mutex<Items>,
    /// Notified when values were taken, or nobody will take them.
    taken: Condvar,
    wants_items: AtomicBool,
    /// Each once, however often the kernel writes it.
    keys: Mutex<BTreeSet<Key>>,
    pub(crate) resources: Arc<Resources>,
}

impl Job {
    /// A number for a new job.
    pub(crate) fn next_id() -> u64 {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn new(
        id: u64,
        kernel: Arc<Kernel>,
        inputs: Inputs,
        options: JobOptions,
        batch: Option<Arc<Batch>>,
        resources: Arc<Resources>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            kernel,
            state: AtomicU8::new(QUEUED),
            deadline: options.deadline,
            priority: options.priority,
            key: options.key,
            inputs: Mutex::new(inputs),
            wants_progress: options.progress && options.listener.is_some(),
            wants_items: AtomicBool::new(options.listener.is_some() && !options.discard_items),
            has_progress: AtomicBool::new(false),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            result: OnceLock::new(),
            listener: options.listener,
            batch,
            listeners: Mutex::default(),
            finished: Condvar::new(),
            items: Mutex::default(),
            taken: Condvar::new(),
            keys: Mutex::default(),
            resources,
        })
    }

    /// Its number, unique in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The kernel that it runs.
    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }

    /// Whether this process runs it. In the child of a fork a job that was not done never gets a result.
    pub fn is_current_process(&self) -> bool {
        self.resources.is_current_process()
    }

    /// Its state.
    pub fn state(&self) -> JobState {
        match self.state.load(Ordering::Acquire) {
            QUEUED => JobState::Queued,
            DONE => JobState::Done,
            _ => JobState::Running,
        }
    }

    /// Its result; `None` until it is done.
    pub fn result(&self) -> Option<&JobResult> {
        self.result.get()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub(crate) fn priority(&self) -> i32 {
        self.priority
    }

    pub(crate) fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// Requests cancellation: a queued job ends at once, a running kernel sees `cancelled()` and the job ends when it returns, or
    /// when its token is completed.
    /// `false` if it is too late; otherwise the result will be [`JobResult::Cancelled`].
    pub fn cancel(self: &Arc<Self>) -> bool {
        if !self.is_current_process() {
            return false;
        }
        // Between the two the job may start, but a running job is never queued again.
        self.finish_if_queued(JobResult::Cancelled)
            || self.cancel_running()
            || self.state.load(Ordering::Acquire) == CANCELLING
    }

    fn cancel_running(&self) -> bool {
        let is_running = self.transition(RUNNING, CANCELLING);
        if is_running && self.kernel.is_async() {
            self.resources.deferred.cancelled(self.id);
        }
        if is_running && self.kernel.emit_waits() {
            self.wake_emitters();
        }
        is_running
    }

    /// Ends a queued job whose deadline has passed. A running kernel checks the deadline itself.
    pub fn expire(self: &Arc<Self>) -> bool {
        self.is_current_process() && self.is_late() && self.finish_if_queued(JobResult::TimedOut)
    }

    pub(crate) fn finish_if_queued(self: &Arc<Self>, result: JobResult) -> bool {
        let was_queued = self.transition(QUEUED, DONE);
        if was_queued {
            self.resources.dequeued();
            self.finish(result);
        }
        was_queued
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

    /// The result that a running job gets if its kernel stops now; `None` if it has no reason to stop.
    pub(crate) fn stop_reason(&self) -> Option<JobResult> {
        if self.state.load(Ordering::Acquire) == CANCELLING {
            Some(JobResult::Cancelled)
        } else if self.is_late() {
            Some(JobResult::TimedOut)
        } else {
            None
        }
    }

    /// A worker starts it; `false` if it has ended meanwhile.
    pub(crate) fn start(&self) -> bool {
        let starts = self.transition(QUEUED, RUNNING);
        if starts {
            self.resources.dequeued();
        }
        starts
    }

    /// The kernel has returned: from now on it is too late to cancel. If the job was cancelled or is late, its result is
    /// returned here, and the value of the kernel does not count.
    pub(crate) fn kernel_returned(&self) -> Option<JobResult> {
        if !self.transition(RUNNING, RETURNED) {
            self.state.store(RETURNED, Ordering::Release);
            return Some(JobResult::Cancelled);
        }
        self.is_late().then_some(JobResult::TimedOut)
    }

    pub(crate) fn take_args(&self) -> Vec<Arg> {
        std::mem::take(&mut lock(&self.inputs).args)
    }

    /// Sets the result, once. The inputs are dropped before anybody is notified.
    pub(crate) fn finish(self: &Arc<Self>, result: JobResult) {
        let inputs = std::mem::take(&mut *lock(&self.inputs));
        drop(inputs);
        if self.result.get().is_some() {
            return;
        }
        // Before anybody can see the result.
        self.resources.count(&result);
        let _ = self.result.set(result);
        self.state.store(DONE, Ordering::Release);
        let mut listeners = lock(&self.listeners);
        listeners.done = true;
        let subscribed = std::mem::take(&mut listeners.subscribed);
        let waiting = listeners.waiting;
        drop(listeners);
        match (&self.batch, &self.listener) {
            (Some(batch), _) => batch.job_done(),
            (None, Some(listener)) => listener.done(self),
            (None, None) => {}
        }
        for listener in subscribed {
            listener.done(self);
        }
        if waiting > 0 {
            self.finished.notify_all();
        }
    }

    /// Notifies another listener when the job is done; at once if it is. In the child of a fork it never does.
    pub fn subscribe(self: &Arc<Self>, listener: Arc<dyn JobListener>) {
        if !self.is_current_process() {
            return;
        }
        let mut listeners = lock(&self.listeners);
        if !listeners.done {
            listeners.subscribed.push(listener);
            return;
        }
        drop(listeners);
        listener.done(self);
    }

    /// Blocks until the job is done, at most until `until`; not at all in the child of a fork.
    pub fn wait(self: &Arc<Self>, until: Option<Instant>) -> Option<&JobResult> {
        if !self.is_current_process() {
            return self.result();
        }
        let mut listeners = lock(&self.listeners);
        listeners.waiting += 1;
        while !listeners.done {
            // While the job is queued, nobody else checks its deadline.
            let deadline = self.deadline.filter(|_| self.state() == JobState::Queued);
            let next = match (until, deadline) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            let Some(next) = next else {
                listeners = wait(&self.finished, listeners);
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
            listeners = lock(&self.listeners);
            if until.is_some_and(|until| now >= until) {
                break;
            }
        }
        listeners.waiting -= 1;
        drop(listeners);
        self.result()
    }

    pub(crate) fn set_progress(self: &Arc<Self>, done: u64, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.done.store(done, Ordering::Release);
        if self.wants_progress && !self.has_progress.swap(true, Ordering::AcqRel) {
            if let Some(listener) = &self.listener {
                listener.progress(self);
            }
        }
    }

    /// How much is done, and of how much; the listener is notified of the next change.
    pub fn take_progress(&self) -> (u64, u64) {
        self.has_progress.swap(false, Ordering::AcqRel);
        let done = self.done.load(Ordering::Acquire);
        (done, self.total.load(Ordering::Relaxed))
    }

    /// Whether anybody takes what the kernel emits.
    pub(crate) fn wants_items(&self) -> bool {
        self.wants_items.load(Ordering::Acquire)
    }

    /// Drops what the kernel emits from now on, because nobody can take it any more.
    pub fn discard_items(&self) {
        if self.is_current_process() {
            self.wants_items.store(false, Ordering::Release);
            self.wake_emitters();
        }
    }

    fn wake_emitters(&self) {
        // With the lock, so that none of them is between its look and its sleep.
        let items = lock(&self.items);
        self.taken.notify_all();
        drop(items);
    }

    /// Keeps a value until it is taken, and notifies the listener, unless `limit` values wait.
    pub(crate) fn emit(self: &Arc<Self>, value: Queued, limit: usize) -> Result<(), EmitError> {
        let mut items = lock(&self.items);
        let error = if items.values.len() >= limit {
            Some(EmitError::Full)
        } else {
            let reserved = items.values.try_reserve(1);
            reserved.err().map(|_| EmitError::Memory)
        };
        if let Some(error) = error {
            drop(items);
            drop(value);
            return Err(error);
        }
        items.values.push_back(value);
        let notified = std::mem::replace(&mut items.notified, true);
        drop(items);
        if let Some(listener) = self.listener.as_ref().filter(|_| !notified) {
            listener.items(self);
        }
        Ok(())
    }

    /// The number of values that wait.
    pub(crate) fn waiting_items(&self) -> usize {
        lock(&self.items).values.len()
    }

    /// Blocks until at most `wanted` values wait, or none will be taken; or returns why the job has to stop.
    pub(crate) fn wait_until_taken(&self, wanted: usize) -> Result<(), JobResult> {
        let mut items = lock(&self.items);
        items.waiting += 1;
        items.wanted = items.wanted.max(wanted);
        let mut result = Ok(());
        while items.values.len() > wanted && self.wants_items() {
            if let Some(reason) = self.stop_reason() {
                result = Err(reason);
                break;
            }
            items = match self.deadline {
                None => wait(&self.taken, items),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let waited = self.taken.wait_timeout(items, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        items.waiting -= 1;
        if items.waiting == 0 {
            items.wanted = 0;
        }
        result
    }

    /// The number of values that can be taken now; the listener is notified of the next one.
    pub fn notice_items(&self) -> usize {
        if !self.is_current_process() {
            return 0;
        }
        let mut items = lock(&self.items);
        items.notified = false;
        items.values.len()
    }

    /// Whether [`Job::take_item`] has something to take.
    pub fn has_items(&self) -> bool {
        self.is_current_process() && !lock(&self.items).values.is_empty()
    }

    /// Takes the oldest value that the kernel has emitted.
    pub fn take_item(&self) -> Option<Value> {
        let mut items = if self.is_current_process() {
            lock(&self.items)
        } else {
            // In the child of a fork a thread of the parent may hold the lock.
            try_lock(&self.items).filter(|_| self.state() == JobState::Done)?
        };
        // Its place is free before the lock is: a kernel that finds no value has all the memory of places.
        let item = items.values.pop_front().map(Queued::into_value);
        let unused = take_if_empty(&mut items.values);
        let is_awaited = items.waiting > 0 && items.values.len() <= items.wanted;
        drop(items);
        if is_awaited {
            self.taken.notify_all();
        }
        drop(unused);
        item
    }

    /// Adds a key that is removed from the bus when the job is dropped.
    pub(crate) fn add_key(&self, key: Key) {
        lock(&self.keys).insert(key);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let keys = self.keys.get_mut().unwrap_or_else(PoisonError::into_inner);
        // In the child of a fork the bus belongs to the parent, and threads of the parent may hold its locks.
        for key in std::mem::take(keys) {
            if self.resources.is_current_process() {
                self.resources.bus.pop(key.as_bytes());
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
