//! State that only the thread which holds the loop touches.

use std::cell::UnsafeCell;
#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicBool, Ordering};

/// A cell for state of a loop or transport, opened for the length of a short closure.
///
/// The rule that makes it sound: the closure runs no Python and drops no Python object, so nothing can come back to
/// the same cell while it is open, and the interpreter lock (or, on free-threaded builds, the check of the owner
/// thread in front of every entry) keeps other threads out. Debug builds check it.
pub struct Local<T> {
    value: UnsafeCell<T>,
    #[cfg(debug_assertions)]
    open: AtomicBool,
}

// SAFETY: see the rule above: one thread at a time opens the cell.
unsafe impl<T: Send> Sync for Local<T> {}

impl<T> Local<T> {
    pub const fn new(value: T) -> Self {
        Self {
            value: UnsafeCell::new(value),
            #[cfg(debug_assertions)]
            open: AtomicBool::new(false),
        }
    }

    #[inline]
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(debug_assertions)]
        assert!(
            !self.open.swap(true, Ordering::Acquire),
            "a closure over loop state ran Python code"
        );
        // SAFETY: the rule in the type's documentation.
        let result = f(unsafe { &mut *self.value.get() });
        #[cfg(debug_assertions)]
        self.open.store(false, Ordering::Release);
        result
    }

    /// Puts `value` in and gives back what was there, to be dropped by the caller after the cell is closed.
    #[inline]
    pub fn replace(&self, value: T) -> T {
        self.with(|slot| std::mem::replace(slot, value))
    }
}

impl<T: Default> Local<T> {
    /// Empties the cell.
    #[inline]
    pub fn take(&self) -> T {
        self.with(std::mem::take)
    }
}

impl<T: Clone> Local<T> {
    /// A copy; cloning a reference counts it and runs no Python.
    #[inline]
    pub fn get(&self) -> T {
        self.with(|value| value.clone())
    }
}

impl<T: Default> Default for Local<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}
