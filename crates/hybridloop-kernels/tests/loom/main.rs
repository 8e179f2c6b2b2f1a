//! All interleavings of small cases. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p hybridloop-kernels --release --test loom`.
#![cfg(loom)]
#![allow(clippy::panic)]

mod emit;
mod jobs;
mod tokens;

use std::sync::Arc as StdArc;

use hybridloop_kernels::{Bus, BusError, Idle, Key, MemoryLimit, Policy};
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::{AcqRel, Acquire};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

fn bus() -> StdArc<Bus> {
    Bus::new(100, Policy::Error, MemoryLimit::new(1000))
}

fn key() -> Key {
    Key::new(b"k").unwrap()
}

/// Whole blocks have two equal bytes.
fn whole(data: &[u8]) -> u8 {
    assert_eq!(data.len(), 2);
    assert_eq!(data[0], data[1]);
    data[0]
}

#[test]
fn readers_see_whole_blocks_while_a_key_is_overwritten() {
    loom::model(|| {
        let bus = bus();
        bus.push(key(), &[1, 1]).unwrap();
        let writer = {
            let bus = bus.clone();
            thread::spawn(move || {
                let mut writer = bus.open(key(), 2).unwrap();
                writer.data()[0] = 2;
                writer.data()[1] = 2;
                writer.seal(2).unwrap();
            })
        };
        let native = {
            let bus = bus.clone();
            thread::spawn(move || whole(&bus.get(b"k").unwrap()))
        };
        match bus.snapshot(b"k") {
            Ok(view) => drop(whole(&view)),
            Err(error) => assert_eq!(error, BusError::Busy),
        }
        writer.join().unwrap();
        native.join().unwrap();
        assert_eq!(whole(&bus.snapshot(b"k").unwrap()), 2);
        assert_eq!(bus.stats().bytes, 2);
    });
}

#[test]
fn one_of_two_pops_wins() {
    loom::model(|| {
        let bus = bus();
        bus.push(key(), &[1, 1]).unwrap();
        let other = {
            let bus = bus.clone();
            thread::spawn(move || bus.pop(b"k").is_some())
        };
        let mine = bus.pop(b"k").is_some();
        assert!(mine != other.join().unwrap());
        assert_eq!((bus.stats().bytes, bus.len()), (0, 0));
    });
}

#[test]
fn a_view_outlives_a_pop_and_an_overwrite_at_the_same_time() {
    loom::model(|| {
        let bus = bus();
        bus.push(key(), &[1, 1]).unwrap();
        let view = bus.snapshot(b"k").unwrap();
        let writer = {
            let bus = bus.clone();
            thread::spawn(move || bus.push(key(), &[2, 2]).unwrap())
        };
        let taker = {
            let bus = bus.clone();
            thread::spawn(move || bus.pop(b"k").map(|view| whole(&view)))
        };
        let seen = bus.get(b"k").map(|view| whole(&view));
        writer.join().unwrap();
        let left = bus.get(b"k").map(|view| whole(&view));
        let taken = taker.join().unwrap();
        assert_eq!(whole(&view), 1);
        // The pop came before the write or after it.
        assert!(matches!(taken, Some(1 | 2)));
        if taken == Some(1) {
            assert_eq!(left, Some(2));
        }
        assert_eq!(bus.len(), usize::from(taken == Some(1)));
        assert_eq!(bus.stats().bytes, 2 * bus.len());
        assert!(seen.is_some() || taken.is_some());
    });
}

#[test]
fn eviction_spares_what_is_read_meanwhile() {
    // Two preemptions, to save time: every step of a write and of an eviction takes a lock.
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let memory = MemoryLimit::new(1000);
        let bus = Bus::new(4, Policy::Evict, memory.clone());
        bus.push(key(), &[1, 1]).unwrap();
        let other = Key::new(b"other").unwrap();
        bus.push(other, &[2, 2]).unwrap();
        let reader = {
            let bus = bus.clone();
            thread::spawn(move || {
                let view = bus.get(b"k");
                if let Some(view) = &view {
                    assert_eq!(whole(view), 1);
                }
                view
            })
        };
        let pushed = bus.push(Key::new(b"new").unwrap(), &[3, 3]);
        let view = reader.join().unwrap();
        match pushed {
            Ok(()) => assert_eq!(whole(&bus.get(b"new").unwrap()), 3),
            Err(error) => assert!(matches!(error, BusError::Capacity { .. })),
        }
        // All bytes are accounted for, and a view is whole whether or not its key is still there.
        assert_eq!(bus.stats().bytes, 2 * bus.len());
        assert!(bus.stats().bytes <= 4);
        if let Some(view) = view {
            assert_eq!(whole(&view), 1);
        }
        bus.close();
        assert_eq!((bus.stats().bytes, memory.used()), (0, 0));
    });
}

