//! Kernels in Rust on the engine: memory, the bus, channels and items between SDK and host. `make test-miri` checks every
//! pointer.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::sync::{mpsc, Arc};
use std::time::{Duration, Instant};

use hybridloop_kernel::{
    kernel, Buf, Channel as Chan, Ctx, Error, Export, IntoResult, Key, Memory, Pending,
};
use hybridloop_kernels::{
    Arg, Buffer, Channel, Code, Config, Engine, Event, EventQueue, Job, JobOptions, JobResult,
    Kernel, Order, Text, Value,
};

/// The bytes, backwards.
#[kernel(name = "t.reverse")]
fn reverse<'a>(ctx: &'a Ctx, data: &[u8]) -> Result<Memory<'a, u8>, Error> {
    let mut memory = ctx.memory(1)?;
    drop(ctx.memory::<f64>(3)?);
    for (i, byte) in data.iter().rev().enumerate() {
        memory.resize(i + 1)?;
        memory[i] = *byte;
    }
    Ok(memory)
}

/// Writes the squares of its numbers.
#[kernel(name = "t.squares")]
fn squares(ctx: &Ctx, from: &[i64], to: &mut [i64]) -> Result<i64, Error> {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from * from;
        ctx.progress(1, 2);
        ctx.emit(*to)?;
    }
    Ok(to.iter().sum())
}

/// Leaves a block on the bus and one of the job, aborts a write, and returns the block that it has popped.
#[kernel(name = "t.bus")]
fn on_the_bus<'a>(ctx: &'a Ctx, key: Key<'_>, data: &[u8]) -> Result<Buf<'a>, Error> {
    let name: &[u8] = key.as_ref();
    let mut writer = ctx.bus().open(name, data.len() + 8)?;
    writer[..data.len()].copy_from_slice(data);
    drop(ctx.bus().open("nothing", 100)?);
    writer.seal_first(data.len())?;
    ctx.bus().of_job().push("mine", data)?;
    let first = ctx.bus().get(name)?;
    ctx.bus().push(name, b"another")?;
    let second = ctx.bus().pop(name)?;
    assert_eq!((first.bytes()?, second.bytes()?), (data, &b"another"[..]));
    ctx.bus().push(name, data)?;
    Ok(second)
}

/// Moves the values of a channel to another, each twice.
#[kernel(name = "t.forward")]
fn forward(from: Chan<'_>, to: Chan<'_>) -> Result<u64, Error> {
    let mut count = 0;
    while let Some(value) = from.pop()? {
        to.push(value)?;
        to.push("and")?;
        count += 1;
    }
    Ok(count)
}

#[kernel(name = "t.panics")]
fn panics(text: &str) {
    panic!("on purpose: {text}");
}

fn kernel_of<K: Export>() -> Arc<Kernel> {
    // SAFETY: `#[kernel]` made the entry, which is a constant.
    unsafe { Kernel::from_entry(&K::KERNEL, None) }.unwrap()
}

fn engine() -> Engine {
    Engine::new(&Config {
        threads: 2,
        ..Config::default()
    })
}

fn result(job: &Arc<Job>) -> JobResult {
    let limit = Instant::now() + Duration::from_secs(600);
    job.wait(Some(limit)).unwrap().clone()
}

fn value(engine: &Engine, kernel: &Arc<Kernel>, args: Vec<Arg>) -> Value {
    let job = engine.submit(kernel, args, None, JobOptions::default());
    match result(&job.unwrap()) {
        JobResult::Value(value) => value,
        other => panic!("{other:?}"),
    }
}

/// Waits until the workers have dropped their jobs, which they do right after they have notified of the result.
fn until(condition: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(600);
    while !condition() {
        assert!(Instant::now() < limit);
        std::thread::yield_now();
    }
}

/// A buffer of `data`, which has to outlive the jobs of the test.
fn buffer_of<T>(data: &[T], format: &'static std::ffi::CStr) -> Buffer {
    // SAFETY: the callers keep `data` until their jobs are done, and write to it through kernels only.
    let mut buffer = unsafe { Buffer::new(1, data.as_ptr().cast(), size_of_val(data)) };
    (buffer.format, buffer.itemsize) = (format.into(), size_of::<T>());
    buffer
}

#[test]
fn memory_grows_in_place_and_becomes_the_result() {
    let engine = engine();
    let data = *b"0123456789";
    let result = value(
        &engine,
        &kernel_of::<reverse>(),
        vec![Arg::Buffer(buffer_of(&data, c"B"))],
    );
    assert!(matches!(&result, Value::Buffer(view) if view[..] == b"9876543210"[..]));
    assert_eq!(engine.memory().used(), 10);
    // The result of one kernel is the argument of another.
    let Value::Buffer(view) = result else {
        unreachable!()
    };
    let again = value(&engine, &kernel_of::<reverse>(), vec![Arg::View(view)]);
    assert!(matches!(&again, Value::Buffer(view) if view[..] == data[..]));
    drop(again);
    until(|| engine.memory().used() == 0);
}

