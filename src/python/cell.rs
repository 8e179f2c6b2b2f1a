//! Cells for state that one thread uses at a time.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use pyo3::ffi::PyObject;
use pyo3::pyclass::PyVisit;
use pyo3::PyTraverseError;

use crate::python::refs::Ref;

/// A cell for state of a loop or transport, opened for the length of a short closure.
///
/// The closure must not run Python code or drop a Python object, because that could open the same cell again. Whether it does
/// is checked in every build: opening a cell that is open panics, which the entry point turns into a Python exception. With the
/// global interpreter lock no other thread can find the cell open, unless the closure has given the lock away. On free-threaded
/// builds the cell is a spin lock as well: another thread waits for the few instructions of the closure.
pub struct LoopCell<T> {
    /// The thread that has opened the cell; 0 if it is closed.
    #[cfg(Py_GIL_DISABLED)]
    owner: AtomicU64,
    #[cfg(not(Py_GIL_DISABLED))]
    is_open: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `open` gives the value to one closure at a time, in any thread.
unsafe impl<T: Send> Sync for LoopCell<T> {}

/// Closes a cell, also when the closure panics.
struct Open<'a, T>(&'a LoopCell<T>);

impl<T> Drop for Open<'_, T> {
    #[inline]
    fn drop(&mut self) {
        #[cfg(not(Py_GIL_DISABLED))]
        self.0.is_open.store(false, Ordering::Relaxed);
        #[cfg(Py_GIL_DISABLED)]
        self.0.owner.store(0, Ordering::Release);
    }
}

impl<T> LoopCell<T> {
    pub const fn new(value: T) -> Self {
        Self {
            #[cfg(Py_GIL_DISABLED)]
            owner: AtomicU64::new(0),
            #[cfg(not(Py_GIL_DISABLED))]
            is_open: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// Opens the cell. The interpreter lock orders the accesses of threads, so relaxed ones suffice.
    #[cfg(not(Py_GIL_DISABLED))]
    #[inline]
    fn open(&self) -> Open<'_, T> {
        if self.is_open.load(Ordering::Relaxed) {
            opened_twice();
        }
        self.is_open.store(true, Ordering::Relaxed);
        Open(self)
    }

    #[cfg(Py_GIL_DISABLED)]
    #[inline]
    fn open(&self) -> Open<'_, T> {
        let me = current_thread();
        while let Err(owner) =
            self.owner
                .compare_exchange_weak(0, me, Ordering::Acquire, Ordering::Relaxed)
        {
            if owner == me {
                opened_twice();
            }
            std::thread::yield_now();
        }
        Open(self)
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "a few instructions around a closure")]
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        let open = self.open();
        // SAFETY: `open` has found the cell closed, so no other reference to the value exists until it is dropped.
        f(unsafe { &mut *open.0.value.get() })
    }

    /// Like [`LoopCell::with`], without marking the cell as open.
    ///
    /// # Safety
    /// `f` runs no code that could use the cell again: no Python code, no destructor of a Python object.
    #[inline]
    pub(in crate::python) unsafe fn with_leaf<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(Py_GIL_DISABLED)]
        return self.with(f);
        #[cfg(not(Py_GIL_DISABLED))]
        {
            if self.is_open.load(Ordering::Relaxed) {
                opened_twice();
            }
            // SAFETY: the cell is closed, and the caller guarantees that `f` does not use the cell.
            f(unsafe { &mut *self.value.get() })
        }
    }

    /// Replaces the value, and returns the old one. The caller drops it, after the cell is closed.
    #[inline]
    pub fn replace(&self, value: T) -> T {
        // SAFETY: the closure only moves or copies values, so it runs no Python code and no destructor.
        unsafe { self.with_leaf(|slot| std::mem::replace(slot, value)) }
    }
}

/// A closure over loop state has run Python code that came back to the same state.
#[cold]
#[inline(never)]
#[allow(
    clippy::panic,
    reason = "a defect of this crate; entry points turn it into an exception"
)]
fn opened_twice() -> ! {
    panic!("the state of an event loop was used while it was being changed")
}

/// The identifier of the calling thread, which is not 0.
#[cfg(Py_GIL_DISABLED)]
fn current_thread() -> u64 {
    // SAFETY: may be called by any thread; it returns the identifier of the calling one.
    unsafe { pyo3::ffi::PyThread_get_thread_ident() as u64 }
}

