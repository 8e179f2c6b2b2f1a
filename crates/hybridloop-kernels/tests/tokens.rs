//! Completion tokens, with kernels in C whose calls the tests complete.
#![cfg(all(not(loom), not(miri)))]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{bytes, compile, engine, error, int, result, run, LIMIT};
use hybridloop_kernels::{
    abi::code, find_symbol, load, Arg, Buffer, Code, Config, Engine, EventQueue, Job, JobOptions,
    JobResult, JobState, Kernel, SubmitError, Value,
};

const COMPLETES: i64 = 1;
const BLOCKS: i64 = 2;
const NO_STOP: i64 = -1;

fn library() -> PathBuf {
    static PATH: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut path = PATH.lock().unwrap();
    path.get_or_insert_with(|| {
        compile(
            "tokens",
            "tests/kernels/tokens.c",
            "../../include",
            &["-pthread"],
        )
    })
    .clone()
}

fn kernel(name: &str) -> Arc<Kernel> {
    // SAFETY: the library was compiled from the tests' own source.
    let kernels = unsafe { load(library()) }.unwrap();
    let mut all = kernels.into_iter();
    all.find(|kernel| kernel.name() == name).unwrap()
}

fn call(name: &str, at: i64, argument: i32) -> i32 {
    let path = library();
    // SAFETY: the functions of the library have this type.
    let function = unsafe {
        let address = find_symbol(Some(path.as_os_str()), name).unwrap();
        std::mem::transmute::<*const std::ffi::c_void, extern "C" fn(i32, i32) -> i32>(address)
    };
    function(i32::try_from(at).unwrap(), argument)
}

fn complete(at: i64, status: i32) -> i32 {
    call("tokens_complete", at, status)
}

/// How often the place was stopped and dropped.
fn calls(at: i64) -> (i32, i32) {
    (call("tokens_state", at, 1), call("tokens_state", at, 2))
}

fn until(condition: impl Fn() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < limit);
        std::thread::yield_now();
    }
}

/// A place that no other test uses.
fn place() -> i64 {
    static NEXT: AtomicI64 = AtomicI64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Submits a call that waits for its completion.
fn keep(engine: &Engine, at: i64, mode: i64, options: JobOptions) -> Arc<Job> {
    let before = engine.stats().pending;
    let args = vec![Arg::Int(at), Arg::Int(mode), Arg::None];
    let job = engine
        .submit(&kernel("tokens.keep"), args, None, options)
        .unwrap();
    until(|| engine.stats().pending > before);
    job
}

fn kept(engine: &Engine, at: i64, mode: i64) -> Arc<Job> {
    keep(engine, at, mode, JobOptions::default())
}

#[test]
fn a_call_goes_on_without_a_worker_until_its_token_is_completed() {
    let (engine, at) = (engine(1), place());
    let memory: &'static mut [i64] = Box::leak(Box::new([5, 0]));
    let address = memory.as_mut_ptr();
    // SAFETY: the memory is leaked, and only the kernel uses it until the job is done.
    let target = || unsafe {
        let mut buffer = Buffer::new(1, address.cast(), 16);
        (buffer.format, buffer.itemsize, buffer.writable) = (c"q".into(), 8, true);
        Some(Arg::Buffer(buffer))
    };
    let queue = Arc::new(EventQueue::new(None));
    let options = || JobOptions {
        listener: Some(queue.clone()),
        progress: true,
        ..JobOptions::default()
    };
    let args = || vec![Arg::Int(at), Arg::Int(0)];
    let keep = kernel("tokens.keep");
    let job = engine.submit(&keep, args(), target(), options()).unwrap();
    until(|| engine.stats().pending == 1);
    // The worker is free, and the call still has its arguments.
    let sum = run(
        &engine,
        &common::kernel("c.sum"),
        vec![common::ints(&[1, 2])],
    );
    assert_eq!((int(&sum), job.state()), (3, JobState::Running));
    let again = engine.submit(&keep, args(), target(), options());
    assert!(matches!(again, Err(SubmitError::BufferInUse { .. })));
    assert_eq!(calls(at), (0, 0));

    assert_eq!(call("tokens_finish", at, 0), code::OK);
    let view = bytes(&job);
    assert_eq!(view[8..], 6_i64.to_ne_bytes());
    // SAFETY: the job is done, so nobody writes to the memory.
    assert_eq!(unsafe { *address.add(1) }, 6);
    assert!(matches!(job.take_item(), Some(Value::Int(3))));
    assert_eq!((job.take_progress(), calls(at)), ((1, 2), (0, 1)));
    let stats = engine.stats();
    assert_eq!((stats.pending, stats.completed, stats.done), (0, 2, 2));
    assert_eq!(engine.memory().used(), 16);
    drop((view, job, sum));
    // The events have the job.
    while queue.pop().is_some() {}
    until(|| engine.memory().used() == 0);
    assert_eq!(complete(at, code::OK), code::ECLOSED);
}

#[test]
fn a_token_counts_once() {
    let engine = engine(1);
    let at = place();
    let job = kept(&engine, at, 0);
    assert_eq!(complete(at, code::OK), code::OK);
    for status in [code::OK, code::EINVAL] {
        assert_eq!(complete(at, status), code::ECLOSED);
    }
    assert_eq!((int(&job), calls(at)), (7, (0, 1)));

    let at = place();
    let job = kept(&engine, at, 0);
    assert_eq!(call("tokens_fail", at, 0), code::OK);
    assert_eq!(error(&job), (Code::Invalid, "later".into()));
    let at = place();
    let job = kept(&engine, at, 0);
    assert_eq!(complete(at, 42), code::OK);
    assert_eq!(error(&job), (Code::Custom(42), "the kernel failed".into()));
    let at = place();
    let job = kept(&engine, at, 0);
    assert_eq!(complete(at, code::PENDING), code::OK);
    assert_eq!(error(&job).0, Code::Result);
}

#[test]
fn of_many_completions_at_a_time_one_counts() {
    let engine = engine(1);
    for _ in 0..20 {
        let at = place();
        let job = kept(&engine, at, 0);
        let counted: i32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| i32::from(complete(at, code::OK) == code::OK)))
                .collect();
            threads.into_iter().map(|it| it.join().unwrap()).sum()
        });
        assert_eq!((counted, int(&job), calls(at)), (1, 7, (0, 1)));
    }
}

