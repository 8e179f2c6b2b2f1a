//! Queues from many threads to one consumer, which is woken at most once per sleep.

use std::sync::Arc;

use crate::primitives::{lock, AtomicU8, Mutex, Ordering, Queue};

/// The consumer runs, and looks at the queue before it blocks.
const RUNNING: u8 = 0;
/// The consumer blocks, or is about to: the next producer has to wake it.
const POLLING: u8 = 1;
/// Something was pushed since [`NotifyQueue::clear`]: the consumer must not block.
const PENDING: u8 = 2;

/// A queue whose consumer blocks elsewhere, for instance in a poll of descriptors.
///
/// A producer pushes the item, then swaps the state to `PENDING`; it wakes the consumer only if the state was `POLLING`. The
/// consumer blocks only after it has moved `RUNNING` to `POLLING`, which fails if something was pushed meanwhile. So no push
/// is missed, and one sleep costs one wake-up whatever the number of producers. `tests/loom.rs` checks all interleavings.
pub struct NotifyQueue<T> {
    /// Boxed, because Python aligns its objects to 16 bytes and crossbeam's queue asks for more.
    queue: Box<Queue<T>>,
    state: Arc<AtomicU8>,
}

/// Notifies the consumer of a [`NotifyQueue`] without pushing an item. It may outlive the queue.
#[derive(Clone)]
pub struct Notifier(Arc<AtomicU8>);

impl Notifier {
    /// Makes the queue pending; `true` if the caller has to wake the consumer.
    #[must_use = "on `true` the consumer blocks and has to be woken"]
    pub fn notify(&self) -> bool {
        self.0.swap(PENDING, Ordering::AcqRel) == POLLING
    }
}

impl<T> Default for NotifyQueue<T> {
    fn default() -> Self {
        Self {
            queue: Box::new(Queue::new()),
            state: Arc::new(AtomicU8::new(RUNNING)),
        }
    }
}

impl<T> NotifyQueue<T> {
    /// An empty queue whose consumer runs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an item; `true` if the caller has to wake the consumer.
    #[must_use = "on `true` the consumer blocks and has to be woken"]
    pub fn push(&self, item: T) -> bool {
        self.queue.push(item);
        self.notify()
    }

    /// Makes the queue pending without an item; `true` if the caller has to wake the consumer.
    #[must_use = "on `true` the consumer blocks and has to be woken"]
    pub fn notify(&self) -> bool {
        self.state.swap(PENDING, Ordering::AcqRel) == POLLING
    }

    /// A handle that notifies the consumer.
    pub fn notifier(&self) -> Notifier {
        Notifier(self.state.clone())
    }

