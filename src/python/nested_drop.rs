//! Dropping long chains of objects without deep recursion.
//!
//! Since Python 3.14 `_Py_Dealloc` checks the stack and defers deallocation when it is nearly full, for all types with garbage
//! collection. Before, deallocators must limit the depth; CPython's own use macros that access private fields of the thread
//! state. Here each thread counts its depth, and beyond a limit puts the *content* of an object into a list. The outermost
//! deallocator drops that list.
//!
//! Values whose destructors call methods before they drop objects are limited on all Pythons ([`drop_limited`]).

mod limited {
    use std::any::Any;
    use std::cell::Cell;
    use std::ptr;

    /// The limit of CPython.
    const LIMIT: u32 = 50;

    struct Nesting {
        depth: Cell<u32>,
        /// The deferred contents, or null. Only [`drain`] takes it, so it is null while the depth is 0.
        deferred: Cell<*mut Vec<Box<dyn Any>>>,
    }

    thread_local! {
        // It needs no destructor, so it can be used at any time in the life of a thread.
        static NESTING: Nesting = const {
            Nesting {
                depth: Cell::new(0),
                deferred: Cell::new(ptr::null_mut()),
            }
        };
    }

    /// One level of nesting, until it is dropped.
    pub struct Level(());

    /// Enters a level; `None` at the limit.
    #[inline]
    pub fn enter() -> Option<Level> {
        NESTING.with(|nesting| {
            let depth = nesting.depth.get();
            (depth < LIMIT).then(|| {
                nesting.depth.set(depth + 1);
                Level(())
            })
        })
    }

    impl Drop for Level {
        #[inline]
        fn drop(&mut self) {
            NESTING.with(|nesting| {
                if nesting.depth.get() == 1 && !nesting.deferred.get().is_null() {
                    drain(nesting);
                }
                nesting.depth.set(nesting.depth.get() - 1);
            });
        }
    }

    #[cold]
    fn drain(nesting: &Nesting) {
        loop {
            let deferred = nesting.deferred.replace(ptr::null_mut());
            if deferred.is_null() {
                return;
            }
            // SAFETY: `defer` made it by `Box::into_raw`, and it was just taken out of the only cell that has it.
            drop(unsafe { Box::from_raw(deferred) });
        }
    }

    /// Defers dropping `value` to the outermost level.
    #[cold]
    pub fn defer(value: impl Any) {
        NESTING.with(|nesting| {
            let mut deferred = nesting.deferred.get();
            if deferred.is_null() {
                deferred = Box::into_raw(Box::default());
                nesting.deferred.set(deferred);
            }
            // SAFETY: the pointer is valid until `drain` takes it out of the cell, in this thread, which does not run here.
            unsafe { (*deferred).push(Box::new(value)) };
        });
    }
}

#[cfg(not(Py_3_14))]
pub use limited::{defer, enter};

/// Python limits the depth itself.
#[cfg(Py_3_14)]
pub struct Level;

#[cfg(Py_3_14)]
#[inline]
pub fn enter() -> Option<Level> {
    Some(Level)
}

#[cfg(Py_3_14)]
pub fn defer(value: impl std::any::Any) {
    drop(value);
}

/// Drops a value whose destructor does more than drop objects, so that Python does not limit the depth: at once, or in the
/// outermost call.
pub fn drop_limited(value: impl std::any::Any) {
    match limited::enter() {
        Some(_level) => drop(value),
        None => limited::defer(value),
    }
}

/// Drops `value`, the content of an object that is being deallocated: at once, or in the outermost deallocator.
#[inline]
pub fn drop_content(value: impl std::any::Any) {
    match enter() {
        Some(_level) => drop(value),
        None => defer(value),
    }
}