#[test]
fn a_token_may_be_completed_before_the_kernel_returns() {
    let (engine, at_once) = (engine(1), kernel("tokens.at_once"));
    for thread in [0, 1] {
        let at = place();
        let job = |status: i32| {
            let args = [at, 0, thread, i64::from(status)].map(Arg::Int);
            run(&engine, &at_once, args.into())
        };
        assert_eq!((int(&job(code::PENDING)), calls(at)), (5, (0, 1)));
        // What the kernel returns counts all the same.
        assert_eq!((error(&job(9)).0, calls(at)), (Code::Custom(9), (0, 2)));
        assert!(matches!(
            result(&job(code::OK)),
            JobResult::Value(Value::None)
        ));
        assert_eq!((calls(at), engine.stats().pending), ((0, 3), 0));
    }
}

#[test]
fn what_a_kernel_returns_instead_ends_its_token() {
    let (engine, at) = (engine(1), place());
    let args = [at, 0, 3].map(Arg::Int);
    let job = run(&engine, &kernel("tokens.fails"), args.into());
    assert_eq!(error(&job), (Code::Custom(3), "after all".into()));
    assert_eq!((complete(at, code::OK), calls(at)), (code::ECLOSED, (0, 1)));
}

#[test]
fn wrong_uses_are_errors() {
    let (engine, at) = (engine(1), place());
    let wrong = kernel("tokens.wrong");
    let (status, text) = error(&run(&engine, &wrong, vec![Arg::Int(-1)]));
    assert_eq!((status, text.contains("HL_PENDING")), (Code::Result, true));
    let twice = run(&engine, &wrong, vec![Arg::Int(at)]);
    assert!(matches!(
        result(&twice),
        JobResult::Value(Value::Bool(true))
    ));
    assert_eq!(calls(at), (0, 1));
    let at = place();
    let job = run(&engine, &kernel("tokens.no_flag"), vec![Arg::Int(at)]);
    assert_eq!((error(&job).0, calls(at)), (Code::Memory, (0, 0)));
}

#[test]
fn a_cancelled_call_is_stopped_once_and_ends_when_it_is_completed() {
    let (engine, at) = (engine(1), place());
    let job = kept(&engine, at, 0);
    assert!(job.cancel() && job.cancel());
    until(|| calls(at) == (1, 0));
    assert_eq!(call("tokens_state", at, 3), code::ECANCELED);
    assert_eq!(job.state(), JobState::Running);
    assert_eq!(complete(at, code::OK), code::OK);
    assert!(matches!(result(&job), JobResult::Cancelled));
    assert_eq!((job.cancel(), calls(at)), (false, (1, 1)));

    // `stop` may complete the call itself: the data is released when it has returned.
    let at = place();
    let job = kept(&engine, at, COMPLETES);
    assert!(job.cancel());
    assert!(matches!(result(&job), JobResult::Cancelled));
    until(|| calls(at) == (1, 1));
    assert_eq!(call("tokens_state", at, 4), 0);

    // Without `stop` the call goes on.
    let at = place();
    let job = kept(&engine, at, NO_STOP);
    assert!(job.cancel());
    assert_eq!(complete(at, code::OK), code::OK);
    assert!(matches!(result(&job), JobResult::Cancelled));
    assert_eq!(calls(at), (0, 1));
}

#[test]
fn a_call_that_is_cancelled_before_its_kernel_returns_is_stopped_then() {
    let (engine, at) = (engine(1), place());
    let job = run(&engine, &kernel("tokens.keep_late"), vec![Arg::Int(at)]);
    until(|| call("tokens_state", at, 0) == 1);
    assert!(job.cancel());
    assert_eq!(calls(at), (0, 0));
    call("tokens_unblock", at, 0);
    until(|| calls(at) == (1, 0));
    assert_eq!(complete(at, code::EINVAL), code::OK);
    assert!(matches!(result(&job), JobResult::Cancelled));
    assert_eq!(calls(at), (1, 1));
}

