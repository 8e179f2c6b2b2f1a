//! What kernels emit waits in a queue of limited length. `make test-miri` runs these tests, too.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use hybridloop_kernel::{kernel, Code, Ctx, Error, Export};
use hybridloop_kernels::{
    Arg, Config, Engine, EventQueue, Job, JobOptions, JobResult, Kernel, Value,
};

const LIMIT: Duration = Duration::from_secs(3600);
/// See `EMITTED` in `src/call/host.rs`.
const EMITTED: i64 = 1024;

/// Emits numbers, and says how many.
fn emit(ctx: &Ctx, count: i64) -> Result<i64, Error> {
    for i in 0..count {
        ctx.emit(i)?;
        ctx.progress(u64::try_from(i + 1)?, 0);
    }
    Ok(count)
}

#[kernel(name = "e.waits", emit_waits)]
fn waits(ctx: &Ctx, count: i64) -> Result<i64, Error> {
    emit(ctx, count)
}

#[kernel(emit_waits, name = "e.threads")]
fn threads(ctx: &Ctx, count: i64) -> Result<i64, Error> {
    std::thread::scope(|scope| {
        let threads = [0; 3].map(|_| scope.spawn(|| emit(ctx, count)));
        threads.into_iter().try_fold(0, |sum, thread| {
            let counted = thread.join().map_err(|_| Error::invalid("a panic"))?;
            Ok(sum + counted?)
        })
    })
}

#[kernel(name = "e.told")]
fn told(ctx: &Ctx, count: i64) -> Result<i64, Error> {
    emit(ctx, count)
}

/// Emits blocks, which are not all of the same size.
#[kernel(name = "e.blocks", emit_waits)]
fn blocks(ctx: &Ctx, count: usize, len: usize) -> Result<(), Error> {
    for i in 0..count {
        ctx.emit(vec![1_u8; len + i % 7])?;
    }
    Ok(())
}

fn kernel_of<K: Export>() -> Arc<Kernel> {
    // SAFETY: `#[kernel]` made the entry, which is a constant.
    unsafe { Kernel::from_entry(&K::KERNEL, None) }.unwrap()
}

fn engine(config: Config) -> Engine {
    Engine::new(&Config {
        threads: 1,
        ..config
    })
}

/// A job whose items are taken, and the queue of its events, which holds it.
fn listened<K: Export>(engine: &Engine, args: Vec<Arg>) -> (Arc<Job>, Arc<EventQueue>) {
    start::<K>(engine, args, JobOptions::default())
}

fn start<K: Export>(
    engine: &Engine,
    args: Vec<Arg>,
    options: JobOptions,
) -> (Arc<Job>, Arc<EventQueue>) {
    let queue = Arc::new(EventQueue::new(None));
    let options = JobOptions {
        listener: Some(queue.clone()),
        ..options
    };
    let job = engine.submit(&kernel_of::<K>(), args, None, options);
    (job.unwrap(), queue)
}

fn result(job: &Arc<Job>) -> &JobResult {
    job.wait(Some(Instant::now() + LIMIT)).unwrap()
}

fn until(condition: impl Fn() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < limit);
        std::thread::yield_now();
    }
}

fn emitted(job: &Job) -> i64 {
    i64::try_from(job.take_progress().0).unwrap()
}

fn number(value: Value) -> i64 {
    match value {
        Value::Int(number) => number,
        other => panic!("{other:?}"),
    }
}

/// Takes so many items.
fn take(job: &Job, count: i64) -> Vec<i64> {
    let mut taken = Vec::new();
    until(|| job.has_items() || count == 0);
    while taken.len() < usize::try_from(count).unwrap() {
        until(|| job.has_items());
        taken.push(number(job.take_item().unwrap()));
    }
    taken
}

#[test]
fn a_kernel_waits_until_half_of_its_items_are_taken() {
    let (engine, count) = (engine(Config::default()), 3 * EMITTED);
    let (job, _queue) = listened::<waits>(&engine, vec![Arg::Int(count)]);
    until(|| emitted(&job) == EMITTED);
    let mut all = take(&job, EMITTED / 2 - 1);
    assert_eq!(emitted(&job), EMITTED);
    all.extend(take(&job, 1));
    until(|| emitted(&job) == EMITTED + EMITTED / 2);
    all.extend(take(&job, count - EMITTED / 2));
    assert!(all.into_iter().eq(0..count));
    assert!(matches!(result(&job), JobResult::Value(Value::Int(n)) if *n == count));
    assert!(!job.has_items());
}

