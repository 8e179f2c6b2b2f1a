//! Wakers, which any thread may use, without an interpreter.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::Arc;
use std::task::Wake;

use crate::abi;

/// What the wakers of a coroutine share with it. It holds no Python object, so it may outlive the interpreter.
pub struct Shared {
    woken: AtomicBool,
    /// Wakes the coroutine, while it waits.
    waiting: AtomicPtr<abi::Waker>,
}

impl Shared {
    pub fn new() -> Self {
        Self {
            woken: AtomicBool::new(false),
            waiting: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The coroutine is about to look: later wakes count anew.
    pub fn reset(&self) {
        self.woken.store(false, Ordering::SeqCst);
    }

    pub fn is_woken(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }

    /// The coroutine is about to wait. `false` if it was woken meanwhile.
    ///
    /// # Safety
    /// The caller gives up `waker`.
    pub unsafe fn wait(&self, waker: *mut abi::Waker) -> bool {
        self.end_waiting(waker);
        // `wake` tells before it looks for the waker: what was told before it was there is seen here.
        if self.is_woken() {
            self.end_waiting(ptr::null_mut());
            return false;
        }
        true
    }

    /// Puts another waker, or none, in place of that of the last wait.
    pub fn end_waiting(&self, next: *mut abi::Waker) {
        let waker = self.waiting.swap(next, Ordering::SeqCst);
        if !waker.is_null() {
            // SAFETY: who takes it out of the field has it.
            unsafe { abi::Waker::drop(waker) };
        }
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            let waker = self.waiting.swap(ptr::null_mut(), Ordering::SeqCst);
            if !waker.is_null() {
                // SAFETY: who takes it out of the field has it.
                unsafe { abi::Waker::wake(waker) };
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.end_waiting(ptr::null_mut());
    }
}