#[test]
fn a_buffer_is_written_in_place_and_items_come_first() {
    let engine = engine();
    let from = [1_i64, 2, 3];
    let mut memory = [0_i64; 3];
    // SAFETY: the test does not use `memory` until the job is done.
    let mut target = unsafe { Buffer::new(2, memory.as_mut_ptr().cast(), size_of_val(&memory)) };
    (target.format, target.itemsize, target.writable) = (c"q".into(), 8, true);
    let (sender, receiver) = mpsc::channel();
    // Nobody receives any more when the test has ended.
    let wake = move || sender.send(()).unwrap_or(());
    let queue = Arc::new(EventQueue::new(Some(Box::new(wake))));
    let options = JobOptions {
        listener: Some(queue.clone()),
        progress: true,
        ..JobOptions::default()
    };
    let job = engine
        .submit(
            &kernel_of::<squares>(),
            vec![Arg::Buffer(buffer_of(&from, c"q"))],
            Some(Arg::Buffer(target)),
            options,
        )
        .unwrap();
    'all: loop {
        receiver.recv_timeout(Duration::from_secs(600)).unwrap();
        queue.clear();
        while let Some(event) = queue.pop() {
            if let Event::Done(_) = event {
                break 'all;
            }
        }
    }
    assert!(matches!(result(&job), JobResult::Value(Value::Int(14))));
    let items = std::iter::from_fn(|| match job.take_item() {
        Some(Value::Int(item)) => Some(item),
        _ => None,
    });
    assert_eq!((items.collect(), memory), (vec![1, 4, 9], [1, 4, 9]));
}

#[test]
fn the_bus_gives_what_outlives_the_key() {
    let engine = engine();
    let key = hybridloop_kernels::Key::new(b"k").unwrap();
    let data = *b"data";
    let args = vec![Arg::Key(key), Arg::Buffer(buffer_of(&data, c"B"))];
    let popped = value(&engine, &kernel_of::<on_the_bus>(), args);
    assert!(matches!(&popped, Value::Buffer(view) if view[..] == b"another"[..]));
    assert_eq!(&engine.bus().snapshot(b"k").unwrap()[..], b"data");
    until(|| engine.bus().len() == 1);
    assert!(!engine.bus().is_busy(b"nothing"));
    assert!(engine.close(Duration::from_secs(600)).is_empty());
    drop(popped);
    assert_eq!((engine.memory().used(), engine.bus().stats().bytes), (0, 0));
}

#[test]
fn channels_copy_what_goes_through() {
    let engine = engine();
    let (from, to) = (
        Channel::new(Order::Fifo, 100),
        Channel::new(Order::Lifo, 100),
    );
    let view = match value(
        &engine,
        &kernel_of::<reverse>(),
        vec![Arg::Buffer(buffer_of(b"abc", c"B"))],
    ) {
        Value::Buffer(view) => view,
        other => panic!("{other:?}"),
    };
    for value in [
        Value::Int(1),
        Value::Str(Text::copy("text", engine.memory()).unwrap()),
        Value::Buffer(view),
        Value::Float(0.5),
        Value::None,
    ] {
        from.push(value).unwrap();
    }
    let args = vec![Arg::Channel(from), Arg::Channel(to.clone())];
    let moved = value(&engine, &kernel_of::<forward>(), args);
    assert!(matches!(moved, Value::UInt(5) | Value::Int(5)));
    let back: Vec<_> = std::iter::from_fn(|| to.pop().unwrap()).collect();
    assert_eq!(back.len(), 10);
    assert!(matches!(&back[5], Value::Buffer(view) if view[..] == b"cba"[..]));
    assert!(matches!(&back[7], Value::Str(text) if &**text == "text"));
}

#[test]
fn a_panic_is_an_error_of_the_job() {
    let engine = engine();
    let text = Arg::Str("really".into());
    let job = engine
        .submit(
            &kernel_of::<panics>(),
            vec![text],
            None,
            JobOptions::default(),
        )
        .unwrap();
    match result(&job) {
        JobResult::Error(error) => {
            assert_eq!(error.code, Code::Panic);
            assert!(error.message.contains("on purpose: really"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

/// Adds up in a thread of its own, with memory of the host as the result, and hears of cancellation.
#[kernel(name = "t.later")]
fn later<'a>(ctx: &'a Ctx, data: &[u8], forever: bool) -> Result<Pending<'a, Vec<u8>>, Error> {
    let (sender, receiver) = mpsc::channel();
    let (token, pending) = ctx.defer_with::<Vec<u8>, _>(move |code| sender.send(code).unwrap())?;
    let data = data.to_vec();
    std::thread::spawn(move || {
        if forever {
            let code = receiver.recv().unwrap();
            assert!(token.ctx().cancelled());
            return token.complete(Err(code.into()));
        }
        token.complete_with(|ctx| {
            ctx.emit(data.len())?;
            let mut memory = ctx.memory(data.len())?;
            memory.copy_from_slice(&data);
            memory.into_val(ctx)
        });
    });
    Ok(pending)
}

#[test]
fn a_token_completes_in_another_thread() {
    let (engine, later) = (engine(), kernel_of::<later>());
    let data = *b"data";
    let args = |forever| vec![Arg::Buffer(buffer_of(&data, c"B")), Arg::Bool(forever)];
    let value = value(&engine, &later, args(false));
    assert!(matches!(&value, Value::Buffer(view) if view[..] == data[..]));
    let job = engine.submit(&later, args(true), None, JobOptions::default());
    let job = job.unwrap();
    until(|| engine.stats().pending == 1);
    assert!(job.cancel());
    assert!(matches!(result(&job), JobResult::Cancelled));
    drop((value, job));
    assert!(engine.close(Duration::from_secs(600)).is_empty());
    assert_eq!(engine.memory().used(), 0);
}
