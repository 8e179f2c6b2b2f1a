//! From workers to a loop: events in order, with one wake-up for as many as come together.

use crate::sync::{AtomicBool, Ordering, Queue};

/// How to wake whoever empties a mailbox.
pub trait Wake: Send + Sync {
    /// There is mail. Called by any thread, and not again before [`Mailbox::open`].
    fn wake(&self);
}

/// A queue that many fill and one empties.
///
/// The first event after [`Mailbox::open`] wakes the owner, the others don't. The owner opens, then pops until nothing is
/// left: what comes in meanwhile is either popped as well or wakes again.
pub struct Mailbox<T> {
    queue: Queue<T>,
    mail: AtomicBool,
    wake: Box<dyn Wake>,
}

impl<T> Mailbox<T> {
    /// An empty mailbox.
    #[must_use]
    pub fn new(wake: Box<dyn Wake>) -> Self {
        Self {
            queue: Queue::new(),
            mail: AtomicBool::new(false),
            wake,
        }
    }

    /// Adds an event.
    pub fn post(&self, event: T) {
        self.queue.push(event);
        if !self.mail.swap(true, Ordering::AcqRel) {
            self.wake.wake();
        }
    }

    /// Makes the next event wake again; then [`Mailbox::pop`] until it is empty.
    pub fn open(&self) {
        self.mail.swap(false, Ordering::AcqRel);
    }

    /// Whether something was posted since [`Mailbox::open`].
    #[inline]
    pub fn has_mail(&self) -> bool {
        self.mail.load(Ordering::Acquire)
    }

    /// Not all was taken: there is mail until the next [`Mailbox::open`].
    pub fn leave(&self) {
        self.mail.swap(true, Ordering::AcqRel);
    }

    /// Takes the oldest event.
    pub fn pop(&self) -> Option<T> {
        self.queue.pop()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::Arc;

    use super::{Mailbox, Wake};

    struct Count(Arc<AtomicUsize>);
    impl Wake for Count {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn wakes_once_for_a_batch() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let mailbox = Mailbox::new(Box::new(Count(wakes.clone())));
        for i in 0..10 {
            mailbox.post(i);
        }
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
        mailbox.open();
        assert!((0..10).all(|i| mailbox.pop() == Some(i)));
        assert_eq!(mailbox.pop(), None);
        mailbox.post(10);
        assert_eq!(wakes.load(Ordering::Relaxed), 2);
    }
}
