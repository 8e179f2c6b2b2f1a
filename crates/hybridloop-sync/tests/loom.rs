//! All interleavings of producers and a sleeping consumer. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p hybridloop-reactor --release --test loom`.
#![cfg(loom)]

use hybridloop_reactor::Inbox;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// Stands for the eventfd and the poll: a sticky flag that ends a wait.
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

fn produce(inbox: &Inbox<usize>, wake: &Wake, item: usize) {
    if inbox.push(item) {
        wake.wake();
    }
}

/// Takes `n` items, sleeping when there is none; a lost wake-up shows as a deadlock, which loom reports.
fn consume(inbox: &Inbox<usize>, wake: &Wake, n: usize) -> (Vec<usize>, usize) {
    let (mut got, mut sleeps) = (Vec::new(), 0);
    while got.len() < n {
        if inbox.sleep() {
            sleeps += 1;
            wake.wait();
            inbox.awake();
        }
        inbox.open();
        while let Some(item) = inbox.pop() {
            got.push(item);
        }
    }
    (got, sleeps)
}

#[test]
fn no_wakeup_is_lost() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::new());
        let wake = Arc::new(Wake::default());
        let producers: Vec<_> = (0..2)
            .map(|i| {
                let (inbox, wake) = (inbox.clone(), wake.clone());
                thread::spawn(move || produce(&inbox, &wake, i))
            })
            .collect();
        let (mut got, sleeps) = consume(&inbox, &wake, 2);
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
        let inbox = Arc::new(Inbox::new());
        let wake = Arc::new(Wake::default());
        let producer = {
            let (inbox, wake) = (inbox.clone(), wake.clone());
            thread::spawn(move || {
                produce(&inbox, &wake, 0);
                produce(&inbox, &wake, 1);
            })
        };
        let (got, _) = consume(&inbox, &wake, 2);
        assert_eq!(got, [0, 1]);
        producer.join().unwrap();
    });
}

#[test]
fn a_notice_without_an_item_ends_the_sleep() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::<usize>::new());
        let wake = Arc::new(Wake::default());
        let producer = {
            let (inbox, wake) = (inbox.clone(), wake.clone());
            thread::spawn(move || {
                if inbox.notify() {
                    wake.wake();
                }
            })
        };
        if inbox.sleep() {
            wake.wait();
            inbox.awake();
        }
        assert!(inbox.has_mail());
        producer.join().unwrap();
    });
}
