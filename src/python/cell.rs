//! State that one thread touches at a time.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// A cell for state of a loop or transport, opened for the length of a short closure.
///
/// The rule that makes it sound: the closure runs no Python and drops no Python object, so nothing can come back to
/// the same cell while it is open. The interpreter lock keeps other threads out. Free-threaded builds have none, so there
/// the cell is a lock of its own: nearly always only the loop's thread comes, and who else does waits for some
/// instructions. Debug builds check the rule.
pub struct LoopCell<T> {
    value: UnsafeCell<T>,
    #[cfg(any(debug_assertions, Py_GIL_DISABLED))]
    open: AtomicBool,
}

// SAFETY: see the rule above: one thread at a time opens the cell.
unsafe impl<T: Send> Sync for LoopCell<T> {}

impl<T> LoopCell<T> {
    pub const fn new(value: T) -> Self {
        Self {
            value: UnsafeCell::new(value),
            #[cfg(any(debug_assertions, Py_GIL_DISABLED))]
            open: AtomicBool::new(false),
        }
    }

    #[inline]
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(Py_GIL_DISABLED)]
        while self.open.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
        #[cfg(all(debug_assertions, not(Py_GIL_DISABLED)))]
        assert!(
            !self.open.swap(true, Ordering::Acquire),
            "a closure over loop state ran Python code"
        );
        // SAFETY: the rule in the type's documentation.
        let result = f(unsafe { &mut *self.value.get() });
        #[cfg(any(debug_assertions, Py_GIL_DISABLED))]
        self.open.store(false, Ordering::Release);
        result
    }

    /// Puts `value` in and gives back what was there, to be dropped by the caller after the cell is closed.
    #[inline]
    pub fn replace(&self, value: T) -> T {
        self.with(|slot| std::mem::replace(slot, value))
    }
}

impl<T: Default> LoopCell<T> {
    /// Empties the cell.
    #[inline]
    pub fn take(&self) -> T {
        self.with(std::mem::take)
    }
}

impl<T: Clone> LoopCell<T> {
    /// A copy; cloning a reference counts it and runs no Python.
    #[inline]
    pub fn get(&self) -> T {
        self.with(|value| value.clone())
    }
}

impl<T: Default> Default for LoopCell<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// A small value that is copied in and out.
#[cfg(not(Py_GIL_DISABLED))]
pub use std::cell::Cell;

/// A small value that is copied in and out, whole whichever threads do that at the same time.
#[cfg(Py_GIL_DISABLED)]
#[derive(Default)]
pub struct Cell<T>(LoopCell<T>);

#[cfg(Py_GIL_DISABLED)]
impl<T: Copy> Cell<T> {
    pub const fn new(value: T) -> Self {
        Self(LoopCell::new(value))
    }

    #[inline]
    pub fn get(&self) -> T {
        self.0.with(|value| *value)
    }

    #[inline]
    pub fn set(&self, value: T) {
        self.0.with(|slot| *slot = value);
    }

    #[inline]
    pub fn replace(&self, value: T) -> T {
        self.0.replace(value)
    }
}

/// A number that the loop's thread changes and others may look at. It costs what a `Cell` does.
#[derive(Default)]
pub struct RelaxedU64(AtomicU64);

impl RelaxedU64 {
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Puts `value` in and gives back what was there; for the loop's thread alone.
    #[inline]
    pub fn replace(&self, value: u64) -> u64 {
        let old = self.get();
        self.set(value);
        old
    }
}

/// A flag that any thread may set and look at.
#[derive(Default)]
pub struct RelaxedBool(AtomicBool);

impl RelaxedBool {
    #[inline]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    pub fn set(&self, value: bool) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Flags that any thread may set and look at.
#[derive(Default)]
pub struct AtomicFlags(AtomicU32);

impl AtomicFlags {
    #[inline]
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    pub fn set(&self, flags: u32, on: bool) {
        self.change(flags, on);
    }

    /// Whether it was not so before.
    #[inline]
    pub fn change(&self, flags: u32, on: bool) -> bool {
        let old = if !cfg!(Py_GIL_DISABLED) {
            // One thread at a time, so that no locked instruction is needed.
            let old = self.get();
            let new = if on { old | flags } else { old & !flags };
            self.0.store(new, Ordering::Relaxed);
            old
        } else if on {
            self.0.fetch_or(flags, Ordering::Relaxed)
        } else {
            self.0.fetch_and(!flags, Ordering::Relaxed)
        };
        old & flags != if on { flags } else { 0 }
    }
}
