//! Locks and atomics: the standard library's, or loom's where a model explores every interleaving.

#[cfg(not(loom))]
pub(crate) use std::sync::{
    atomic::{fence, AtomicBool, AtomicU64, AtomicU8, AtomicUsize, Ordering},
    Condvar, Mutex, MutexGuard, OnceLock,
};

#[cfg(not(loom))]
pub(crate) use std::thread;

#[cfg(loom)]
pub(crate) use loom::{
    sync::{
        atomic::{fence, AtomicBool, AtomicU64, AtomicU8, AtomicUsize, Ordering},
        Condvar, Mutex, MutexGuard,
    },
    thread,
};
#[cfg(loom)]
pub(crate) use model::OnceLock;

use std::sync::{PoisonError, TryLockError};

/// Locks. What a lock guards is whole at every point where a panic could happen, so a poisoned lock is as good as any.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks unless somebody else holds the lock.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Waits for a notice; gives the lock back.
pub(crate) fn wait<'a, T>(cond: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    cond.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

#[cfg(not(loom))]
pub(crate) type Queue<T> = crossbeam_queue::SegQueue<T>;
#[cfg(loom)]
pub(crate) use model::Queue;

#[cfg(loom)]
mod model {
    use std::collections::VecDeque;

    use loom::cell::UnsafeCell;

    use super::{AtomicU8, Ordering};

    /// What is written once and then only read; loom watches the reads.
    pub struct OnceLock<T> {
        state: AtomicU8,
        value: UnsafeCell<Option<T>>,
    }

    // SAFETY: as the standard library's.
    unsafe impl<T: Send> Send for OnceLock<T> {}
    // SAFETY: as above; a reference is given only after the one write.
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
            // SAFETY: only who has claimed it gets here, and nobody reads before the state says so.
            self.value.with_mut(|place| unsafe { *place = Some(value) });
            self.state.store(2, Ordering::Release);
            Ok(())
        }

        pub fn get(&self) -> Option<&T> {
            if self.state.load(Ordering::Acquire) != 2 {
                return None;
            }
            // SAFETY: written, and from then on only read.
            self.value.with(|place| unsafe { (*place).as_ref() })
        }
    }

    /// A queue that loom can explore; crossbeam's own is tested by its authors.
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
