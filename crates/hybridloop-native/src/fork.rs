//! Which side of a fork this process is on. Threads stay with the parent, and locks may be held by those for ever.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Once;

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// The process that made something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    /// This process.
    pub fn current() -> Self {
        static WATCH: Once = Once::new();
        extern "C" fn in_child() {
            GENERATION.fetch_add(1, Ordering::Relaxed);
        }
        WATCH.call_once(|| {
            // SAFETY: the handler only adds to an atomic. Should registering fail, forks go unnoticed.
            #[cfg(not(miri))]
            unsafe {
                libc::pthread_atfork(None, None, Some(in_child));
            }
            #[cfg(miri)]
            let _ = in_child;
        });
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// Whether this is still that process.
    #[inline]
    pub fn is_here(self) -> bool {
        self.0 == GENERATION.load(Ordering::Relaxed)
    }
}
