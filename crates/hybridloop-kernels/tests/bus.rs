//! The bus: rights of kernels and Python, and many threads.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use hybridloop_kernels::KeyListener;
use hybridloop_kernels::{BlockBuilder, Bus, BusError, Key, MemoryLimit, Policy, View};

fn bus(capacity: usize, policy: Policy) -> (Arc<Bus>, Arc<MemoryLimit>) {
    let memory = MemoryLimit::new(usize::MAX);
    (Bus::new(capacity, policy, memory.clone()), memory)
}

fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

// ---- the table of rights, a test for each cell ----

#[test]
fn kernel_push_creates() {
    let (bus, _) = bus(100, Policy::Error);
    bus.push(key("k"), b"new").unwrap();
    assert_eq!(&bus.get(b"k").unwrap()[..], b"new");
}

#[test]
fn python_push_creates_a_copy() {
    let (bus, _) = bus(100, Policy::Error);
    let mut mine = b"new".to_vec();
    bus.put_new(&key("k"), &mine).unwrap();
    mine.fill(0);
    assert_eq!(&bus.snapshot(b"k").unwrap()[..], b"new");
}

#[test]
fn kernel_push_overwrites_and_views_keep_what_they_saw() {
    let (bus, _) = bus(100, Policy::Error);
    bus.push(key("k"), b"old").unwrap();
    let view = bus.snapshot(b"k").unwrap();
    bus.push(key("k"), b"newer").unwrap();
    assert_eq!(
        (&view[..], &bus.get(b"k").unwrap()[..]),
        (&b"old"[..], &b"newer"[..])
    );
    assert_eq!((bus.len(), bus.stats().bytes), (1, 5));
}

#[test]
fn python_push_to_a_key_that_exists_changes_nothing() {
    let (bus, _) = bus(100, Policy::Error);
    bus.put_new(&key("k"), b"old").unwrap();
    assert_eq!(bus.put_new(&key("k"), b"new"), Err(BusError::Exists));
    assert_eq!(&bus.snapshot(b"k").unwrap()[..], b"old");
    assert_eq!(bus.stats().bytes, 3);
    assert_eq!(
        bus.put_new(&key("job:1:x"), b"new"),
        Err(BusError::ReservedKey)
    );
}

#[test]
fn kernel_get_leaves_it_there() {
    let (bus, _) = bus(100, Policy::Error);
    bus.push(key("k"), b"data").unwrap();
    assert_eq!(
        (&bus.get(b"k").unwrap()[..], &bus.get(b"k").unwrap()[..]),
        (&b"data"[..], &b"data"[..])
    );
    assert!(bus.get(b"other").is_none());
}

#[test]
fn kernel_pop_takes_it_away_and_views_outlive_that() {
    let (bus, memory) = bus(100, Policy::Error);
    bus.push(key("k"), b"data").unwrap();
    let view = bus.snapshot(b"k").unwrap();
    assert_eq!(&bus.pop(b"k").unwrap()[..], b"data");
    assert!(bus.pop(b"k").is_none() && bus.get(b"k").is_none() && !bus.contains(b"k"));
    assert_eq!(
        (&view[..], bus.stats().bytes, memory.used()),
        (&b"data"[..], 0, 4)
    );
    drop(view);
    assert_eq!(memory.used(), 0);
}

#[test]
fn python_read_leaves_the_key() {
    let (bus, _) = bus(100, Policy::Error);
    bus.push(key("k"), b"data").unwrap();
    assert_eq!(&bus.snapshot(b"k").unwrap()[..], b"data");
    assert_eq!(&bus.snapshot(b"k").unwrap()[..], b"data");
    assert_eq!(bus.snapshot(b"other").unwrap_err(), BusError::NotFound);
}

#[test]
fn while_a_write_is_open_kernels_read_and_python_is_refused() {
    let (bus, _) = bus(100, Policy::Error);
    bus.push(key("k"), b"old").unwrap();
    let mut writer = bus.open(key("k"), 5).unwrap();
    let mut fresh = bus.open(key("fresh"), 1).unwrap();
    writer.data().copy_from_slice(b"12345");
    assert!(bus.is_busy(b"k") && bus.is_busy(b"fresh") && !bus.is_busy(b"other"));
    assert_eq!(&bus.get(b"k").unwrap()[..], b"old");
    assert!(bus.get(b"fresh").is_none() && !bus.contains(b"fresh"));
    assert_eq!(bus.snapshot(b"k").unwrap_err(), BusError::Busy);
    assert_eq!(bus.snapshot(b"fresh").unwrap_err(), BusError::Busy);
    assert_eq!(bus.put_new(&key("k"), b""), Err(BusError::Exists));
    assert_eq!(bus.put_new(&key("fresh"), b""), Err(BusError::Busy));
    writer.seal(3).unwrap();
    fresh.data()[0] = b'x';
    drop(fresh);
    assert!(!bus.is_busy(b"k") && !bus.is_busy(b"fresh"));
    assert_eq!(&bus.snapshot(b"k").unwrap()[..], b"123");
    assert_eq!(bus.snapshot(b"fresh").unwrap_err(), BusError::NotFound);
    assert_eq!((bus.stats().bytes, bus.stats().busy), (3, 3));
}

