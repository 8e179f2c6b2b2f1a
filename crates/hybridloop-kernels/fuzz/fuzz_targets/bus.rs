//! The bus does what a map does, whatever is done to it in which order, and counts its bytes.
#![no_main]

use std::collections::HashMap;

use arbitrary::Arbitrary;
use hybridloop_kernels::{Bus, BusError, Key, MemoryLimit, Policy, View};
use libfuzzer_sys::fuzz_target;

const CAPACITY: usize = 64;

#[derive(Arbitrary, Debug)]
enum Step {
    Push(u8, u8),
    PushView(u8, u8),
    PutNew(u8, u8),
    Open(u8, u8),
    /// The last writer that is open, with so many bytes.
    Seal(u8),
    DropWriter,
    Get(u8),
    Pop(u8),
    Snapshot(u8),
    DropViews,
    Close,
}

#[derive(Arbitrary, Debug)]
struct Input {
    evict: bool,
    memory: u8,
    steps: Vec<Step>,
}

fn key(name: u8) -> Key {
    // Few keys, one of which belongs to jobs.
    let name: &[u8] = match name % 5 {
        0 => b"job:1:x",
        1 => b"one",
        2 => b"two",
        3 => b"three",
        _ => &[0xff; 255],
    };
    Key::new(name).expect("a good key")
}

fn data(len: u8, time: usize) -> Vec<u8> {
    vec![time as u8; usize::from(len) % (CAPACITY + 8)]
}

fuzz_target!(|input: Input| {
    let policy = if input.evict {
        Policy::Evict
    } else {
        Policy::Error
    };
    let memory = MemoryLimit::new(64 * usize::from(input.memory));
    let bus = Bus::new(CAPACITY, policy, memory.clone());
    let mut model: HashMap<Key, Vec<u8>> = HashMap::new();
    let mut writers = Vec::new();
    let mut views: Vec<(View, Vec<u8>)> = Vec::new();
    let mut is_closed = false;
    for (time, step) in input.steps.iter().enumerate() {
        let is_open =
            |writers: &[(Key, _, _)], key: &Key| writers.iter().any(|(open, ..)| open == key);
        match *step {
            Step::Push(name, len) => {
                let data = data(len, time);
                if bus.push(key(name), &data).is_ok() {
                    model.insert(key(name), data);
                }
            }
            Step::PushView(name, view) => {
                let Some((view, data)) = views.get(usize::from(view)) else {
                    continue;
                };
                if bus.push_view(&key(name), view.clone()).is_ok() {
                    model.insert(key(name), data.clone());
                }
            }
            Step::PutNew(name, len) => {
                let (data, key) = (data(len, time), key(name));
                match bus.put_new(&key, &data) {
                    Ok(()) => {
                        assert!(!model.contains_key(&key) && !is_open(&writers, &key));
                        model.insert(key, data);
                    }
                    Err(BusError::Exists) => assert!(model.contains_key(&key)),
                    Err(BusError::Busy) => assert!(is_open(&writers, &key)),
                    Err(BusError::ReservedKey) => assert!(key.as_bytes().starts_with(b"job:")),
                    Err(_) => {}
                }
            }
            Step::Open(name, len) => {
                let data = data(len, time);
                if let Ok(mut writer) = bus.open(key(name), data.len()) {
                    assert!(writer.data().iter().all(|byte| *byte == 0));
                    writer.data().copy_from_slice(&data);
                    writers.push((key(name), writer, data));
                }
            }
            Step::Seal(len) => {
                let Some((key, writer, mut data)) = writers.pop() else {
                    continue;
                };
                data.truncate(len.into());
                if writer.seal(len.into()).is_ok() {
                    model.insert(key, data);
                }
            }
            Step::DropWriter => drop(writers.pop()),
            Step::Get(name) => {
                let (view, expected) = (bus.get(key(name).as_bytes()), model.get(&key(name)));
                // A key may be evicted, but what is there is right.
                assert!(view.is_some() || expected.is_none() || input.evict);
                if let Some(view) = view {
                    let expected = expected.expect("a key that was written");
                    assert_eq!(&view[..], &expected[..]);
                    views.push((view, expected.clone()));
                }
            }
            Step::Pop(name) => {
                let (view, expected) = (bus.pop(key(name).as_bytes()), model.remove(&key(name)));
                assert!(view.is_some() || expected.is_none() || input.evict);
                if let Some(view) = view {
                    assert_eq!(Some(&view[..]), expected.as_deref());
                }
            }
            Step::Snapshot(name) => match bus.snapshot(key(name).as_bytes()) {
                Ok(view) => {
                    assert_eq!(Some(&view[..]), model.get(&key(name)).map(|data| &data[..]))
                }
                Err(BusError::Busy) => assert!(is_open(&writers, &key(name))),
                Err(_) => assert!(!model.contains_key(&key(name)) || input.evict),
            },
            Step::DropViews => views.clear(),
            Step::Close => {
                bus.close();
                model.clear();
                is_closed = true;
            }
        }
        let keys = bus.keys();
        model.retain(|key, _| !input.evict || keys.contains(key));
        assert_eq!((keys.len(), bus.len()), (model.len(), model.len()));
        let sealed: usize = model.values().map(Vec::len).sum();
        let open: usize = writers.iter().map(|(_, _, data)| data.len()).sum();
        assert_eq!(bus.stats().bytes, sealed + open);
        assert!(sealed + open <= CAPACITY && memory.used() <= memory.limit());
        assert!(!is_closed || bus.is_empty());
        for (view, data) in &views {
            assert_eq!(&view[..], &data[..], "a view never changes");
        }
    }
    drop((writers, views, bus));
    assert_eq!(memory.used(), 0);
});