#[test]
fn the_data_stays_until_stop_has_returned() {
    let (engine, at) = (engine(1), place());
    let job = kept(&engine, at, BLOCKS);
    assert!(job.cancel());
    until(|| calls(at).0 == 1);
    // The job need not wait for it.
    assert_eq!(complete(at, code::OK), code::OK);
    assert!(matches!(result(&job), JobResult::Cancelled));
    assert_eq!(calls(at), (1, 0));
    call("tokens_unblock", at, 0);
    until(|| calls(at) == (1, 1));
    assert_eq!(call("tokens_state", at, 4), 0);
}

#[test]
fn a_late_call_is_stopped_although_nobody_waits_for_its_job() {
    let engine = engine(1);
    let options = |after| JobOptions {
        deadline: Some(Instant::now() + after),
        ..JobOptions::default()
    };
    let (far, at) = (place(), place());
    // A later deadline does not hide an earlier one.
    let other = keep(&engine, far, 0, options(Duration::from_secs(3600)));
    let args = vec![Arg::Int(at), Arg::Int(COMPLETES), Arg::None];
    // If the machine is so busy that it is late before it starts, there is nothing to stop: once more.
    let job = loop {
        let options = options(Duration::from_millis(200));
        let job = engine.submit(&kernel("tokens.keep"), args.clone(), None, options);
        let job = job.unwrap();
        until(|| job.result().is_some());
        if calls(at).1 > 0 {
            break job;
        }
    };
    assert!(matches!(result(&job), JobResult::TimedOut));
    until(|| calls(at) == (1, 1));
    assert_eq!(call("tokens_state", at, 3), code::ETIMEDOUT);
    assert_eq!((calls(far), complete(far, code::OK)), ((0, 0), code::OK));
    assert_eq!(int(&other), 7);
}

#[test]
fn closing_an_engine_stops_its_calls() {
    let (engine, first, second) = (engine(2), place(), place());
    let jobs = [
        kept(&engine, first, COMPLETES),
        kept(&engine, second, COMPLETES),
    ];
    assert!(engine.close(LIMIT).is_empty());
    for job in &jobs {
        assert!(matches!(result(job), JobResult::Cancelled));
    }
    assert_eq!((calls(first), calls(second)), ((1, 1), (1, 1)));

    // A call that nobody completes is named, and may end later.
    let (engine, at, silent) = (common::engine(1), place(), place());
    let jobs = [kept(&engine, at, 0), kept(&engine, silent, NO_STOP)];
    assert_eq!(engine.close(Duration::ZERO), ["tokens.keep", "tokens.keep"]);
    until(|| calls(at) == (1, 0));
    drop(engine);
    for (job, at) in jobs.iter().zip([at, silent]) {
        assert!(job.result().is_none());
        assert_eq!(complete(at, code::OK), code::OK);
        assert!(matches!(result(job), JobResult::Cancelled));
    }
    assert_eq!((calls(at), calls(silent)), ((1, 1), (0, 1)));
}

#[test]
fn calls_that_wait_have_places_in_the_queue() {
    let engine = Engine::new(&Config {
        threads: 1,
        max_queue: 2,
        ..Config::default()
    });
    let places = [place(), place()];
    let jobs = places.map(|at| kept(&engine, at, 0));
    let args = || vec![Arg::Int(places[0])];
    let third = engine.submit(&kernel("tokens.keep"), args(), None, JobOptions::default());
    let full = SubmitError::QueueFull {
        wanted: 1,
        queued: 2,
        limit: 2,
    };
    assert_eq!(third.err(), Some(full));
    for (job, at) in jobs.iter().zip(places) {
        assert_eq!(complete(at, code::OK), code::OK);
        assert_eq!(int(job), 7);
    }
    assert_eq!(
        int(&run(
            &engine,
            &common::kernel("c.sum"),
            vec![common::ints(&[4])]
        )),
        4
    );
}

#[test]
fn the_child_of_a_fork_has_no_tokens_of_its_parent() {
    let (engine, at) = (engine(1), place());
    let job = kept(&engine, at, 0);
    let path = library();
    // SAFETY: the function of the library has this type.
    let function = unsafe {
        let address = find_symbol(Some(path.as_os_str()), "tokens_complete").unwrap();
        std::mem::transmute::<*const std::ffi::c_void, extern "C" fn(i32, i32) -> i32>(address)
    };
    let place = i32::try_from(at).unwrap();
    // SAFETY: the child calls functions that take no lock of the parent, and ends without destructors.
    unsafe {
        match libc::fork() {
            0 => {
                let refused = function(place, code::OK) == code::ECLOSED && !job.cancel();
                libc::_exit(i32::from(!refused));
            }
            child => {
                let mut status = -1;
                assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
                assert_eq!(status, 0);
            }
        }
    }
    assert_eq!((complete(at, code::OK), int(&job)), (code::OK, 7));
}