#[test]
fn one_of_two_writes_of_python_creates_the_key() {
    loom::model(|| {
        let bus = bus();
        let other = {
            let bus = bus.clone();
            thread::spawn(move || bus.put_new(&key(), &[1, 1]))
        };
        let mine = bus.put_new(&key(), &[2, 2]);
        let other = other.join().unwrap();
        for result in [mine, other] {
            assert!(matches!(
                result,
                Ok(()) | Err(BusError::Exists | BusError::Busy)
            ));
        }
        assert!(!(mine.is_ok() && other.is_ok()));
        match bus.snapshot(b"k") {
            Ok(view) => assert_eq!(whole(&view), if mine.is_ok() { 2 } else { 1 }),
            Err(error) => assert_eq!(
                (error, mine.is_ok(), other.is_ok()),
                (BusError::NotFound, false, false)
            ),
        }
    });
}

#[test]
fn a_write_and_a_close_leave_nothing_behind() {
    loom::model(|| {
        let bus = bus();
        let writer = {
            let bus = bus.clone();
            thread::spawn(move || bus.push(key(), &[1, 1]))
        };
        bus.close();
        let _ = writer.join().unwrap();
        assert_eq!((bus.len(), bus.stats().bytes), (0, 0));
    });
}

struct Count(Arc<Mutex<usize>>);
impl hybridloop_kernels::KeyListener for Count {
    fn sealed(&self, _: u64, view: &hybridloop_kernels::View) {
        whole(view);
        *self.0.lock().unwrap() += 1;
    }
}

#[test]
fn a_watch_is_notified_once_whenever_the_key_is_sealed() {
    loom::model(|| {
        let bus = bus();
        let count = Arc::new(Mutex::new(0));
        let writer = {
            let bus = bus.clone();
            thread::spawn(move || bus.push(key(), &[1, 1]).unwrap())
        };
        let watch = bus.watch(key(), StdArc::new(Count(count.clone())), 0);
        writer.join().unwrap();
        assert_eq!(*count.lock().unwrap(), 1);
        drop(watch);
    });
}

/// Stands for the poll of an event loop: a sticky flag that ends a wait.
#[derive(Clone, Default)]
struct Flag(Arc<(Mutex<usize>, Condvar)>);

impl Flag {
    fn set(&self) {
        *self.0 .0.lock().unwrap() += 1;
        self.0 .1.notify_one();
    }

    fn wait(&self) {
        let mut count = self.0 .0.lock().unwrap();
        while *count == 0 {
            count = self.0 .1.wait(count).unwrap();
        }
        *count -= 1;
    }
}

/// Workers that take from a queue and sleep when it is empty; work that nobody takes is a deadlock, which loom reports.
fn no_job_is_left(workers: usize, producers: usize, spins: bool) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3 - workers);
    builder.check(move || {
        let idle = Arc::new(Idle::new());
        let (queue, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(2)));
        let work = {
            let (idle, queue, left) = (idle.clone(), queue.clone(), left.clone());
            move || loop {
                let taken = queue.fetch_update(AcqRel, Acquire, |n| n.checked_sub(1));
                if let Ok(before) = taken {
                    if before > 1 {
                        idle.notify();
                    }
                    if left.fetch_sub(1, AcqRel) == 1 {
                        idle.close();
                    }
                } else if spins && idle.spin(|| queue.load(Acquire) > 0, || false) {
                    continue;
                } else if !idle.sleep(|| queue.load(Acquire) > 0) {
                    break;
                }
            }
        };
        let mut threads: Vec<_> = (0..workers).map(|_| thread::spawn(work.clone())).collect();
        let produce = |n| {
            for _ in 0..n {
                queue.fetch_add(1, AcqRel);
                idle.notify();
            }
        };
        if producers == 2 {
            let (idle, queue) = (idle.clone(), queue.clone());
            threads.push(thread::spawn(move || {
                queue.fetch_add(1, AcqRel);
                idle.notify();
            }));
        }
        produce(3 - producers);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn no_job_is_left_while_the_only_worker_sleeps() {
    no_job_is_left(1, 2, false);
}

#[test]
fn no_job_is_left_while_the_only_worker_spins() {
    no_job_is_left(1, 2, true);
}

#[test]
fn no_job_is_left_while_two_workers_sleep() {
    no_job_is_left(2, 1, false);
}

#[test]
fn no_job_is_left_while_two_workers_spin() {
    no_job_is_left(2, 1, true);
}
