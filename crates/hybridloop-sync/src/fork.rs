//! Fork detection, and a way to delay a fork.
//!
//! The child of a fork has one thread. Locks that other threads of the parent held at that moment stay locked in the child for
//! ever, and what these threads were changing stays half changed. So an object that threads share remembers the [`Process`]
//! that made it; in a child its locks are not taken and its memory is not freed.
//!
//! State that belongs to the whole process, and that a child uses as well, is changed while forks are blocked ([`block`]).

use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// Forks between the first process and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Identifies a process among its parents and children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u32);

impl Process {
    /// The process that calls.
    pub fn current() -> Self {
        install_handlers();
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// The number of forks between the first process and this one.
    #[must_use]
    pub fn generation(self) -> u32 {
        self.0
    }

    /// Whether this is the process that calls; `false` in the child of a fork.
    #[inline]
    pub fn is_current(self) -> bool {
        self.0 == GENERATION.load(Ordering::Relaxed)
    }
}

/// A value for a static that each process has of its own. The child of a fork gets a new one, because the locks in its parent's
/// value may be held by threads of the parent; that value is left as it is.
pub struct PerProcess<T>(AtomicPtr<(Process, T)>);

impl<T: Default + Send + Sync + 'static> PerProcess<T> {
    /// Without a value: the first call of [`Self::get`] makes it.
    #[allow(clippy::new_without_default, reason = "it is used for `static` items")]
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// The value of the process that calls.
    pub fn get(&self) -> &'static T {
        loop {
            let current = self.0.load(Ordering::Acquire);
            // SAFETY: the pointer is null, or was stored below, and what was stored is never freed.
            if let Some((process, value)) = unsafe { current.as_ref() } {
                if process.is_current() {
                    return value;
                }
            }
            let new = Box::into_raw(Box::new((Process::current(), T::default())));
            let stored = self
                .0
                .compare_exchange(current, new, Ordering::AcqRel, Ordering::Relaxed);
            if stored.is_err() {
                // SAFETY: `new` comes from `Box::into_raw` and was not stored, so nobody else knows it.
                drop(unsafe { Box::from_raw(new) });
            }
        }
    }
}

/// Held while state of the whole process changes, and by a thread that forks.
static FORK_LOCK: Mutex<()> = Mutex::new(());

/// Keeps other threads from forking, until it is dropped.
#[must_use = "forks are blocked only as long as the guard lives"]
pub struct ForkGuard(#[allow(dead_code, reason = "unlocks when dropped")] MutexGuard<'static, ()>);

/// Blocks forks: a thread that forks waits until the guard is dropped. So hold it for a few instructions, and take no other
/// lock that may be held for longer.
pub fn block() -> ForkGuard {
    install_handlers();
    ForkGuard(lock())
}

fn lock() -> MutexGuard<'static, ()> {
    FORK_LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The guard of [`FORK_LOCK`] while a thread forks: from `before_fork` to `in_parent` or `in_child`.
struct ForkingGuard(UnsafeCell<Option<MutexGuard<'static, ()>>>);

// SAFETY: only a thread that holds `FORK_LOCK` accesses the cell.
unsafe impl Sync for ForkingGuard {}

static FORKING: ForkingGuard = ForkingGuard(UnsafeCell::new(None));

#[cfg_attr(miri, allow(dead_code))]
extern "C" fn before_fork() {
    let guard = lock();
    // SAFETY: this thread holds `FORK_LOCK`.
    unsafe { *FORKING.0.get() = Some(guard) };
}

#[cfg_attr(miri, allow(dead_code))]
extern "C" fn in_parent() {
    // SAFETY: this thread holds `FORK_LOCK` since `before_fork`, which the system calls first.
    let guard = unsafe { (*FORKING.0.get()).take() };
    drop(guard);
}

#[cfg_attr(miri, allow(dead_code))]
extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    // The thread that forked is the child's only thread, and it holds the lock.
    in_parent();
}

fn install_handlers() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: the three functions exist as long as the process, allocate nothing and take no lock but `FORK_LOCK`.
        // If this fails, for want of memory, forks are not noticed.
        #[cfg(not(miri))]
        unsafe {
            libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child));
        }
    });
}

#[cfg(all(test, not(any(loom, miri))))]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::{block, PerProcess, Process};

    /// Whether `test` holds in a child of this process.
    fn holds_in_child(test: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child runs `test`, which takes no lock of the parent but the fork lock and those of the allocator, which
        // fork leaves free, and ends without destructors.
        unsafe {
            match libc::fork() {
                0 => libc::_exit(i32::from(!test())),
                child => {
                    let mut status = -1;
                    assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
                    status == 0
                }
            }
        }
    }

    #[test]
    fn a_child_is_another_process() {
        let process = Process::current();
        assert!(process.is_current());
        assert!(holds_in_child(|| {
            !process.is_current()
                && Process::current().is_current()
                && Process::current() != process
        }));
        assert!(process.is_current());
    }

    #[test]
    fn a_child_has_a_value_of_its_own() {
        static VALUE: PerProcess<Mutex<u32>> = PerProcess::new();
        let mut held = VALUE.get().lock().unwrap_or_else(PoisonError::into_inner);
        *held = 7;
        assert!(holds_in_child(|| {
            VALUE.get().try_lock().is_ok_and(|mut value| {
                let before = std::mem::replace(&mut *value, 8);
                before == 0
            }) && VALUE.get().lock().is_ok_and(|value| *value == 8)
        }));
        assert_eq!(*held, 7);
    }

    #[test]
    fn all_threads_get_the_same_value() {
        static VALUE: PerProcess<Mutex<u32>> = PerProcess::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| *VALUE.get().lock().unwrap_or_else(PoisonError::into_inner) += 1);
            }
        });
        assert_eq!(VALUE.get().lock().ok().as_deref(), Some(&8));
    }

    #[test]
    fn a_fork_waits_for_the_guard_and_leaves_the_lock_free() {
        let guard = block();
        let thread = std::thread::spawn(|| {
            holds_in_child(|| {
                drop(block());
                true
            })
        });
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!thread.is_finished());
        drop(guard);
        assert!(thread.join().is_ok_and(|held| held));
    }
}
