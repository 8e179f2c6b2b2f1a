//! Workers without work: one spins for a moment, the others sleep and are woken one at a time.

use hybridloop_sync::primitives::{fence, lock, wait, AtomicBool, Condvar, Mutex, Ordering};

struct Counts {
    sleeping: usize,
    /// Wake-ups that no worker has taken yet: 0 or 1.
    wakes: usize,
    closed: bool,
}

/// Puts workers to sleep and wakes them.
///
/// A producer adds work and then calls [`Idle::notify`]. A worker that finds no work registers as sleeping and then looks once
/// more: either it sees the work, or the producer sees the worker. As long as one wake-up is under way there is no second one:
/// the worker that wakes passes it on if there is more to do. So a burst of jobs costs one system call.
///
/// A worker that has just finished a job may spin before it sleeps ([`Idle::spin`]). As long as one spins, nobody has to be
/// woken, which saves the system call. It passes on what it cannot do itself, too.
pub struct Idle {
    counts: Mutex<Counts>,
    cond: Condvar,
    /// Whether a worker sleeps and no wake-up is under way.
    needs_wake: AtomicBool,
    /// Whether a worker spins.
    spinning: AtomicBool,
}

impl Idle {
    /// Nobody sleeps.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "there is one")]
    pub fn new() -> Self {
        Self {
            counts: Mutex::new(Counts {
                sleeping: 0,
                wakes: 0,
                closed: false,
            }),
            cond: Condvar::new(),
            needs_wake: AtomicBool::new(false),
            spinning: AtomicBool::new(false),
        }
    }

    fn publish(&self, counts: &Counts) {
        self.needs_wake
            .store(counts.sleeping > 0 && counts.wakes == 0, Ordering::SeqCst);
    }

    /// There is work: wakes a worker, unless none sleeps, one is being woken, or one spins.
    #[inline]
    pub fn notify(&self) {
        fence(Ordering::SeqCst);
        if !self.spinning.load(Ordering::SeqCst) && self.needs_wake.load(Ordering::SeqCst) {
            self.wake_one();
        }
    }

    #[cold]
    fn wake_one(&self) {
        let mut counts = lock(&self.counts);
        if counts.sleeping > 0 && counts.wakes == 0 {
            counts.wakes = 1;
            self.publish(&counts);
            drop(counts);
            self.cond.notify_one();
        }
    }

    /// Spins until `has_work` returns true or `keep_spinning` returns false, unless another worker spins; returns whether there
    /// is work.
    ///
    /// After `true` the worker takes work, and calls [`Idle::notify`] if there is more. After `false` it calls [`Idle::sleep`],
    /// which looks once more.
    pub fn spin(
        &self,
        has_work: impl Fn() -> bool,
        mut keep_spinning: impl FnMut() -> bool,
    ) -> bool {
        if self.spinning.swap(true, Ordering::SeqCst) {
            return false;
        }
        let mut found = has_work();
        while !found && keep_spinning() {
            found = has_work();
        }
        self.spinning.store(false, Ordering::SeqCst);
        // From here on producers see that nobody spins, and this thread sees the work that they added before.
        fence(Ordering::SeqCst);
        found
    }

    /// Sleeps until there may be work, unless `has_work` returns true; returns `false` when the worker has to end.
    pub fn sleep(&self, has_work: impl Fn() -> bool) -> bool {
        let mut counts = lock(&self.counts);
        counts.sleeping += 1;
        self.publish(&counts);
        fence(Ordering::SeqCst);
        if !has_work() {
            while counts.wakes == 0 && !counts.closed {
                counts = wait(&self.cond, counts);
            }
            counts.wakes = counts.wakes.saturating_sub(1);
        }
        counts.sleeping -= 1;
        // A wake-up for a worker that has found work by itself has no taker left.
        counts.wakes = counts.wakes.min(counts.sleeping);
        self.publish(&counts);
        let closed = counts.closed;
        drop(counts);
        fence(Ordering::SeqCst);
        !closed
    }

    /// Wakes all workers; from now on nobody sleeps.
    pub fn close(&self) {
        lock(&self.counts).closed = true;
        self.cond.notify_all();
    }
}
