//! What threads without Python leave for a loop. The rooms above bring a [`CompletionSource`]; the loop knows no more of it
//! than this.

use std::any::Any;

use hybridloop_reactor::{Notifier, WakeHandle};
use pyo3::PyTraverseError;

use crate::event_loop::{LoopContext, LoopCore};
use crate::python::{FfiResult, Ref};

/// Where messages for a loop arrive.
pub trait CompletionSource: Send + Sync {
    /// Itself, for the room that has brought it.
    fn as_any(&self) -> &dyn Any;

    /// Whether there is something to deliver.
    fn has_mail(&self) -> bool;

    /// Delivers what has come, on the thread of the loop.
    fn deliver(&self, cx: LoopContext<'_>) -> FfiResult<()>;

    /// Whether to look for mail a moment before the loop sleeps, because some is likely to come soon.
    fn is_patient(&self) -> bool;

    /// Looks until `found` says yes, for a moment at most; whether it did. Runs without the interpreter.
    fn look(&self, found: &dyn Fn() -> bool) -> bool;

    /// Lets go of everything, for a loop that is closed.
    fn close(&self);

    /// Shows the objects that wait for mail to the collector.
    fn each(
        &self,
        visit: &mut dyn FnMut(&Ref) -> Result<(), PyTraverseError>,
    ) -> Result<(), PyTraverseError>;
}

/// Tells a loop of mail, from any thread; it outlives the loop.
pub struct LoopWaker {
    notifier: Notifier,
    waker: WakeHandle,
}

impl LoopWaker {
    /// Ends the sleep of the loop, or the next one; costs a system call only if it sleeps.
    pub fn wake(&self) {
        if self.notifier.notify() {
            // It fails only when the counter is full, and then the loop has been woken.
            let _ = self.waker.wake();
        }
    }
}

impl LoopCore {
    /// What tells this loop of mail; `None` once it is closed.
    pub fn loop_waker(&self) -> Option<LoopWaker> {
        let waker = self
            .waker
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Some(LoopWaker {
            notifier: self.inbox.notifier(),
            waker: waker.clone()?,
        })
    }

    /// The completions, which is there once somebody has brought it.
    #[inline]
    pub fn completions(&self) -> Option<&dyn CompletionSource> {
        self.completions.get().map(|completions| &**completions)
    }

    /// Puts up a completions, if there is none.
    pub fn set_completions(&self, completions: Box<dyn CompletionSource>) {
        // Whoever was first stays.
        let _ = self.completions.set(completions);
    }
}
