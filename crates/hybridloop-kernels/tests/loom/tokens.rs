//! Completion tokens: the kernel returns, threads complete and cancel, and the engine closes, in every order.

use std::ffi::c_void;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering::SeqCst};
use std::sync::Arc;
use std::time::Duration;

use hybridloop_kernels::abi::{self, code, Host, RawCtx, Val};
use hybridloop_kernels::{Config, Engine, Job, JobOptions, JobResult, Kernel, Value};
use loom::thread;

use crate::Flag;

/// What the kernel and the functions of its token note. None of it is explored: it stands for a library.
#[derive(Default)]
struct Library {
    host: AtomicPtr<Host>,
    token: AtomicU64,
    has_token: Flag,
    /// Whether `stop` completes the token.
    completes: bool,
    /// Whether the kernel returns a result all the same.
    returns: i32,
    stops: AtomicI32,
    drops: AtomicI32,
    /// The end of a `stop` that came after the data was dropped.
    bad: AtomicI32,
}

impl Library {
    /// Completes the token with a number; whether that counts.
    fn complete(&self, number: u64) -> bool {
        self.complete_with(&Val::u64(number))
    }

    /// Completes the token with a value, which is valid.
    fn complete_with(&self, val: &Val) -> bool {
        // SAFETY: the pointer is the table of the host, which lives as long as the process.
        let complete = unsafe { (*self.host.load(SeqCst)).complete };
        // SAFETY: the value is valid during the call.
        match unsafe { complete(self.token.load(SeqCst), code::OK, val) } {
            code::OK => true,
            code::ECLOSED => false,
            other => panic!("{other}"),
        }
    }
}

unsafe extern "C" fn stop(data: *mut c_void, status: i32) {
    // SAFETY: `data` is a library, which outlives the engine.
    let library = unsafe { &*data.cast::<Library>() };
    assert_eq!(status, code::ECANCELED);
    library.stops.fetch_add(1, SeqCst);
    if library.completes {
        library.complete(3);
    }
    thread::yield_now();
    library.bad.fetch_add(library.drops.load(SeqCst), SeqCst);
}

unsafe extern "C" fn drop_data(data: *mut c_void) {
    // SAFETY: `data` is a library, which outlives the engine.
    unsafe { &*data.cast::<Library>() }
        .drops
        .fetch_add(1, SeqCst);
}

unsafe extern "C" fn defer(
    host: *const Host,
    ctx: *mut RawCtx,
    _: *const Val,
    _: usize,
    _: *mut Val,
    user: *mut c_void,
) -> i32 {
    // SAFETY: `user` is a library, which outlives the engine, and the host passes its table and the context of the call.
    unsafe {
        let library = &*user.cast::<Library>();
        library.host.store(host.cast_mut(), SeqCst);
        let token = ((*host).defer)(ctx, user, Some(stop), Some(drop_data));
        assert_ne!(token, 0);
        library.token.store(token, SeqCst);
        library.has_token.set();
        library.returns
    }
}

fn start(library: Library) -> (Engine, Arc<Library>, Arc<Job>) {
    let library = Arc::new(library);
    let entry = abi::Kernel {
        size: abi::size::<abi::Kernel>(),
        flags: abi::ASYNC,
        name: c"defer".as_ptr(),
        sig: c"any()".as_ptr(),
        doc: std::ptr::null(),
        func: Some(defer),
        user: Arc::as_ptr(&library).cast_mut().cast(),
        drop: None,
    };
    // SAFETY: the entry is valid: it consists of constants and the kernel above.
    let kernel = unsafe { Kernel::from_entry(&raw const entry, None) }.unwrap();
    let engine = Engine::new(&Config {
        threads: 1,
        bus_capacity: 100,
        ..Config::default()
    });
    let job = engine
        .submit(&kernel, vec![], None, JobOptions::default())
        .unwrap();
    (engine, library, job)
}

fn pending() -> Library {
    Library {
        returns: code::PENDING,
        ..Library::default()
    }
}

