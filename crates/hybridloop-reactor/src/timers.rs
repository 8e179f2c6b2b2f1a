//! Timers by deadline, first in first out among equals.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

/// asyncio's rule: compact when more than this many entries are cancelled …
const MIN_CANCELLED: usize = 100;
/// … and they are more than one in two.
const MAX_CANCELLED_SHARE: usize = 2;

/// This many due items are popped one by one before sorting is considered …
const POPPED_FIRST: usize = 64;
/// … and they have to be at least this share of the items that are left, because a scan of all items must not cost more than
/// the pops did.
const WORTH_SORTING_SHARE: usize = 16;

struct Entry<T> {
    when: u64,
    seq: u64,
    item: T,
}

impl<T> Entry<T> {
    fn key(&self) -> (u64, u64) {
        (self.when, self.seq)
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl<T> Eq for Entry<T> {}
impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        // Reversed: the standard heap pops the greatest item, a timer heap the earliest.
        other.key().cmp(&self.key())
    }
}

/// A heap of items with deadlines in nanoseconds.
///
/// A cancelled item stays until it is due, is the earliest, or [`TimerHeap::compact`] removes it, so that cancelling is cheap.
/// The caller marks each item for which it calls [`TimerHeap::note_cancelled`], and returns the mark from `is_noted`. So the
/// heap counts exactly the marked items that it contains.
pub struct TimerHeap<T> {
    heap: BinaryHeap<Entry<T>>,
    seq: u64,
    /// The number of marked items in the heap.
    cancelled: usize,
}

impl<T> Default for TimerHeap<T> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            seq: 0,
            cancelled: 0,
        }
    }
}

impl<T> TimerHeap<T> {
    /// An empty heap.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of items, cancelled ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether there is no item at all.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Adds an item due at `when` (ns).
    ///
    /// # Errors
    /// The item, if there is no memory for it.
    pub fn push(&mut self, when: u64, item: T) -> Result<(), T> {
        if self.heap.len() == self.heap.capacity() && self.heap.try_reserve(1).is_err() {
            return Err(item);
        }
        self.seq += 1;
        self.heap.push(Entry {
            when,
            seq: self.seq,
            item,
        });
        Ok(())
    }

    /// The number of items in the heap for which [`TimerHeap::note_cancelled`] was called.
    #[must_use]
    pub fn cancelled(&self) -> usize {
        self.cancelled
    }

    /// The earliest deadline (ns) and its item.
    #[must_use]
    pub fn peek(&self) -> Option<(u64, &T)> {
        self.heap.peek().map(|entry| (entry.when, &entry.item))
    }

    /// Moves the items that are due at `now` (ns) to the end of `into`, earliest first, and returns their number. Items stay in
    /// the heap if there is no memory for them.
    ///
    /// Some items are popped. If they are a large part of the heap, the other due items are extracted and sorted at once, which
    /// reads memory in order.
    pub fn take_due(
        &mut self,
        now: u64,
        is_noted: impl Fn(&T) -> bool,
        into: &mut VecDeque<T>,
    ) -> usize {
        let mut count = 0;
        while self.heap.peek().is_some_and(|entry| entry.when <= now) {
            if count >= POPPED_FIRST && count >= self.heap.len() / WORTH_SORTING_SHARE {
                if let Some(sorted) = self.extract_due(now, &is_noted, into) {
                    return count + sorted;
                }
            }
            if into.try_reserve(1).is_err() {
                break;
            }
            if let Some(item) = self.pop(&is_noted) {
                into.push_back(item);
            }
            count += 1;
        }
        count
    }

    /// Moves all due items at once; `None`, and no change, if there is no memory for it.
    fn extract_due(
        &mut self,
        now: u64,
        is_noted: impl Fn(&T) -> bool,
        into: &mut VecDeque<T>,
    ) -> Option<usize> {
        let due = self.heap.iter().filter(|entry| entry.when <= now).count();
        let mut later = Vec::new();
        later.try_reserve(self.heap.len() - due).ok()?;
        into.try_reserve(due).ok()?;
        let mut entries = std::mem::take(&mut self.heap).into_vec();
        later.extend(entries.extract_if(.., |entry| entry.when > now));
        self.heap = BinaryHeap::from(later);
        entries.sort_unstable_by_key(Entry::key);
        for Entry { item, .. } in entries {
            self.uncount(&item, &is_noted);
            into.push_back(item);
        }
        Some(due)
    }

    /// Removes the earliest item, due or not.
    pub fn pop(&mut self, is_noted: impl Fn(&T) -> bool) -> Option<T> {
        let item = self.heap.pop()?.item;
        self.uncount(&item, is_noted);
        Some(item)
    }

    /// Updates the count of marked items for an item that has left the heap.
    fn uncount(&mut self, item: &T, is_noted: impl Fn(&T) -> bool) {
        if self.cancelled > 0 && is_noted(item) {
            self.cancelled -= 1;
        }
    }

    /// Counts an item in the heap as cancelled; `true` if [`TimerHeap::compact`] is worth its cost.
    pub fn note_cancelled(&mut self) -> bool {
        self.cancelled += 1;
        self.cancelled > MIN_CANCELLED && self.cancelled * MAX_CANCELLED_SHARE > self.heap.len()
    }