#[test]
fn a_pop_during_a_write_and_two_writers() {
    let (bus, memory) = bus(100, Policy::Error);
    let mut first = bus.open(key("k"), 1).unwrap();
    let mut second = bus.open(key("k"), 1).unwrap();
    first.data()[0] = 1;
    second.data()[0] = 2;
    second.seal(1).unwrap();
    assert_eq!(bus.snapshot(b"k").unwrap_err(), BusError::Busy);
    assert_eq!(&bus.pop(b"k").unwrap()[..], [2]);
    first.seal(1).unwrap();
    assert_eq!(
        &bus.snapshot(b"k").unwrap()[..],
        [1],
        "the last that is sealed wins"
    );
    bus.pop(b"k").unwrap();
    assert_eq!((bus.stats().bytes, memory.used(), bus.len()), (0, 0, 0));
}

// ---- keys, capacity, waiting, closing ----

#[test]
fn bad_keys_are_refused() {
    assert_eq!(Key::new(b""), Err(BusError::BadKey(0)));
    assert!(Key::new(&[0; 255]).is_ok());
    assert_eq!(Key::new(&[0; 256]), Err(BusError::BadKey(256)));
    assert_eq!(Key::of_job(7, b"x").unwrap().as_bytes(), b"job:7:x");
    assert!(Key::of_job(7, b"").is_err() && Key::of_job(7, &[0; 250]).is_err());
}

#[test]
fn a_full_bus_refuses_and_leaks_nothing() {
    let (bus, memory) = bus(10, Policy::Error);
    bus.push(key("a"), &[0; 6]).unwrap();
    let full = |wanted| BusError::Capacity {
        wanted,
        used: 6,
        capacity: 10,
    };
    assert_eq!(bus.push(key("b"), &[0; 5]), Err(full(5)));
    assert_eq!(bus.put_new(&key("b"), &[0; 5]), Err(full(5)));
    assert_eq!(bus.open(key("b"), 5).unwrap_err(), full(5));
    assert!(!bus.is_busy(b"b"));
    assert_eq!((bus.stats().bytes, memory.used()), (6, 6));
    bus.pop(b"a").unwrap();
    bus.push(key("b"), &[0; 10]).unwrap();
}

#[test]
fn memory_of_the_engine_is_a_limit_too() {
    let bus = Bus::new(100, Policy::Error, MemoryLimit::new(10));
    assert_eq!(bus.push(key("a"), &[0; 11]), Err(BusError::Memory));
    assert_eq!(bus.put_new(&key("a"), &[0; 11]), Err(BusError::Memory));
    assert_eq!(bus.open(key("a"), 11).unwrap_err(), BusError::Memory);
    assert_eq!(bus.stats().bytes, 0);
}

#[test]
fn eviction_takes_what_was_used_longest_ago_and_nothing_in_use() {
    let (bus, _) = bus(160, Policy::Evict);
    for i in 0..16 {
        bus.push(key(&format!("k{i}")), &[i; 10]).unwrap();
    }
    let viewed = bus.snapshot(b"k0").unwrap();
    let _writer = bus.open(key("k2"), 0).unwrap();
    bus.get(b"k1").unwrap();
    bus.push(key("new"), &[0; 20]).unwrap();
    // 20 bytes and a sixteenth of the capacity: the oldest three keys that are not in use.
    let gone: HashSet<_> = (0..16)
        .filter(|i| !bus.contains(format!("k{i}").as_bytes()))
        .collect();
    assert_eq!(gone, HashSet::from([3, 4, 5]));
    assert_eq!((bus.stats().evictions, &viewed[..]), (3, &[0; 10][..]));
    assert!(matches!(
        bus.push(key("huge"), &[0; 161]),
        Err(BusError::Capacity { .. })
    ));
    assert!(bus.contains(b"k6"), "what cannot fit evicts nothing");
}

struct Sealed(Mutex<mpsc::Sender<(u64, Vec<u8>)>>);
impl KeyListener for Sealed {
    fn sealed(&self, token: u64, view: &View) {
        self.0.lock().unwrap().send((token, view.to_vec())).unwrap();
    }
}

