//! Channels between kernels and Python.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use hybridloop_sync::fork::Process;
use hybridloop_sync::primitives::{lock, Mutex};

use crate::order::Order;
use crate::value::{take_if_empty, Queued, Value};

/// Why an operation on a channel fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelError {
    /// The channel is closed.
    Closed,
    /// The channel holds as many values as it may.
    Full,
    /// The list cannot grow: out of memory.
    Memory,
    /// The channel was made before a fork and belongs to the parent of this process.
    Forked,
}

/// Is notified when a channel becomes readable.
pub trait ChannelListener: Send + Sync {
    /// The channel with this number was empty and is no longer, or it was closed. Called by any thread; must not block.
    fn readable(&self, channel: u64);
}

struct Inner {
    values: VecDeque<Queued>,
    listener: Option<Arc<dyn ChannelListener>>,
    closed: bool,
}

/// A list that any thread pushes to and pops from.
pub struct Channel {
    id: u64,
    order: Order,
    limit: usize,
    inner: Mutex<Inner>,
    process: Process,
}

impl Channel {
    /// A channel for at most `limit` values.
    #[must_use]
    pub fn new(order: Order, limit: usize) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            order,
            limit,
            inner: Mutex::new(Inner {
                values: VecDeque::new(),
                listener: None,
                closed: false,
            }),
            process: Process::current(),
        })
    }

    /// Whether this process made it. In the child of a fork it cannot be used.
    #[inline]
    pub fn is_current_process(&self) -> bool {
        self.process.is_current()
    }

    fn check_process(&self) -> Result<(), ChannelError> {
        if self.is_current_process() {
            Ok(())
        } else {
            Err(ChannelError::Forked)
        }
    }

    /// Its number, unique in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Adds a value.
    ///
    /// # Errors
    /// [`ChannelError`]
    pub fn push(&self, value: Value) -> Result<(), ChannelError> {
        self.push_queued(Queued::uncounted(value))
    }

    pub(crate) fn push_queued(&self, value: Queued) -> Result<(), ChannelError> {
        self.check_process()?;
        let mut inner = lock(&self.inner);
        if inner.closed {
            return Err(ChannelError::Closed);
        }
        if inner.values.len() >= self.limit {
            return Err(ChannelError::Full);
        }
        if inner.values.try_reserve(1).is_err() {
            return Err(ChannelError::Memory);
        }
        inner.values.push_back(value);
        let listener = if inner.values.len() == 1 {
            inner.listener.clone()
        } else {
            None
        };
        drop(inner);
        if let Some(listener) = listener {
            listener.readable(self.id);
        }
        Ok(())
    }

    /// Removes a value; `None` if there is none now.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] if it is empty and closed; [`ChannelError::Forked`]
    pub fn pop(&self) -> Result<Option<Value>, ChannelError> {
        self.check_process()?;
        let mut inner = lock(&self.inner);
        let value = match self.order {
            Order::Fifo => inner.values.pop_front(),
            Order::Lifo => inner.values.pop_back(),
        };
        if value.is_none() && inner.closed {
            return Err(ChannelError::Closed);
        }
        let unused = take_if_empty(&mut inner.values);
        drop(inner);
        drop(unused);
        Ok(value.map(Queued::into_value))
    }

    /// Removes all values, and returns how many there were.
    ///
    /// # Errors
    /// [`ChannelError::Forked`]
    pub fn clear(&self) -> Result<usize, ChannelError> {
        self.check_process()?;
        let values = std::mem::take(&mut lock(&self.inner).values);
        Ok(values.len())
    }

    /// Removes all values, and calls `take` with each of them in the order in which they are popped. If `take` fails, the values
    /// are put back, before those that were pushed meanwhile.
    ///
    /// # Errors
    /// That of `take`.
    pub fn drain<E>(&self, mut take: impl FnMut(&Value) -> Result<(), E>) -> Result<(), E> {
        if !self.is_current_process() {
            return Ok(());
        }
        let mut values = std::mem::take(&mut lock(&self.inner).values);
        let result = match self.order {
            Order::Fifo => values.iter().map(Queued::value).try_for_each(&mut take),
            Order::Lifo => values
                .iter()
                .rev()
                .map(Queued::value)
                .try_for_each(&mut take),
        };
        if result.is_err() {
            let mut inner = lock(&self.inner);
            // Without memory for both, those that were pushed meanwhile stay.
            if values.try_reserve(inner.values.len()).is_ok() {
                values.append(&mut inner.values);
                std::mem::swap(&mut values, &mut inner.values);
            }
            let listener = inner.listener.clone();
            drop(inner);
            if let Some(listener) = listener {
                listener.readable(self.id);
            }
        }
        result
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        if self.is_current_process() {
            lock(&self.inner).values.len()
        } else {
            0
        }
    }

    /// Whether it has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether nothing can be pushed any more.
    pub fn is_closed(&self) -> bool {
        !self.is_current_process() || lock(&self.inner).closed
    }

    /// Sets the listener, and notifies it at once if the channel is readable. `None` removes the listener.
    pub fn set_listener(&self, listener: Option<Arc<dyn ChannelListener>>) {
        if !self.is_current_process() {
            return;
        }
        let mut inner = lock(&self.inner);
        let now = listener
            .clone()
            .filter(|_| !inner.values.is_empty() || inner.closed);
        let old = std::mem::replace(&mut inner.listener, listener);
        drop(inner);
        drop(old);
        if let Some(now) = now {
            now.readable(self.id);
        }
    }

    /// Refuses later pushes. The values in the channel can still be popped.
    pub fn close(&self) {
        if !self.is_current_process() {
            return;
        }
        let mut inner = lock(&self.inner);
        inner.closed = true;
        let listener = inner.listener.clone();
        drop(inner);
        if let Some(listener) = listener {
            listener.readable(self.id);
        }
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Channel({}, {:?})", self.id, self.order)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Channel, ChannelError};
    use crate::order::Order;
    use crate::value::Value;

    fn ints(channel: &Channel) -> Vec<i64> {
        std::iter::from_fn(|| match channel.pop() {
            Ok(Some(Value::Int(i))) => Some(i),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn keeps_its_order_and_its_limit() {
        for (order, expected) in [(Order::Fifo, [1, 2, 3]), (Order::Lifo, [3, 2, 1])] {
            let channel = Channel::new(order, 3);
            for i in 1..4 {
                channel.push(Value::Int(i)).unwrap();
            }
            assert_eq!(channel.push(Value::None), Err(ChannelError::Full));
            assert_eq!(ints(&channel), expected);
            assert!(matches!(channel.pop(), Ok(None)));
            channel.push(Value::Int(4)).unwrap();
            channel.close();
            assert_eq!(channel.push(Value::None), Err(ChannelError::Closed));
            assert_eq!(ints(&channel), [4]);
            assert!(matches!(channel.pop(), Err(ChannelError::Closed)));
        }
    }

    #[test]
    fn takes_from_many_threads_what_many_push() {
        let (channel, each) = (Channel::new(Order::Lifo, usize::MAX), 1000);
        std::thread::scope(|scope| {
            for id in 0..4 {
                let channel = &channel;
                scope.spawn(move || {
                    for i in 0..each {
                        channel.push(Value::Int(id * each + i)).unwrap();
                    }
                });
            }
        });
        let mut all = ints(&channel);
        all.sort_unstable();
        assert_eq!(all, (0..4 * each).collect::<Vec<_>>());
    }
}
