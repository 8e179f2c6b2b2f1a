//! Workers without work: asleep, and woken one at a time.

use crate::sync::{fence, lock, wait, AtomicBool, Condvar, Mutex, Ordering};

struct Counts {
    sleeping: usize,
    /// Wake-ups that no worker has taken yet.
    wakes: usize,
    closed: bool,
}

/// Puts workers to sleep and wakes them.
///
/// Whoever adds work calls [`Idle::notify`] afterwards. A worker that finds nothing says so first and then looks once more:
/// either it sees the work, or whoever added it sees the worker. While one wake-up is under way there is no other: the
/// worker that has woken passes it on when there is more to do. So a burst of jobs costs one system call.
pub struct Idle {
    counts: Mutex<Counts>,
    cond: Condvar,
    /// Whether somebody sleeps and nobody is on the way up.
    wanted: AtomicBool,
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
            wanted: AtomicBool::new(false),
        }
    }

    fn publish(&self, counts: &Counts) {
        self.wanted
            .store(counts.sleeping > 0 && counts.wakes == 0, Ordering::SeqCst);
    }

    /// There is work. Wakes a worker unless all are up or one is on its way.
    #[inline]
    pub fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.wanted.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        let mut counts = lock(&self.counts);
        if counts.sleeping > 0 && counts.wakes == 0 {
            counts.wakes = 1;
            self.publish(&counts);
            drop(counts);
            self.cond.notify_one();
        }
    }

    /// Sleeps until there may be work, unless `has_work` says that there is; `false` when it is time to end.
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
        // Nobody is left to take a wake-up that another worker was meant to take.
        counts.wakes = counts.wakes.min(counts.sleeping);
        self.publish(&counts);
        let closed = counts.closed;
        drop(counts);
        fence(Ordering::SeqCst);
        !closed
    }

    /// Wakes all; nobody sleeps any more.
    pub fn close(&self) {
        lock(&self.counts).closed = true;
        self.cond.notify_all();
    }
}