/// Everything is over: the data was dropped once, and not while `stop` ran.
fn close(engine: Engine, library: &Library, stops: std::ops::RangeInclusive<i32>) {
    assert!(engine.close(Duration::MAX).is_empty());
    assert_eq!(
        (library.drops.load(SeqCst), library.bad.load(SeqCst)),
        (1, 0)
    );
    assert!(stops.contains(&library.stops.load(SeqCst)));
    assert!(!library.complete(9));
    let stats = engine.stats();
    assert_eq!((stats.pending, stats.queued, stats.completed), (0, 0, 1));
    drop(engine);
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(model);
}

#[test]
fn a_token_is_completed_while_the_kernel_returns() {
    check(|| {
        let (engine, library, job) = start(pending());
        library.has_token.wait();
        assert!(library.complete(1));
        assert!(matches!(
            job.wait(None),
            Some(JobResult::Value(Value::UInt(1)))
        ));
        close(engine, &library, 0..=0);
    });
}

#[test]
fn a_kernel_returns_a_result_while_its_token_is_completed() {
    check(|| {
        let (engine, library, job) = start(Library {
            returns: 5,
            ..Library::default()
        });
        library.has_token.wait();
        library.complete(1);
        assert!(matches!(job.wait(None), Some(JobResult::Error(_))));
        close(engine, &library, 0..=0);
    });
}

#[test]
fn of_two_completions_one_counts() {
    check(|| {
        let (engine, library, job) = start(pending());
        library.has_token.wait();
        let other = {
            let library = library.clone();
            thread::spawn(move || library.complete(2))
        };
        let mine = library.complete(1);
        assert!(mine != other.join().unwrap());
        let expected = if mine { 1 } else { 2 };
        assert!(matches!(job.wait(None), Some(JobResult::Value(Value::UInt(n))) if *n == expected));
        close(engine, &library, 0..=0);
    });
}

#[test]
fn a_call_is_cancelled_while_it_is_completed() {
    check(|| {
        let (engine, library, job) = start(pending());
        library.has_token.wait();
        let other = {
            let library = library.clone();
            thread::spawn(move || assert!(library.complete(1)))
        };
        let cancelled = job.cancel();
        match job.wait(None) {
            Some(JobResult::Cancelled) => assert!(cancelled),
            Some(JobResult::Value(Value::UInt(1))) => assert!(!cancelled),
            other => panic!("{other:?}"),
        }
        other.join().unwrap();
        close(engine, &library, 0..=i32::from(cancelled));
    });
}

/// A call whose `stop` is not called would never end: a deadlock, which loom reports.
#[test]
fn a_cancelled_call_is_stopped_whenever_its_kernel_returns() {
    check(|| {
        let (engine, library, job) = start(Library {
            completes: true,
            ..pending()
        });
        library.has_token.wait();
        assert!(job.cancel());
        assert!(matches!(job.wait(None), Some(JobResult::Cancelled)));
        close(engine, &library, 1..=1);
    });
}

#[test]
fn closing_an_engine_stops_the_call_of_a_kernel_that_returns_meanwhile() {
    check(|| {
        let (engine, library, job) = start(Library {
            completes: true,
            ..pending()
        });
        library.has_token.wait();
        close(engine, &library, 1..=1);
        assert!(matches!(job.result(), Some(JobResult::Cancelled)));
    });
}

#[test]
fn an_engine_that_is_closed_has_no_result_of_a_call_that_has_ended() {
    check(|| {
        let (engine, library, job) = start(pending());
        library.has_token.wait();
        drop(job);
        let other = {
            let library = library.clone();
            thread::spawn(move || {
                let data = abi::Buf::bytes(c"ab".as_ptr().cast(), 2, abi::COPY);
                assert!(library.complete_with(&Val::buf(abi::kind::BUF, data)));
            })
        };
        assert!(engine.close(Duration::MAX).is_empty());
        assert_eq!(engine.stats().memory, 0);
        other.join().unwrap();
        close(engine, &library, 0..=1);
    });
}
