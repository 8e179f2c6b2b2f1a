//! Calls whose kernels have returned, and whose end somebody else reports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use hybridloop_sync::primitives::{
    lock, thread, wait, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering,
};

/// A call that waits for its completion.
pub(crate) trait DeferredCall: Send + Sync {
    /// Requests cancellation of its job.
    fn cancel(&self);

    /// Tells whoever completes the call, once, if the job has a reason to stop.
    fn stop(&self);

    /// The name of its kernel.
    fn kernel(&self) -> String;
}

#[derive(Default)]
struct State {
    calls: BTreeMap<u64, Arc<dyn DeferredCall>>,
    /// When calls are to be stopped.
    deadlines: BTreeSet<(Instant, u64)>,
    /// Calls that are to be stopped now.
    cancelled: BTreeSet<u64>,
    /// Calls that were removed and whose jobs have no result yet.
    ending: usize,
    has_thread: bool,
    closed: bool,
}

impl State {
    /// Removes the next call that is to be stopped now.
    fn take_next(&mut self) -> Option<u64> {
        if let Some(id) = self.cancelled.pop_first() {
            return Some(id);
        }
        let (deadline, _) = self.deadlines.first()?;
        if *deadline > Instant::now() {
            return None;
        }
        self.deadlines.pop_first().map(|(_, id)| id)
    }
}

/// The deferred calls of an engine, by the numbers of their jobs, and a thread that stops those that are cancelled or late. It
/// starts with the first call that wants to hear of that, because whoever cancels may hold Python's lock, and workers may be busy.
pub(crate) struct DeferredCalls {
    state: Mutex<State>,
    changed: Condvar,
    count: AtomicUsize,
}

impl DeferredCalls {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            count: AtomicUsize::new(0),
        })
    }

    /// The number of calls.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Starts the thread; `false` if the system starts none.
    pub fn start(self: &Arc<Self>) -> bool {
        let mut state = lock(&self.state);
        // After the end, workers stop the few calls that are added.
        if state.has_thread || state.closed {
            return true;
        }
        let calls = self.clone();
        let spawned = thread::Builder::new()
            .name("hybridloop-stop".to_owned())
            .spawn(move || calls.stop_calls());
        state.has_thread = spawned.is_ok();
        state.has_thread
    }

    /// Adds a call. If its job was cancelled meanwhile, the caller has to stop it.
    pub fn add(&self, id: u64, call: Arc<dyn DeferredCall>, deadline: Option<Instant>) {
        let mut state = lock(&self.state);
        state.calls.insert(id, call);
        self.count.store(state.calls.len(), Ordering::Relaxed);
        if let (Some(deadline), true) = (deadline, state.has_thread) {
            state.deadlines.insert((deadline, id));
            if state.deadlines.first() == Some(&(deadline, id)) {
                self.changed.notify_all();
            }
        }
    }

    /// Removes a call that is completed. [`DeferredCalls::ended`] must follow.
    pub fn remove(&self, id: u64, deadline: Option<Instant>) {
        let mut state = lock(&self.state);
        let call = state.calls.remove(&id);
        self.count.store(state.calls.len(), Ordering::Relaxed);
        state.cancelled.remove(&id);
        if let Some(deadline) = deadline {
            state.deadlines.remove(&(deadline, id));
        }
        state.ending += 1;
        drop(state);
        drop(call);
    }

    /// The job of a call that was removed has its result.
    pub fn ended(&self) {
        let mut state = lock(&self.state);
        state.ending -= 1;
        if state.closed {
            self.changed.notify_all();
        }
    }

    /// The job of a call was cancelled. It need not be here.
    pub fn cancelled(&self, id: u64) {
        let mut state = lock(&self.state);
        if state.calls.contains_key(&id) && state.has_thread {
            state.cancelled.insert(id);
            self.changed.notify_all();
        }
    }

    /// Cancels the jobs of all calls, and ends the thread when it has told of that.
    pub fn close(&self) {
        let calls: Vec<_> = lock(&self.state).calls.values().cloned().collect();
        for call in calls {
            call.cancel();
        }
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }

    /// Waits until there is no call and no thread; after [`DeferredCalls::close`].
    pub fn wait_until_empty(&self, until: Option<Instant>) {
        let mut state = lock(&self.state);
        while state.has_thread || state.ending > 0 || !state.calls.is_empty() {
            state = match until {
                None => wait(&self.changed, state),
                Some(until) if Instant::now() < until => self.wait_until(state, until),
                Some(_) => return,
            };
        }
    }

    /// The kernels of its calls, by the numbers of their jobs.
    pub fn kernels(&self) -> Vec<(u64, String)> {
        let state = lock(&self.state);
        let kernel = |(id, call): (&u64, &Arc<dyn DeferredCall>)| (*id, call.kernel());
        state.calls.iter().map(kernel).collect()
    }

    fn wait_until<'a>(
        &self,
        state: MutexGuard<'a, State>,
        until: Instant,
    ) -> MutexGuard<'a, State> {
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout(state, left);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// What the thread does until the engine is closed.
    fn stop_calls(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some(id) = state.take_next() {
                let call = state.calls.get(&id).cloned();
                drop(state);
                if let Some(call) = call {
                    call.stop();
                }
                state = lock(&self.state);
            } else if state.closed {
                break;
            } else {
                state = match state.deadlines.first() {
                    Some((deadline, _)) => {
                        let deadline = *deadline;
                        self.wait_until(state, deadline)
                    }
                    None => wait(&self.changed, state),
                };
            }
        }
        state.has_thread = false;
        self.changed.notify_all();
    }
}
