//! What happens when the system gives no more memory.
//!
//! Whatever a program, a peer or a file decides the size of is asked for by functions that may fail, and ends in `MemoryError`.
//! What is left is small and of fixed size: blocks of a queue, shared counters, texts of errors. Rust's library ends the
//! process when it does not get these. So there is a reserve for them, which nobody else uses. [`is_memory_low`] tells when much of
//! it is used, and then nothing begins that would need more.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use pyo3::ffi;

use crate::python::ErrSet;

/// Sets `MemoryError`, after dropping what there was no room for.
#[cold]
pub fn out_of_memory<E>(left: E) -> ErrSet {
    // It may be an object, and dropping it may run Python.
    drop(left);
    // SAFETY: whoever gets errors is attached.
    unsafe { ffi::PyErr_NoMemory() };
    ErrSet
}

/// Whether the system gives no memory and half of the reserve is used.
#[inline]
pub fn is_memory_low() -> bool {
    RESERVE.used.load(Ordering::Relaxed) > SLOTS / 2
}

/// The largest piece of the reserve, and how many there are.
const SLOT: usize = 512;
const SLOTS: usize = 64 * WORDS;
const WORDS: usize = 8;

/// As aligned as any piece may ask for.
#[repr(C, align(512))]
struct Slots(UnsafeCell<[[u8; SLOT]; SLOTS]>);

struct Reserve {
    slots: Slots,
    /// A bit for each slot that is used.
    map: [AtomicU64; WORDS],
    used: AtomicUsize,
}

// SAFETY: whoever has set the bit of a slot has it for itself.
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
                // SAFETY: within the array.
                return unsafe { self.slots.0.get().cast::<u8>().add(slot * SLOT) };
            }
        }
        ptr::null_mut()
    }

    /// The slot that begins there, if it is one.
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

// SAFETY: what comes from the system goes back to it, and so do pieces of the reserve, which are as large and as aligned as
// asked.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, here and below.
        let data = unsafe { System.alloc(layout) };
        if data.is_null() {
            return RESERVE.take(layout);
        }
        data
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above; a slot is as large as asked.
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
                // SAFETY: the system's.
                unsafe { System.dealloc(data, layout) }
            }
            Some(slot) => RESERVE.give_back(slot),
        }
    }

    #[inline]
    unsafe fn realloc(&self, data: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above; both pieces are as large as what is copied.
        unsafe {
            if RESERVE.slot(data).is_none() {
                let new = System.realloc(data, layout, size);
                if !new.is_null() {
                    return new;
                }
                if size <= layout.size() {
                    // What is too large will do.
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
