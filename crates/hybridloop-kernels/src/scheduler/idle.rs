//! Workers without work: one looks for a moment, the others are asleep and woken one at a time.

use hybridloop_sync::primitives::{fence, lock, wait, AtomicBool, Condvar, Mutex, Ordering};

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
///
/// A worker that has just finished a job may look for work a moment longer ([`Idle::look`]). As long as one does, nobody has
/// to be woken, and that costs no system call at all. It too passes on what it cannot do itself.
pub struct Idle {
    counts: Mutex<Counts>,
    cond: Condvar,
    /// Whether somebody sleeps and nobody is on the way up.
    wanted: AtomicBool,
    /// Whether a worker is awake and looks for work.
    looking: AtomicBool,
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
            looking: AtomicBool::new(false),
        }
    }

    fn publish(&self, counts: &Counts) {
        self.wanted
            .store(counts.sleeping > 0 && counts.wakes == 0, Ordering::SeqCst);
    }

    /// There is work. Wakes a worker unless all are up, one is on its way, or one looks.
    #[inline]
    pub fn notify(&self) {
        fence(Ordering::SeqCst);
        if !self.looking.load(Ordering::SeqCst) && self.wanted.load(Ordering::SeqCst) {
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

    /// Looks for work as long as `go_on` says so, unless another worker does; whether `has_work` has said that there is.
    ///
    /// Whoever gets `true` takes work and then calls [`Idle::notify`] if there is more; whoever gets `false` goes to
    /// [`Idle::sleep`], which looks once more.
    pub fn look(&self, has_work: impl Fn() -> bool, mut go_on: impl FnMut() -> bool) -> bool {
        if self.looking.swap(true, Ordering::SeqCst) {
            return false;
        }
        let mut found = has_work();
        while !found && go_on() {
            found = has_work();
        }
        self.looking.store(false, Ordering::SeqCst);
        // From here on those who add work see that nobody looks, and what they added before shows to this thread.
        fence(Ordering::SeqCst);
        found
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