#[test]
fn a_watch_tells_of_the_seal_once() {
    let (bus, _) = bus(100, Policy::Error);
    let (sender, sealed) = mpsc::channel();
    let notify = Arc::new(Sealed(Mutex::new(sender)));
    let _first = bus.watch(key("k"), notify.clone(), 1);
    let taken_back = bus.watch(key("k"), notify.clone(), 2);
    drop(taken_back);
    let mut writer = bus.open(key("k"), 1).unwrap();
    writer.data()[0] = b'a';
    assert!(sealed.try_recv().is_err());
    writer.seal(1).unwrap();
    assert_eq!(sealed.try_recv(), Ok((1, b"a".to_vec())));
    bus.push(key("k"), b"b").unwrap();
    assert!(sealed.try_recv().is_err());
    let _ready = bus.watch(key("k"), notify.clone(), 3);
    assert_eq!(sealed.try_recv(), Ok((3, b"b".to_vec())));
    // A watch waits for an open write. If the write is aborted, it gets what was sealed before.
    let writer = bus.open(key("k"), 1).unwrap();
    let _waits = bus.watch(key("k"), notify.clone(), 4);
    assert!(sealed.try_recv().is_err());
    drop(writer);
    assert_eq!(sealed.try_recv(), Ok((4, b"b".to_vec())));
    // A write of Python notifies as well.
    let _other = bus.watch(key("other"), notify, 5);
    bus.put_new(&key("other"), b"c").unwrap();
    assert_eq!(sealed.try_recv(), Ok((5, b"c".to_vec())));
}

#[test]
fn a_closed_bus_is_empty_and_refuses() {
    let (bus, memory) = bus(100, Policy::Error);
    bus.push(key("a"), b"data").unwrap();
    let view = bus.get(b"a").unwrap();
    let writer = bus.open(key("b"), 3).unwrap();
    bus.close();
    assert!(bus.is_empty() && bus.get(b"a").is_none());
    assert_eq!(bus.push(key("a"), b""), Err(BusError::Closed));
    assert_eq!(bus.put_new(&key("a"), b""), Err(BusError::Closed));
    assert_eq!(writer.seal(3), Err(BusError::Closed));
    assert_eq!((&view[..], bus.stats().bytes), (&b"data"[..], 0));
    drop(view);
    assert_eq!(memory.used(), 0);
}

// ---- many threads ----

fn checksum(data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(data);
    hasher.finish()
}

fn fill(block: &mut [u8], seed: u64) {
    let (sum, data) = block.split_at_mut(8);
    let mut x = seed | 1;
    for byte in &mut *data {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (x >> 56) as u8;
    }
    sum.copy_from_slice(&checksum(data).to_le_bytes());
}

fn verify(block: &[u8]) {
    assert_eq!(
        block[..8],
        checksum(&block[8..]).to_le_bytes(),
        "a torn block"
    );
}

#[test]
fn blocks_are_never_torn() {
    // Miri, and one processor for all, may be too slow to see everything happen at once.
    assert!((0..20).any(|_| write_and_read_for(1.0)) || cfg!(miri));
}

#[test]
#[ignore = "takes ten seconds: make test-stress"]
fn blocks_are_never_torn_in_ten_seconds() {
    assert!(write_and_read_for(10.0));
}

/// 8 writers and 2 takers among kernels, 4 readers of Python: no block is torn, and no byte is lost. Returns whether readers
/// have met blocks and writers.
fn write_and_read_for(seconds: f64) -> bool {
    let (writers, sizes) = if cfg!(miri) {
        (2, 16..48)
    } else {
        (8, 16..5000)
    };
    let until = Instant::now() + Duration::from_secs_f64(if cfg!(miri) { 0.2 } else { seconds });
    let (bus, memory) = bus(1 << 20, Policy::Error);
    let keys: Vec<Key> = (0..5).map(|i| key(&format!("key{i}"))).collect();
    let (busy, read) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for id in 0_u64..writers {
            let (bus, keys, sizes) = (&bus, &keys, sizes.clone());
            scope.spawn(move || {
                let mut seed: u64 = id;
                while Instant::now() < until {
                    seed = seed
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(12345);
                    let len = sizes.start + (seed >> 33) as usize % sizes.len();
                    let mut writer = bus
                        .open(keys[(seed >> 20) as usize % 5].clone(), len)
                        .unwrap();
                    fill(writer.data(), seed);
                    if seed >> 60 != 0 {
                        writer.seal(len).unwrap();
                    }
                }
            });
        }
        for _ in 0..2 {
            let (bus, keys) = (&bus, &keys);
            scope.spawn(move || {
                for i in 0.. {
                    if Instant::now() > until {
                        break;
                    }
                    let key = keys[i % 5].as_bytes();
                    let view = if i % 3 == 0 {
                        bus.pop(key)
                    } else {
                        bus.get(key)
                    };
                    if let Some(view) = view {
                        verify(&view);
                    }
                }
            });
        }
        for _ in 0..4 {
            let (bus, keys, busy, read) = (&bus, &keys, &busy, &read);
            scope.spawn(move || {
                for i in 0.. {
                    if Instant::now() > until {
                        break;
                    }
                    match bus.snapshot(keys[i % 5].as_bytes()) {
                        Ok(view) => {
                            verify(&view);
                            read.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(BusError::Busy) => {
                            busy.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => assert_eq!(error, BusError::NotFound),
                    }
                }
            });
        }
    });
    assert!(keys.iter().all(|key| !bus.is_busy(key.as_bytes())));
    for key in &keys {
        bus.pop(key.as_bytes());
    }
    assert_eq!((bus.stats().bytes, memory.used(), bus.len()), (0, 0, 0));
    busy.into_inner() > 0 && read.into_inner() > 0
}

