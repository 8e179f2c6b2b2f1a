//! The queue of jobs: by priority, and among equal priorities in the order of the engine.

use std::cmp::Ordering as Compare;
use std::collections::BinaryHeap;

use hybridloop_sync::primitives::{lock, AtomicUsize, Mutex, Ordering, Queue};

use crate::order::Order;

struct Ranked<T> {
    priority: i32,
    rank: i64,
    item: T,
}

impl<T> PartialEq for Ranked<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Compare::Equal
    }
}
impl<T> Eq for Ranked<T> {}
impl<T> PartialOrd for Ranked<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Compare> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Ranked<T> {
    fn cmp(&self, other: &Self) -> Compare {
        (self.priority, self.rank).cmp(&(other.priority, other.rank))
    }
}

#[derive(Default)]
struct Heap<T> {
    heap: BinaryHeap<Ranked<T>>,
    next: i64,
}

/// A queue with many producers and consumers. With the order `Fifo`, items of priority 0, which most are, need no lock.
pub(crate) struct JobQueue<T> {
    order: Order,
    fifo: Queue<T>,
    lifo: Mutex<Vec<T>>,
    heap: Mutex<Heap<T>>,
    in_heap: AtomicUsize,
    in_lifo: AtomicUsize,
}

impl<T> JobQueue<T> {
    pub fn new(order: Order) -> Self {
        Self {
            order,
            fifo: Queue::new(),
            lifo: Mutex::new(Vec::new()),
            heap: Mutex::new(Heap {
                heap: BinaryHeap::new(),
                next: 0,
            }),
            in_heap: AtomicUsize::new(0),
            in_lifo: AtomicUsize::new(0),
        }
    }

    pub fn push(&self, priority: i32, item: T) {
        if priority != 0 {
            let mut heap = lock(&self.heap);
            heap.next += 1;
            let rank = match self.order {
                Order::Fifo => -heap.next,
                Order::Lifo => heap.next,
            };
            heap.heap.push(Ranked {
                priority,
                rank,
                item,
            });
            self.in_heap.store(heap.heap.len(), Ordering::SeqCst);
        } else if self.order == Order::Fifo {
            self.fifo.push(item);
        } else {
            let mut lifo = lock(&self.lifo);
            lifo.push(item);
            self.in_lifo.store(lifo.len(), Ordering::SeqCst);
        }
    }

    /// Removes the highest item of another priority than 0, if its priority is at least `least`.
    fn pop_heap(&self, least: i32) -> Option<T> {
        if self.in_heap.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut heap = lock(&self.heap);
        if heap.heap.peek()?.priority < least {
            return None;
        }
        let top = heap.heap.pop();
        self.in_heap.store(heap.heap.len(), Ordering::SeqCst);
        top.map(|ranked| ranked.item)
    }

    fn pop_lifo(&self) -> Option<T> {
        if self.in_lifo.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut lifo = lock(&self.lifo);
        let item = lifo.pop();
        self.in_lifo.store(lifo.len(), Ordering::SeqCst);
        item
    }

    pub fn pop(&self) -> Option<T> {
        self.pop_heap(1)
            .or_else(|| self.fifo.pop())
            .or_else(|| self.pop_lifo())
            .or_else(|| self.pop_heap(i32::MIN))
    }

    pub fn is_empty(&self) -> bool {
        self.fifo.is_empty()
            && self.in_heap.load(Ordering::SeqCst) == 0
            && self.in_lifo.load(Ordering::SeqCst) == 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::JobQueue;
    use crate::order::Order;

    #[test]
    fn higher_priorities_first_then_the_order() {
        for (order, expected) in [
            (Order::Fifo, [5, 6, 3, 1, 2, 4, 7]),
            (Order::Lifo, [6, 5, 3, 2, 1, 7, 4]),
        ] {
            let queue = JobQueue::new(order);
            for (priority, item) in [(0, 1), (0, 2), (1, 3), (-1, 4), (9, 5), (9, 6), (-1, 7)] {
                queue.push(priority, item);
            }
            let got: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
            assert_eq!(got, expected);
            assert!(queue.is_empty());
        }
    }

    #[test]
    fn every_priority_gets_its_turn() {
        let queue = JobQueue::new(Order::Fifo);
        let priorities = [i32::MIN, -1, 0, 1, i32::MAX];
        for priority in priorities {
            queue.push(priority, priority);
        }
        let got: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert!(got.iter().eq(priorities.iter().rev()));
    }
}
