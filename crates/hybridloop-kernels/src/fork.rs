//! Which side of a fork this process is on. Threads stay with the parent, and locks may be held by those for ever.
//!
//! What was made before a fork is therefore left alone in the child: its locks are not taken, its queues not read. What another
//! thread was working on at that moment, in whatever state, is never dropped either, because that thread holds it.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// The process that made something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u32);

impl Process {
    /// This process.
    pub fn current() -> Self {
        watch();
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// Whether this is still that process.
    #[inline]
    pub fn is_here(self) -> bool {
        self.0 == GENERATION.load(Ordering::Relaxed)
    }
}

/// What belongs to the whole process and is changed now and then, by threads without Python as well, is changed under this
/// lock: a fork waits for it, so the child finds all of it whole and free.
static CHANGES: Mutex<()> = Mutex::new(());

/// The lock, while a fork is under way.
struct ByFork(UnsafeCell<Option<MutexGuard<'static, ()>>>);

// SAFETY: used only by whoever holds the lock.
unsafe impl Sync for ByFork {}

static BY_FORK: ByFork = ByFork(UnsafeCell::new(None));

/// Has forks wait until it is dropped: for a few instructions that wait for nothing.
pub fn hold_off_forks() -> MutexGuard<'static, ()> {
    watch();
    CHANGES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg_attr(miri, allow(dead_code))]
extern "C" fn before() {
    let lock = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: this thread holds the lock.
    unsafe { *BY_FORK.0.get() = Some(lock) };
}

#[cfg_attr(miri, allow(dead_code))]
extern "C" fn in_parent() {
    // SAFETY: this thread has taken the lock in `before`.
    let lock = unsafe { (*BY_FORK.0.get()).take() };
    drop(lock);
}

#[cfg_attr(miri, allow(dead_code))]
extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    in_parent();
}

fn watch() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        // SAFETY: the handlers touch an atomic and a lock. Should registering fail, forks go unnoticed.
        #[cfg(not(miri))]
        unsafe {
            libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child));
        }
    });
}