impl<T: Default> LoopCell<T> {
    /// Empties the cell.
    #[inline]
    pub fn take(&self) -> T {
        // SAFETY: the closure only moves or copies values, so it runs no Python code and no destructor.
        unsafe { self.with_leaf(std::mem::take) }
    }
}

impl<T: Copy> LoopCell<T> {
    /// A copy.
    #[inline]
    pub fn get(&self) -> T {
        // SAFETY: the closure only moves or copies values, so it runs no Python code and no destructor.
        unsafe { self.with_leaf(|value| *value) }
    }
}

impl<T: Default> Default for LoopCell<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// A type that a [`SlotCell`] can hold: a reference, or a type that wraps one.
///
/// # Safety
/// `clone` counts the reference and runs no Python code.
pub unsafe trait Counted: Clone {
    /// The object that is referred to.
    fn as_object(&self) -> &Ref;
}

// SAFETY: cloning a `Ref` is `Py_INCREF`, which runs no Python code.
unsafe impl Counted for Ref {
    #[inline]
    fn as_object(&self) -> &Ref {
        self
    }
}

/// A cell for an optional reference.
///
/// It needs no flag as [`LoopCell`] does: none of its methods runs code that could use the cell again. On free-threaded builds
/// it is a spin lock.
pub struct SlotCell<T>(
    #[cfg(Py_GIL_DISABLED)] LoopCell<Option<T>>,
    #[cfg(not(Py_GIL_DISABLED))] UnsafeCell<Option<T>>,
);

// SAFETY: the global interpreter lock, or the lock of the inner cell, admits one thread at a time.
unsafe impl<T: Send> Sync for SlotCell<T> {}

impl<T> Default for SlotCell<T> {
    fn default() -> Self {
        Self::new(None)
    }
}

impl<T> SlotCell<T> {
    #[cfg(Py_GIL_DISABLED)]
    pub const fn new(value: Option<T>) -> Self {
        Self(LoopCell::new(value))
    }

    #[cfg(not(Py_GIL_DISABLED))]
    pub const fn new(value: Option<T>) -> Self {
        Self(UnsafeCell::new(value))
    }

    #[inline]
    fn with<R>(&self, f: impl FnOnce(&mut Option<T>) -> R) -> R {
        #[cfg(Py_GIL_DISABLED)]
        return self.0.with(f);
        // SAFETY: the closures of this file do not use the cell again, and the interpreter lock excludes other threads.
        #[cfg(not(Py_GIL_DISABLED))]
        f(unsafe { &mut *self.0.get() })
    }

    /// Replaces the reference, and returns the old one for the caller to drop.
    #[inline]
    pub fn replace(&self, value: Option<T>) -> Option<T> {
        self.with(|slot| std::mem::replace(slot, value))
    }

    /// Empties the slot.
    #[inline]
    pub fn take(&self) -> Option<T> {
        self.replace(None)
    }

    #[inline]
    pub fn is_some(&self) -> bool {
        self.with(|slot| slot.is_some())
    }

    #[inline]
    pub fn is_none(&self) -> bool {
        !self.is_some()
    }
}

impl<T: Counted> SlotCell<T> {
    /// A new reference to the object.
    #[inline]
    pub fn get(&self) -> Option<T> {
        self.with(|slot| slot.clone())
    }

    /// The object, borrowed from the slot.
    #[inline]
    pub fn as_ptr(&self) -> Option<*mut PyObject> {
        self.with(|slot| slot.as_ref().map(|value| value.as_object().as_ptr()))
    }

    /// Visits the object, for the garbage collector.
    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(object) = self.as_ptr() else {
            return Ok(());
        };
        // SAFETY: the slot holds the object, and `visit` of the collector changes nothing. The reference is not counted, so not
        // dropped.
        let object = std::mem::ManuallyDrop::new(unsafe { Ref::unowned(object) });
        object.visit(visit)
    }
}

/// A small value that is copied in and out.
#[cfg(not(Py_GIL_DISABLED))]
pub use std::cell::Cell;

/// A small value that is copied in and out, also by several threads at once.
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

/// A number that the loop's thread changes and other threads may read. It is as fast as a `Cell`.
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

    /// Replaces the value, and returns the old one; for the loop's thread only.
    #[inline]
    pub fn replace(&self, value: u64) -> u64 {
        let old = self.get();
        self.set(value);
        old
    }
}

/// A flag that any thread may set and read.
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

/// Flags that any thread may set and read.
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

    /// Sets or clears `flags`, and returns whether that has changed one.
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
