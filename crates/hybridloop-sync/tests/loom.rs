//! All interleavings of producers and a consumer that blocks. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p hybridloop-sync --release --test loom`.
#![cfg(loom)]

use hybridloop_sync::{NotifyQueue, WakingQueue};
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// Stands for an eventfd and a poll: a sticky flag that ends a wait.
#[derive(Default)]
struct Wake {
    set: Mutex<bool>,
    cond: Condvar,
    count: AtomicUsize,
}

impl Wake {
    fn wake(&self) {
        *self.set.lock().unwrap() = true;
        self.count.fetch_add(1, Ordering::Relaxed);
        self.cond.notify_one();
    }
    fn wait(&self) {
        let mut set = self.set.lock().unwrap();
        while !*set {
            set = self.cond.wait(set).unwrap();
        }
        *set = false;
    }
}

fn produce(queue: &NotifyQueue<usize>, wake: &Wake, item: usize) {
    if queue.push(item) {
        wake.wake();
    }
}

/// Pops `n` items, and sleeps when there is none; a lost wake-up is a deadlock, which loom reports.
fn consume(queue: &NotifyQueue<usize>, wake: &Wake, n: usize) -> (Vec<usize>, usize) {
    let (mut got, mut sleeps) = (Vec::new(), 0);
    while got.len() < n {
        if queue.begin_poll() {
            sleeps += 1;
            wake.wait();
            queue.end_poll();
        }
        queue.clear();
        while let Some(item) = queue.pop() {
            got.push(item);
        }
    }
    (got, sleeps)
}

#[test]
fn no_wakeup_is_lost() {
    loom::model(|| {
        let queue = Arc::new(NotifyQueue::new());
        let wake = Arc::new(Wake::default());
        let producers: Vec<_> = (0..2)
            .map(|i| {
                let (queue, wake) = (queue.clone(), wake.clone());
                thread::spawn(move || produce(&queue, &wake, i))
            })
            .collect();
        let (mut got, sleeps) = consume(&queue, &wake, 2);
        got.sort_unstable();
        assert_eq!(got, [0, 1]);
        for producer in producers {
            producer.join().unwrap();
        }
        assert!(
            wake.count.load(Ordering::Relaxed) <= sleeps,
            "at most one wake-up per sleep"
        );
    });
}

#[test]
fn one_producer_keeps_its_order() {
    loom::model(|| {
        let queue = Arc::new(NotifyQueue::new());
        let wake = Arc::new(Wake::default());
        let producer = {
            let (queue, wake) = (queue.clone(), wake.clone());
            thread::spawn(move || {
                produce(&queue, &wake, 0);
                produce(&queue, &wake, 1);
            })
        };
        let (got, _) = consume(&queue, &wake, 2);
        assert_eq!(got, [0, 1]);
        producer.join().unwrap();
    });
}

#[test]
fn a_notification_without_an_item_ends_the_sleep() {
    loom::model(|| {
        let queue = Arc::new(NotifyQueue::<usize>::new());
        let wake = Arc::new(Wake::default());
        let producer = {
            let (notifier, wake) = (queue.notifier(), wake.clone());
            thread::spawn(move || {
                if notifier.notify() {
                    wake.wake();
                }
            })
        };
        if queue.begin_poll() {
            wake.wait();
            queue.end_poll();
        }
        assert!(queue.is_pending());
        producer.join().unwrap();
    });
}

#[test]
fn a_waking_queue_loses_no_item_and_keeps_the_order() {
    // Three preemptions find what more would, in seconds instead of minutes.
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let wake = Arc::new(Wake::default());
        let waker = wake.clone();
        let queue = Arc::new(WakingQueue::new(Some(Box::new(move || waker.wake()))));
        let workers: Vec<_> = (0..2)
            .map(|id| {
                let queue = queue.clone();
                thread::spawn(move || {
                    queue.push((id, 0));
                    if id == 0 {
                        queue.push((id, 1));
                    }
                })
            })
            .collect();
        let mut got = Vec::new();
        while got.len() < 3 {
            // A lost wake-up is a deadlock, which loom reports.
            wake.wait();
            queue.clear();
            while let Some(item) = queue.pop() {
                got.push(item);
            }
        }
        let first: Vec<_> = got.iter().filter(|item| item.0 == 0).collect();
        assert_eq!(first, [&(0, 0), &(0, 1)]);
        for worker in workers {
            worker.join().unwrap();
        }
    });
}

#[test]
fn a_consumer_that_stops_waking_is_not_woken_afterwards() {
    loom::model(|| {
        let wake = Arc::new(Wake::default());
        let waker = wake.clone();
        let queue = Arc::new(WakingQueue::new(Some(Box::new(move || waker.wake()))));
        let producer = {
            let queue = queue.clone();
            thread::spawn(move || queue.push(1))
        };
        queue.stop_waking();
        let before = wake.count.load(Ordering::Relaxed);
        producer.join().unwrap();
        assert_eq!(wake.count.load(Ordering::Relaxed), before);
        assert_eq!(queue.pop(), Some(1));
    });
}