    /// Whether something was pushed or notified since the last [`NotifyQueue::clear`].
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.state.load(Ordering::Acquire) == PENDING
    }

    /// Ends the pending state. Then call [`NotifyQueue::pop`] until the queue is empty: an item that is pushed meanwhile is
    /// popped, or makes the queue pending again.
    pub fn clear(&self) {
        self.state.swap(RUNNING, Ordering::AcqRel);
    }

    /// Makes the queue pending again, because the consumer, which calls this, has left items in it.
    pub fn mark_pending(&self) {
        self.state.swap(PENDING, Ordering::AcqRel);
    }

    /// Removes the oldest item.
    pub fn pop(&self) -> Option<T> {
        self.queue.pop()
    }

    /// The consumer is about to block; `false` if the queue is pending, and then it must not block.
    #[must_use = "the consumer may block only on `true`"]
    pub fn begin_poll(&self) -> bool {
        self.state
            .compare_exchange(RUNNING, POLLING, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The consumer no longer blocks. The queue stays pending if something was pushed meanwhile.
    pub fn end_poll(&self) {
        // If this fails, a producer has stored PENDING, which has to stay.
        let _ = self
            .state
            .compare_exchange(POLLING, RUNNING, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// Wakes the consumer of a [`WakingQueue`]. Any thread may call it.
pub type WakeFn = Box<dyn Fn() + Send>;

/// A queue that wakes its consumer itself: with the first item after each [`WakingQueue::clear`], whatever the consumer does.
pub struct WakingQueue<T> {
    /// Always `POLLING` or `PENDING`.
    queue: NotifyQueue<T>,
    wake: Mutex<Option<WakeFn>>,
}

impl<T> WakingQueue<T> {
    /// An empty queue. Without a `wake` function nobody is woken.
    #[must_use]
    pub fn new(wake: Option<WakeFn>) -> Self {
        let queue = NotifyQueue::new();
        queue.state.store(POLLING, Ordering::Relaxed);
        Self {
            queue,
            wake: Mutex::new(wake),
        }
    }

    /// Appends an item, and wakes the consumer unless it was woken since the last [`WakingQueue::clear`].
    pub fn push(&self, item: T) {
        if self.queue.push(item) {
            if let Some(wake) = lock(&self.wake).as_ref() {
                wake();
            }
        }
    }

    /// Whether something was pushed since the last [`WakingQueue::clear`].
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.queue.is_pending()
    }

    /// Ends the pending state. Then call [`WakingQueue::pop`] until the queue is empty: an item that is pushed meanwhile is
    /// popped, or wakes again.
    pub fn clear(&self) {
        self.queue.state.swap(POLLING, Ordering::AcqRel);
    }

    /// Makes the queue pending again, because the consumer, which calls this, has left items in it.
    pub fn mark_pending(&self) {
        self.queue.mark_pending();
    }

    /// Removes the oldest item.
    pub fn pop(&self) -> Option<T> {
        self.queue.pop()
    }

    /// Drops the wake function: the consumer is gone, and what is pushed from now on wakes nobody.
    pub fn stop_waking(&self) {
        let wake = lock(&self.wake).take();
        drop(wake);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::Arc;

    use super::{NotifyQueue, WakingQueue};

    #[test]
    fn one_sleep_costs_one_wake_up() {
        let queue = NotifyQueue::new();
        assert!(!queue.push(1));
        assert!(!queue.begin_poll(), "it is pending");
        queue.clear();
        assert_eq!(queue.pop(), Some(1));
        assert!(queue.begin_poll());
        assert!(queue.push(2), "the first push of a sleep wakes");
        assert!(!queue.push(3), "the second does not");
        queue.end_poll();
        assert!(queue.is_pending());
        queue.clear();
        assert_eq!(
            (queue.pop(), queue.pop(), queue.pop()),
            (Some(2), Some(3), None)
        );
    }

    #[test]
    fn a_poll_that_ends_by_itself_leaves_nothing_pending() {
        let queue = NotifyQueue::<u8>::new();
        assert!(queue.begin_poll());
        queue.end_poll();
        assert!(!queue.is_pending());
        assert!(!queue.notify());
        assert!(queue.is_pending());
        queue.clear();
        queue.mark_pending();
        assert!(queue.is_pending());
    }

    #[test]
    fn a_notifier_outlives_its_queue() {
        let queue = NotifyQueue::<u8>::new();
        let notifier = queue.notifier();
        assert!(queue.begin_poll());
        assert!(notifier.notify());
        assert!(queue.is_pending());
        drop(queue);
        assert!(!notifier.notify());
    }

    #[test]
    fn a_waking_queue_wakes_once_until_it_is_cleared() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = wakes.clone();
        let queue = WakingQueue::new(Some(Box::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        })));
        let count = || wakes.load(Ordering::Relaxed);
        assert!(!queue.is_pending());
        for i in 0..10 {
            queue.push(i);
        }
        assert_eq!((count(), queue.is_pending()), (1, true));
        queue.clear();
        assert!((0..10).all(|i| queue.pop() == Some(i)));
        assert_eq!((queue.pop(), queue.is_pending()), (None, false));
        queue.push(10);
        assert_eq!(count(), 2);
        queue.clear();
        queue.mark_pending();
        queue.push(11);
        assert_eq!(count(), 2, "it was pending");
        queue.clear();
        queue.stop_waking();
        queue.push(12);
        assert_eq!((count(), Arc::strong_count(&wakes)), (2, 1));
        assert_eq!((queue.pop(), queue.pop()), (Some(10), Some(11)));
    }
}
