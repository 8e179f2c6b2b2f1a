//! Locking.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex. Poison is ignored: no code of this layer leaves data inconsistent if it panics.
#[inline]
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
