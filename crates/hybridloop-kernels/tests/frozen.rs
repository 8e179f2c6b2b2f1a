//! Libraries that were built against the header of an earlier release: they load and work.
#![cfg(all(not(loom), not(miri)))]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;

use common::{buffer, compile, event_queue, events, soon};
use hybridloop_kernels::{
    load, Arg, Channel, Config, Engine, Event, JobOptions, JobResult, Kernel, Key, Order, Value,
};

fn kernels() -> Vec<Arc<Kernel>> {
    // Compiled for each test on its own, so that none depends on another.
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let library = compile(
        &format!("v1-{number}"),
        "tests/v1/kernels.c",
        "tests/v1",
        &[],
    );
    // SAFETY: the library was compiled from the tests' own source.
    unsafe { load(&library) }.unwrap()
}

fn kernel(name: &str) -> Arc<Kernel> {
    let mut all = kernels().into_iter();
    all.find(|kernel| kernel.name() == name).unwrap()
}

fn engine() -> Engine {
    Engine::new(&Config {
        threads: 1,
        ..Config::default()
    })
}

#[test]
fn everything_of_interface_1_works() {
    let engine = engine();
    let (queue, wake) = event_queue();
    let options = JobOptions {
        listener: Some(queue.clone()),
        progress: true,
        ..JobOptions::default()
    };
    let args = vec![
        Arg::Str("some text".into()),
        Arg::Buffer(buffer(&[1.0, 2.5], c"d")),
        Arg::Int(-3),
        Arg::UInt(u64::MAX),
        Arg::Float(0.5),
        Arg::Bool(true),
        Arg::Key(Key::new(b"a key").unwrap()),
        Arg::None,
    ];
    let job = engine
        .submit(&kernel("v1.all"), args, None, options)
        .unwrap();
    let all = events(&queue, &wake, |event| matches!(event, Event::Done(_)));
    let expected = format!("some text:{}", job.id());
    match job.wait(soon()).unwrap() {
        JobResult::Value(Value::Str(text)) => assert_eq!(**text, *expected),
        other => panic!("{other:?}"),
    }
    assert!(all.iter().any(|event| matches!(event, Event::Items(_))));
    let mut items = std::iter::from_fn(|| job.take_item());
    assert!(items.any(|item| matches!(item, Value::Buffer(item) if item[..] == b"some text"[..])));
    assert_eq!((job.take_progress(), engine.bus().len()), ((2, 2), 0));
}

#[test]
fn channels_and_arrays_of_interface_1_work() {
    let engine = engine();
    let channel = Channel::new(Order::Fifo, 10);
    for i in 1..4 {
        channel.push(Value::Int(i)).unwrap();
    }
    let args = vec![Arg::Channel(channel.clone())];
    let job = engine
        .submit(&kernel("v1.channel"), args, None, JobOptions::default())
        .unwrap();
    assert!(matches!(
        job.wait(soon()),
        Some(JobResult::Value(Value::UInt(3)))
    ));
    let doubled: Vec<_> = std::iter::from_fn(|| match channel.pop() {
        Ok(Some(Value::Int(i))) => Some(i),
        _ => None,
    })
    .collect();
    assert_eq!(doubled, [2, 4, 6]);

    let memory: &'static mut [i32] = Box::leak(Box::new([9; 4]));
    let address = memory.as_mut_ptr();
    // SAFETY: the memory is leaked, and only the kernel uses it until the job is done.
    let mut target = unsafe { hybridloop_kernels::Buffer::new(0, address.cast(), 16) };
    (target.format, target.itemsize, target.writable) = (c"i".into(), 4, true);
    let out = Some(Arg::Buffer(target));
    let job = engine
        .submit(&kernel("v1.arrays"), vec![], out, JobOptions::default())
        .unwrap();
    match job.wait(soon()).unwrap() {
        JobResult::Value(Value::Buffer(view)) => {
            assert_eq!((view.shape(), view.itemsize()), (Some(&[2, 3][..]), 4));
            assert_eq!((view.len(), view[0], view[20]), (24, 1, 6));
        }
        other => panic!("{other:?}"),
    }
    // SAFETY: the job is done, so nobody writes to the memory.
    assert_eq!(unsafe { *address.cast::<[i32; 4]>() }, [0, 1, 2, 3]);
}
