//! Handling of failed allocations.
//!
//! Allocations whose size depends on a program, a peer or a file use fallible functions and raise `MemoryError`. The other
//! allocations are small and of fixed size: blocks of a queue, shared counters, texts of errors. Rust's standard library aborts
//! the process if one of them fails. So they fall back to a reserve. [`is_memory_low`] returns true when half of it is used;
//! new work is then rejected.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use pyo3::ffi;

use crate::python::ErrSet;

/// Sets `MemoryError`, after dropping the value that could not be stored.
#[cold]
pub fn out_of_memory<E>(left: E) -> ErrSet {
    // It may be an object, and dropping it may run Python.
    drop(left);
    // SAFETY: the callers return errors to Python, so the thread is attached.
    unsafe { ffi::PyErr_NoMemory() };
    ErrSet
}

/// Whether allocations have failed and half of the reserve is used.
#[inline]
pub fn is_memory_low() -> bool {
    RESERVE.used.load(Ordering::Relaxed) > SLOTS / 2
}

/// The size and the number of slots of the reserve. The largest allocations that must not fail are the blocks of the queues of
/// native jobs and of their events.
const SLOT: usize = 1024;
const SLOTS: usize = 64 * WORDS;
const WORDS: usize = 8;

/// The alignment is the largest that an allocation from the reserve may have.
#[repr(C, align(512))]
struct Slots(UnsafeCell<[[u8; SLOT]; SLOTS]>);

struct Reserve {
    slots: Slots,
    /// A bit for each slot that is used.
    map: [AtomicU64; WORDS],
    used: AtomicUsize,
}

// SAFETY: a slot is used only by the code that has set its bit, until it clears the bit.
unsafe impl Sync for Reserve {}

static RESERVE: Reserve = Reserve::new();

impl Reserve {
    #[allow(
        clippy::large_stack_arrays,
        reason = "only static variables are made of it"
    )]
    const fn new() -> Self {
        Self {
            slots: Slots(UnsafeCell::new([[0; SLOT]; SLOTS])),
            map: [const { AtomicU64::new(0) }; WORDS],
            used: AtomicUsize::new(0),
        }
    }

    #[cold]
    fn take(&self, layout: Layout) -> *mut u8 {
        if layout.size() > SLOT || layout.align() > SLOT {
            return ptr::null_mut();
        }
        for (at, word) in self.map.iter().enumerate() {
            let set = word.fetch_update(Ordering::Acquire, Ordering::Relaxed, |bits| {
                (bits != u64::MAX).then(|| bits | (bits + 1))
            });
            if let Ok(bits) = set {
                self.used.fetch_add(1, Ordering::Relaxed);
                let slot = at * 64 + bits.trailing_ones() as usize;
                // SAFETY: `slot` is less than `SLOTS`, so the pointer is within the array.
                return unsafe { self.slots.0.get().cast::<u8>().add(slot * SLOT) };
            }
        }
        ptr::null_mut()
    }

    /// The slot at this address, if it is in the reserve.
    #[inline]
    fn slot(&self, data: *mut u8) -> Option<usize> {
        let at = data.addr().wrapping_sub(self.slots.0.get().addr());
        (at < SLOT * SLOTS).then_some(at / SLOT)
    }

    #[cold]
    fn give_back(&self, slot: usize) {
        self.map[slot / 64].fetch_and(!(1 << (slot % 64)), Ordering::Release);
        self.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The system's allocator with the reserve behind it.
pub struct Allocator;

// SAFETY: memory of `System` is returned to `System`, and slots to the reserve. A slot is at least as large and as aligned as
// the layout.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller guarantees a layout of a size that is not 0.
        let data = unsafe { System.alloc(layout) };
        if data.is_null() {
            return RESERVE.take(layout);
        }
        data
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller guarantees a layout of a size that is not 0. A slot has at least `layout.size()` bytes.
        unsafe {
            let data = System.alloc_zeroed(layout);
            if !data.is_null() {
                return data;
            }
            let data = RESERVE.take(layout);
            if !data.is_null() {
                ptr::write_bytes(data, 0, layout.size());
            }
            data
        }
    }

    #[inline]
    unsafe fn dealloc(&self, data: *mut u8, layout: Layout) {
        match RESERVE.slot(data) {
            None => {
                // SAFETY: the memory is not of the reserve, so `System` has allocated it, with the caller's layout.
                unsafe { System.dealloc(data, layout) }
            }
            Some(slot) => RESERVE.give_back(slot),
        }
    }

    #[inline]
    unsafe fn realloc(&self, data: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller guarantees memory of this allocator with `layout`, and a valid new size. Both blocks have at least
        // the number of bytes that is copied.
        unsafe {
            if RESERVE.slot(data).is_none() {
                let new = System.realloc(data, layout, size);
                if !new.is_null() {
                    return new;
                }
                if size <= layout.size() {
                    // A smaller size fits into the old block.
                    return data;
                }
            }
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(data, new, size.min(layout.size()));
                self.dealloc(data, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_gives_each_slot_once_and_takes_it_back() {
        static OWN: Reserve = Reserve::new();
        let reserve = &OWN;
        let layout = Layout::new::<[u64; 8]>();
        let mut all: Vec<_> = (0..SLOTS).map(|_| reserve.take(layout)).collect();
        assert!(reserve.take(layout).is_null());
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), SLOTS);
        for data in all {
            assert!(reserve.slot(data).is_some());
            if let Some(slot) = reserve.slot(data) {
                reserve.give_back(slot);
            }
        }
        assert_eq!(reserve.used.load(Ordering::Relaxed), 0);
        assert!(!reserve.take(layout).is_null());
        assert!(reserve.take(Layout::new::<[u8; SLOT + 1]>()).is_null());
    }
}
