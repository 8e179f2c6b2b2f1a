//! Locks, atomics, threads and a queue: the standard library's and crossbeam's, or with `--cfg loom` those that loom explores.

#[cfg(not(loom))]
pub use std::sync::{
    atomic::{fence, AtomicBool, AtomicU64, AtomicU8, AtomicUsize, Ordering},
    Condvar, Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

#[cfg(not(loom))]
pub use std::thread;

#[cfg(loom)]
pub use loom::{
    sync::{
        atomic::{fence, AtomicBool, AtomicU64, AtomicU8, AtomicUsize, Ordering},
        Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
    },
    thread,
};
#[cfg(loom)]
pub use model::OnceLock;

use std::sync::{PoisonError, TryLockError};

/// Locks, also after a panic of another thread: what a lock guards here is consistent wherever a panic can happen.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks unless the lock is held.
pub fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Locks together with other readers, also after a panic of another thread.
pub fn read_lock<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks alone, also after a panic of another thread.
pub fn write_lock<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification, without the lock meanwhile.
pub fn wait<'a, T>(cond: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    cond.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// A queue that any thread pushes to and pops from.
#[cfg(not(loom))]
pub type Queue<T> = crossbeam_queue::SegQueue<T>;
#[cfg(loom)]
pub use model::Queue;

#[cfg(loom)]
#[allow(
    missing_docs,
    clippy::new_without_default,
    reason = "the methods of the types they replace"
)]
mod model {
    use std::collections::VecDeque;

    use loom::cell::UnsafeCell;

    use super::{AtomicU8, Ordering};

    /// `std::sync::OnceLock` for a model: loom checks that reads come after the write.
    pub struct OnceLock<T> {
        state: AtomicU8,
        value: UnsafeCell<Option<T>>,
    }

    // SAFETY: it owns the value, which may move to another thread.
    unsafe impl<T: Send> Send for OnceLock<T> {}
    // SAFETY: `get` gives references only in state 2, and the only write happens before that state is stored.
    unsafe impl<T: Send + Sync> Sync for OnceLock<T> {}

    impl<T> OnceLock<T> {
        pub fn new() -> Self {
            Self {
                state: AtomicU8::new(0),
                value: UnsafeCell::new(None),
            }
        }

        pub fn set(&self, value: T) -> Result<(), T> {
            let claimed = self
                .state
                .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed);
            if claimed.is_err() {
                return Err(value);
            }
            // SAFETY: one thread changes the state from 0 to 1, and nobody reads before state 2.
            self.value.with_mut(|place| unsafe { *place = Some(value) });
            self.state.store(2, Ordering::Release);
            Ok(())
        }

        pub fn get(&self) -> Option<&T> {
            if self.state.load(Ordering::Acquire) != 2 {
                return None;
            }
            // SAFETY: in state 2 the value is written and never written again.
            self.value.with(|place| unsafe { (*place).as_ref() })
        }
    }

    /// A queue that loom can explore. Crossbeam's own is tested by its authors.
    pub struct Queue<T>(loom::sync::Mutex<VecDeque<T>>);

    impl<T> Queue<T> {
        pub fn new() -> Self {
            Self(loom::sync::Mutex::new(VecDeque::new()))
        }
        pub fn push(&self, item: T) {
            super::lock(&self.0).push_back(item);
        }
        pub fn pop(&self) -> Option<T> {
            super::lock(&self.0).pop_front()
        }
        pub fn is_empty(&self) -> bool {
            super::lock(&self.0).is_empty()
        }
    }
}