    /// Removes and returns all items for which `is_cancelled` is true, which it has to be for marked items, and frees memory.
    /// If there is no memory for the list, nothing is removed.
    ///
    /// The items are returned so that the caller decides when to drop them.
    pub fn compact(&mut self, is_cancelled: impl Fn(&T) -> bool) -> Vec<T> {
        let mut gone = Vec::new();
        let all = self.heap.iter();
        let count = all.filter(|entry| is_cancelled(&entry.item)).count();
        if gone.try_reserve(count).is_err() {
            return gone;
        }
        let mut kept = std::mem::take(&mut self.heap).into_vec();
        let taken = kept.extract_if(.., |entry| is_cancelled(&entry.item));
        gone.extend(taken.take(count).map(|entry| entry.item));
        kept.shrink_to_fit();
        self.heap = BinaryHeap::from(kept);
        self.cancelled = 0;
        gone
    }

    /// Removes all items.
    pub fn take_all(&mut self) -> Vec<T> {
        self.cancelled = 0;
        std::mem::take(&mut self.heap)
            .into_vec()
            .into_iter()
            .map(|entry| entry.item)
            .collect()
    }

    /// All items, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.heap.iter().map(|entry| &entry.item)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::TimerHeap;

    #[test]
    fn due_items_come_by_deadline_then_by_age() {
        let mut heap = TimerHeap::new();
        for (when, item) in [(30, 'd'), (10, 'a'), (20, 'b'), (20, 'c')] {
            assert!(heap.push(when, item).is_ok());
        }
        assert_eq!(heap.peek(), Some((10, &'a')));
        let mut due = VecDeque::new();
        assert_eq!(heap.take_due(20, |_| false, &mut due), 3);
        assert_eq!(due, ['a', 'b', 'c']);
        assert_eq!(heap.len(), 1);
        assert_eq!(heap.take_due(29, |_| false, &mut due), 0);
    }

    #[test]
    fn many_due_items_come_in_the_same_order() {
        let mut heap = TimerHeap::new();
        // A fixed permutation of 0..4096, each time twice.
        for i in 0..8192_u64 {
            assert!(heap.push(i * 1181 % 4096, i).is_ok());
        }
        let mut due = VecDeque::new();
        assert_eq!(heap.take_due(2999, |_| false, &mut due), 6000);
        let keys = due.iter().map(|&i| (i * 1181 % 4096, i));
        assert!(keys.is_sorted(), "by deadline, then by age");
        assert_eq!((due.len(), heap.len()), (6000, 2192));
        assert_eq!(heap.peek().map(|(when, _)| when), Some(3000));
        assert_eq!(heap.take_due(u64::MAX, |_| false, &mut due), 2192);
        assert!(heap.is_empty());
    }

    #[test]
    fn compaction_keeps_order_and_returns_what_was_cancelled() {
        let mut heap = TimerHeap::new();
        for i in 0..1000_u64 {
            assert!(heap.push(1000 - i, i).is_ok());
        }
        let mut due = false;
        for _ in 0..501 {
            due = heap.note_cancelled();
        }
        assert!(due, "more than half are cancelled");
        let gone = heap.compact(|i| i % 2 == 0);
        assert_eq!((gone.len(), heap.len()), (500, 500));
        let left: Vec<_> = std::iter::from_fn(|| heap.pop(|_| false)).collect();
        assert!(left.iter().all(|i| i % 2 == 1));
        assert!(
            left.windows(2).all(|pair| pair[0] > pair[1]),
            "later pushes were due earlier"
        );
    }

    #[test]
    fn few_cancelled_items_are_left_alone() {
        let mut heap = TimerHeap::new();
        for i in 0..100 {
            assert!(heap.push(i, i).is_ok());
            assert!(!heap.note_cancelled());
        }
        assert_eq!(heap.pop(|_| true), Some(0));
        assert!(heap.push(1, 1).is_ok());
        assert!(!heap.note_cancelled());
        assert!(heap.note_cancelled());
        assert_eq!(heap.take_all().len(), 100);
        assert!(heap.is_empty());
        assert_eq!(heap.cancelled(), 0);
    }

    #[test]
    fn cancelled_items_that_come_due_are_no_longer_counted() {
        // Few, which are popped one by one, and many, which are sorted out.
        for count in [10, 10_000] {
            let mut heap = TimerHeap::new();
            for i in 0..count {
                assert!(heap.push(i, i).is_ok());
            }
            for _ in (0..count).step_by(2) {
                let _ = heap.note_cancelled();
            }
            let (mut taken, is_noted) = (VecDeque::new(), |i: &u64| i.is_multiple_of(2));
            let due = heap.take_due(count / 2 - 1, is_noted, &mut taken);
            assert_eq!(due, taken.len());
            assert_eq!((due as u64, heap.len() as u64), (count / 2, count / 2));
            assert_eq!(
                heap.cancelled(),
                heap.iter().filter(|i| is_noted(i)).count()
            );
            heap.take_due(u64::MAX, is_noted, &mut taken);
            assert_eq!(heap.cancelled(), 0);
        }
    }

    #[test]
    fn items_that_were_not_noted_do_not_count() {
        let mut heap = TimerHeap::new();
        for i in 0..4 {
            assert!(heap.push(i, i).is_ok());
        }
        let _ = heap.note_cancelled();
        let is_noted = |i: &u64| *i == 3;
        for _ in 0..3 {
            assert!(heap.pop(is_noted).is_some());
            assert_eq!(heap.cancelled(), 1);
        }
        assert_eq!(heap.pop(is_noted), Some(3));
        assert_eq!(heap.cancelled(), 0);
    }

    #[test]
    fn compaction_takes_out_all_that_were_noted() {
        let mut heap = TimerHeap::new();
        for i in 0..300 {
            assert!(heap.push(i, i).is_ok());
        }
        while !heap.note_cancelled() {}
        assert_eq!(heap.cancelled(), 151);
        assert_eq!(heap.compact(|i| *i < 151).len(), 151);
        assert_eq!((heap.cancelled(), heap.len()), (0, 149));
    }
}
