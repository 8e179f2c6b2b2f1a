//! A cell for the queues of an event loop.

#[cfg(not(Py_GIL_DISABLED))]
use std::cell::UnsafeCell;
use std::collections::VecDeque;

#[cfg(Py_GIL_DISABLED)]
use crate::python::cell::LoopCell;
use crate::python::fallible::push_back;

/// A cell for a queue that is used in every iteration of a loop.
///
/// It needs no flag as [`LoopCell`](crate::python::LoopCell) does: items are moved in and out and never dropped here, so none of
/// its methods runs code that could use the cell again. On free-threaded builds it is a spin lock.
pub struct QueueCell<T>(
    #[cfg(Py_GIL_DISABLED)] LoopCell<VecDeque<T>>,
    #[cfg(not(Py_GIL_DISABLED))] UnsafeCell<VecDeque<T>>,
);

// SAFETY: the global interpreter lock, or the lock of the inner cell, admits one thread at a time.
unsafe impl<T: Send> Sync for QueueCell<T> {}

impl<T> Default for QueueCell<T> {
    fn default() -> Self {
        #[cfg(Py_GIL_DISABLED)]
        return Self(LoopCell::new(VecDeque::new()));
        #[cfg(not(Py_GIL_DISABLED))]
        Self(UnsafeCell::new(VecDeque::new()))
    }
}

impl<T> QueueCell<T> {
    #[inline]
    fn with<R>(&self, f: impl FnOnce(&mut VecDeque<T>) -> R) -> R {
        #[cfg(Py_GIL_DISABLED)]
        return self.0.with(f);
        // SAFETY: the closures of this file do not use the cell again, and the interpreter lock excludes other threads.
        #[cfg(not(Py_GIL_DISABLED))]
        f(unsafe { &mut *self.0.get() })
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.with(|queue| queue.len())
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.with(|queue| queue.is_empty())
    }

    #[inline]
    pub fn pop_front(&self) -> Option<T> {
        self.with(VecDeque::pop_front)
    }

    #[inline]
    pub fn push_front(&self, item: T) {
        self.with(|queue| queue.push_front(item));
    }

    #[inline]
    pub fn push_back(&self, item: T) {
        self.with(|queue| queue.push_back(item));
    }

    /// Returns the item if there is no memory for it.
    #[inline]
    pub fn try_push_back(&self, item: T) -> Result<(), T> {
        self.with(|queue| push_back(queue, item))
    }

    /// Empties the queue. The caller drops the items.
    #[inline]
    pub fn take(&self) -> VecDeque<T> {
        self.with(std::mem::take)
    }

    /// Calls `f` with the items taken out, and puts them back, before what was queued meanwhile.
    #[inline]
    pub fn with_taken<R>(&self, f: impl FnOnce(&mut VecDeque<T>) -> R) -> R {
        let mut queue = self.take();
        let result = f(&mut queue);
        self.with(|now| {
            if !now.is_empty() {
                queue.append(now);
            }
            std::mem::swap(now, &mut queue);
        });
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_queued_meanwhile_comes_behind() {
        let queue = QueueCell::default();
        queue.push_back(1);
        queue.with_taken(|taken| {
            queue.push_back(3);
            assert_eq!(queue.len(), 1);
            taken.push_back(2);
        });
        assert_eq!(queue.take(), [1, 2, 3]);
        assert!(queue.is_empty());
    }

    #[test]
    fn items_go_in_and_out_at_both_ends() {
        let queue = QueueCell::default();
        assert_eq!(queue.try_push_back(2), Ok(()));
        queue.push_front(1);
        assert_eq!(
            (queue.pop_front(), queue.pop_front(), queue.pop_front()),
            (Some(1), Some(2), None)
        );
    }
}
