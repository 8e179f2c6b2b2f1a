//! Dropping what may hold a long chain of objects, without recursion as deep as the chain.
//!
//! Since Python 3.14 `_Py_Dealloc` looks at the stack and puts off what does not fit, for objects of every type that the
//! collector knows. Before, deallocators have to limit the depth themselves; CPython's own use macros that lean on private
//! fields of the thread state. Here each thread counts how deep it is, and beyond a limit puts the *content* of an object
//! into a list. The outermost deallocator drops what is in the list.

#[cfg(not(Py_3_14))]
mod limited {
    use std::any::Any;
    use std::cell::Cell;
    use std::ptr;

    /// As CPython's own limit.
    const LIMIT: u32 = 50;

    struct Nesting {
        depth: Cell<u32>,
        /// What was put off; null if nothing was. Only [`drain`] takes it, so it is null while the depth is 0.
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

    /// As long as it exists, the thread is one level deeper.
    pub struct Level(());

    /// Goes one level deeper; `None` at the limit.
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
            // SAFETY: `defer` made it by `Box::into_raw`, and nobody else has it any longer.
            drop(unsafe { Box::from_raw(deferred) });
        }
    }

    /// Has the outermost level drop `value`.
    #[cold]
    pub fn defer(value: impl Any) {
        NESTING.with(|nesting| {
            let mut deferred = nesting.deferred.get();
            if deferred.is_null() {
                deferred = Box::into_raw(Box::default());
                nesting.deferred.set(deferred);
            }
            // SAFETY: it lives until `drain` takes it out of the cell, which happens in this thread.
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

/// Drops `value`, which is the content of an object that dies: at once, or after the deallocators that are under way.
#[inline]
pub fn drop_content(value: impl std::any::Any) {
    match enter() {
        Some(_level) => drop(value),
        None => defer(value),
    }
}