#[test]
fn of_eight_pops_one_wins() {
    let (bus, _) = bus(1 << 20, Policy::Error);
    let threads = if cfg!(miri) { 3 } else { 8 };
    for _ in 0..if cfg!(miri) { 5 } else { 500 } {
        bus.push(key("k"), b"prize").unwrap();
        let (start, wins) = (Barrier::new(threads), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    start.wait();
                    wins.fetch_add(usize::from(bus.pop(b"k").is_some()), Ordering::Relaxed);
                });
            }
        });
        assert_eq!(wins.into_inner(), 1);
    }
}

#[test]
fn eviction_under_load_keeps_the_books() {
    let (bus, memory) = bus(50_000, Policy::Evict);
    let stop = AtomicBool::new(false);
    let rounds = if cfg!(miri) { 20 } else { 5000 };
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut held = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                held.extend(bus.get(b"key3"));
                held.truncate(3);
                thread::yield_now();
            }
        });
        let writers: Vec<_> = (0..2_usize)
            .map(|id| {
                let bus = &bus;
                scope.spawn(move || {
                    for i in 0..rounds {
                        let name = format!("key{}", (i * 7 + id) % 400);
                        bus.push(key(&name), &vec![0; 100 + i % 900]).unwrap();
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = writers
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        stop.store(true, Ordering::Relaxed);
        assert!(outcomes.iter().all(Result::is_ok));
    });
    let stats = bus.stats();
    assert!(stats.bytes <= 50_000 && (cfg!(miri) || stats.evictions > 0));
    let bytes: usize = bus
        .keys()
        .iter()
        .map(|key| bus.get(key.as_bytes()).unwrap().len())
        .sum();
    assert_eq!((stats.bytes, memory.used()), (bytes, bytes));
}

#[test]
fn many_keys_count_towards_the_capacity() {
    for policy in [Policy::Error, Policy::Evict] {
        let (bus, memory) = bus(1 << 20, policy);
        let name = |i: u32| key(&format!("{i:>250}"));
        let empty = || View::new(BlockBuilder::new(0, &memory).unwrap().seal());
        let mut pushed = 0;
        let refused = (0..1 << 20).find_map(|i| {
            let pushed_one = match i % 4 {
                0 => bus.push(name(i), b""),
                1 => bus.put_new(&name(i), b""),
                2 => bus.open(name(i), 0).and_then(|writer| writer.seal(0)),
                _ => bus.push_view(&name(i), empty()),
            };
            pushed += 1;
            (pushed == 20_000)
                .then_some(Ok(()))
                .or(pushed_one.is_err().then_some(pushed_one))
        });
        let stats = bus.stats();
        assert!(stats.bytes > (1 << 20) * 9 / 10 && stats.bytes <= 1 << 20);
        assert!(stats.keys > 1500 && stats.keys < 3000, "{}", stats.keys);
        match policy {
            Policy::Error => assert!(matches!(refused, Some(Err(BusError::Capacity { .. })))),
            Policy::Evict => assert_eq!((refused, pushed), (Some(Ok(())), 20_000)),
        }
        // A key that is written again counts once.
        let first = bus.keys().into_iter().next().unwrap();
        for _ in 0..3 {
            bus.pop(name(5).as_bytes());
            bus.pop(name(19_999).as_bytes());
            let _ = bus.push(first.clone(), b"");
        }
        drop(bus.open(first.clone(), 0));
        for key in bus.keys() {
            bus.pop(key.as_bytes());
        }
        assert_eq!((bus.stats().bytes, bus.len(), memory.used()), (0, 0, 0));
        bus.close();
    }
}