#[test]
fn the_limit_of_the_engine_may_be_lower() {
    let engine = engine(Config {
        job_items: 1,
        ..Config::default()
    });
    let (job, _queue) = listened::<waits>(&engine, vec![Arg::Int(20)]);
    for i in 0..20 {
        until(|| job.has_items());
        assert!(emitted(&job) <= i + 1);
        assert_eq!(take(&job, 1), [i]);
    }
    assert!(matches!(result(&job), JobResult::Value(Value::Int(20))));
}

#[test]
fn threads_of_a_kernel_wait_together() {
    let engine = engine(Config {
        job_items: 2,
        ..Config::default()
    });
    let (job, _queue) = listened::<threads>(&engine, vec![Arg::Int(50)]);
    let mut all = take(&job, 150);
    all.sort_unstable();
    assert!(all.into_iter().eq((0..50).flat_map(|i| [i; 3])));
    assert!(matches!(result(&job), JobResult::Value(Value::Int(150))));
}

#[test]
fn other_kernels_are_told_that_the_queue_is_full() {
    let engine = engine(Config {
        job_items: 10,
        ..Config::default()
    });
    let (job, _queue) = listened::<told>(&engine, vec![Arg::Int(11)]);
    match result(&job) {
        JobResult::Error(error) => {
            assert_eq!(error.code, Code::Memory);
            assert!(error.message.contains("10 items"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(take(&job, 10), (0..10).collect::<Vec<_>>());
    assert!(!job.has_items());
    let (job, _queue) = listened::<told>(&engine, vec![Arg::Int(10)]);
    assert!(matches!(result(&job), JobResult::Value(Value::Int(10))));
}

#[test]
fn a_kernel_that_waits_stops_with_its_job() {
    let cancelled = engine(Config::default());
    let (job, _queue) = listened::<waits>(&cancelled, vec![Arg::Int(i64::MAX)]);
    until(|| emitted(&job) == EMITTED);
    assert!(job.cancel());
    assert!(matches!(result(&job), JobResult::Cancelled));

    let options = JobOptions {
        deadline: Some(Instant::now() + Duration::from_millis(100)),
        ..JobOptions::default()
    };
    let (job, _queue) = start::<waits>(&cancelled, vec![Arg::Int(i64::MAX)], options);
    assert!(matches!(result(&job), JobResult::TimedOut));

    let (job, _queue) = listened::<waits>(&cancelled, vec![Arg::Int(i64::MAX)]);
    until(|| emitted(&job) == EMITTED);
    assert!(cancelled.close(LIMIT).is_empty());
    assert!(matches!(result(&job), JobResult::Cancelled));
}

#[test]
fn items_that_nobody_can_take_are_dropped() {
    let engine = engine(Config::default());
    let count = 2 * EMITTED;
    let done =
        |job: &Arc<Job>| matches!(result(job), JobResult::Value(Value::Int(n)) if *n == count);
    let options = JobOptions {
        discard_items: true,
        ..JobOptions::default()
    };
    let (job, _queue) = start::<waits>(&engine, vec![Arg::Int(count)], options);
    assert!(done(&job) && !job.has_items());
    let job = engine
        .submit(
            &kernel_of::<waits>(),
            vec![Arg::Int(count)],
            None,
            JobOptions::default(),
        )
        .unwrap();
    assert!(done(&job) && !job.has_items());

    // Whoever took them is gone; those from before can be taken.
    let (job, _queue) = listened::<waits>(&engine, vec![Arg::Int(count)]);
    until(|| emitted(&job) == EMITTED);
    job.discard_items();
    assert!(done(&job));
    assert!(take(&job, EMITTED).into_iter().eq(0..EMITTED));
    assert!(!job.has_items());
}

#[test]
fn a_kernel_waits_for_memory_that_its_items_hold() {
    let engine = engine(Config {
        job_memory: 5000,
        ..Config::default()
    });
    let (job, queue) = listened::<blocks>(&engine, vec![Arg::UInt(50), Arg::UInt(500)]);
    let mut count = 0;
    while count < 50 {
        until(|| job.has_items());
        assert!(engine.memory().used() <= 5000);
        count += usize::from(job.take_item().is_some());
    }
    assert!(matches!(result(&job), JobResult::Value(Value::None)));
    // What never fits is an error.
    let (large, other) = listened::<blocks>(&engine, vec![Arg::UInt(1), Arg::UInt(5001)]);
    assert!(matches!(result(&large), JobResult::Error(error) if error.code == Code::Memory));
    drop((job, large));
    for queue in [queue, other] {
        while queue.pop().is_some() {}
    }
    until(|| engine.memory().used() == 0);
}
