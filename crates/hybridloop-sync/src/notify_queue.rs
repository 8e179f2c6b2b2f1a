//! Items from other threads, with at most one wake-up per sleep.

use std::sync::Arc;

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU8, Ordering};

/// The consumer is awake and has seen every item pushed so far, or is about to.
const RUNNING: u8 = 0;
/// The consumer is in, or on its way into, a blocking poll: the next producer has to wake it.
const POLLING: u8 = 1;
/// Something was pushed that the consumer has not drained: it must not block.
const MAIL: u8 = 2;

#[cfg(not(loom))]
type Queue<T> = crossbeam_queue::SegQueue<T>;
#[cfg(loom)]
type Queue<T> = model::Queue<T>;

/// A multi-producer queue that one thread drains.
///
/// A producer pushes, then swaps the state to `MAIL`; it has to wake the consumer only if the state was `POLLING`. The
/// consumer may block only after it moved `RUNNING` to `POLLING`, which fails when mail came in meanwhile. So no push
/// is missed and one sleep costs one wake-up, however many producers there are. `tests/loom.rs` checks all
/// interleavings.
pub struct Inbox<T> {
    /// On the heap, because it asks for more alignment than Python gives its objects.
    queue: Box<Queue<T>>,
    state: Arc<AtomicU8>,
}

/// Asks the consumer of an [`Inbox`] to look up, and outlives the inbox.
#[derive(Clone)]
pub struct Notifier(Arc<AtomicU8>);

impl Notifier {
    /// Asks the consumer to look up without an item; `true` tells the caller to wake it.
    #[must_use = "a `true` means that the consumer sleeps and has to be woken"]
    pub fn notify(&self) -> bool {
        self.0.swap(MAIL, Ordering::AcqRel) == POLLING
    }
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self {
            queue: Box::new(Queue::new()),
            state: Arc::new(AtomicU8::new(RUNNING)),
        }
    }
}

impl<T> Inbox<T> {
    /// An empty inbox whose consumer runs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an item; `true` tells the caller to wake the consumer.
    #[must_use = "a `true` means that the consumer sleeps and has to be woken"]
    pub fn push(&self, item: T) -> bool {
        self.queue.push(item);
        self.notify()
    }

    /// Asks the consumer to look up without an item; `true` tells the caller to wake it.
    #[must_use = "a `true` means that the consumer sleeps and has to be woken"]
    pub fn notify(&self) -> bool {
        self.state.swap(MAIL, Ordering::AcqRel) == POLLING
    }

    /// What asks the consumer to look up from where the inbox is not at hand.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        Notifier(self.state.clone())
    }

    /// Whether anything was pushed since the last [`Inbox::open`].
    #[must_use]
    #[inline]
    pub fn has_mail(&self) -> bool {
        self.state.load(Ordering::Acquire) == MAIL
    }

    /// Marks the mail as seen; then [`Inbox::pop`] until it is empty.
    ///
    /// Marking comes first: an item pushed while the caller pops raises the mark again.
    pub fn open(&self) {
        self.state.swap(RUNNING, Ordering::AcqRel);
    }

    /// Takes the oldest item.
    #[must_use]
    pub fn pop(&self) -> Option<T> {
        self.queue.pop()
    }

    /// Announces that the consumer is going to block; `false` when there is mail, and then it must not.
    #[must_use = "the consumer may block only if this is `true`"]
    pub fn sleep(&self) -> bool {
        self.state
            .compare_exchange(RUNNING, POLLING, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Tells producers that the consumer no longer blocks. Mail that came in stays marked.
    pub fn awake(&self) {
        // A failure means that a producer has put MAIL there, which is what the consumer has to see.
        let _ = self
            .state
            .compare_exchange(POLLING, RUNNING, Ordering::AcqRel, Ordering::Acquire);
    }
}

#[cfg(loom)]
mod model {
    use std::collections::VecDeque;

    /// A queue that loom can explore; crossbeam's own is tested by its authors.
    pub struct Queue<T>(loom::sync::Mutex<VecDeque<T>>);

    #[allow(clippy::unwrap_used)]
    impl<T> Queue<T> {
        pub fn new() -> Self {
            Self(loom::sync::Mutex::new(VecDeque::new()))
        }
        pub fn push(&self, item: T) {
            self.0.lock().unwrap().push_back(item);
        }
        pub fn pop(&self) -> Option<T> {
            self.0.lock().unwrap().pop_front()
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Inbox;

    #[test]
    fn wakes_once_per_sleep() {
        let inbox = Inbox::new();
        assert!(!inbox.push(1));
        assert!(!inbox.sleep(), "mail forbids sleeping");
        inbox.open();
        assert_eq!(inbox.pop(), Some(1));
        assert!(inbox.sleep());
        assert!(inbox.push(2), "the first push after sleep wakes");
        assert!(!inbox.push(3), "the second does not");
        inbox.awake();
        assert!(inbox.has_mail());
        inbox.open();
        assert_eq!(
            (inbox.pop(), inbox.pop(), inbox.pop()),
            (Some(2), Some(3), None)
        );
    }

    #[test]
    fn a_poll_that_ends_by_itself_leaves_no_mail() {
        let inbox = Inbox::<u8>::new();
        assert!(inbox.sleep());
        inbox.awake();
        assert!(!inbox.has_mail());
        assert!(!inbox.notify());
        assert!(inbox.has_mail());
    }
}
