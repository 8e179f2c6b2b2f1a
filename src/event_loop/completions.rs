//! Completions from threads that do not hold the interpreter. A higher layer installs a [`CompletionSource`]; the loop knows
//! nothing else of that layer.

use std::any::Any;

use hybridloop_reactor::WakeHandle;
use hybridloop_sync::primitives::lock;
use hybridloop_sync::Notifier;
use pyo3::PyTraverseError;

use crate::event_loop::{LoopContext, LoopCore};
use crate::python::{FfiResult, Ref};

/// The queue of completions for one loop.
pub trait CompletionSource: Send + Sync {
    /// For the layer that installed the source, which downcasts it.
    fn as_any(&self) -> &dyn Any;

    /// Whether completions wait to be dispatched.
    fn is_pending(&self) -> bool;

    /// Dispatches the completions that have arrived, on the loop's thread.
    fn dispatch(&self, cx: LoopContext<'_>) -> FfiResult<()>;

    /// Whether to spin before the loop sleeps, because a completion is likely to arrive soon.
    fn should_spin(&self) -> bool;

    /// Spins until `found` returns true or the time for spinning is over; returns whether it found something. Runs detached
    /// from the interpreter.
    fn spin(&self, found: &dyn Fn() -> bool) -> bool;

    /// Drops what the source holds; the loop is closed.
    fn close(&self);

    /// Visits the objects that wait for completions, for the garbage collector.
    fn traverse(
        &self,
        visit: &mut dyn FnMut(&Ref) -> Result<(), PyTraverseError>,
    ) -> Result<(), PyTraverseError>;
}

/// Wakes a loop from any thread. It may outlive the loop.
pub struct LoopWaker {
    notifier: Notifier,
    waker: WakeHandle,
}

impl LoopWaker {
    /// Ends the current or the next sleep of the loop. It makes a system call only if the loop sleeps.
    pub fn wake(&self) {
        if self.notifier.notify() {
            // It fails only if the counter is full; then the loop has been woken already.
            let _ = self.waker.wake();
        }
    }
}

impl LoopCore {
    /// The waker of this loop; `None` once the loop is closed.
    pub fn loop_waker(&self) -> Option<LoopWaker> {
        let waker = lock(&self.waker);
        Some(LoopWaker {
            notifier: self.inbox.notifier(),
            waker: waker.clone()?,
        })
    }

    /// The completion source, if one is installed.
    #[inline]
    pub fn completions(&self) -> Option<&dyn CompletionSource> {
        self.completions.get().map(|completions| &**completions)
    }

    /// Installs a completion source. The first one stays for the life of the loop; later ones are dropped.
    pub fn set_completions(&self, completions: Box<dyn CompletionSource>) {
        let _ = self.completions.set(completions);
    }
}
