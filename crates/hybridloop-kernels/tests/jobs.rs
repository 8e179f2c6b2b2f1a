//! Jobs from their submission to their result, with kernels in C.
#![cfg(all(not(loom), not(miri)))]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::ffi::c_void;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{
    buffer, bytes, engine, error, event_queue, events, int, ints, kernel, result, run, soon,
    until_it_runs,
};
use hybridloop_kernels::{
    abi, Arg, Code, Config, Engine, Event, JobOptions, JobResult, JobState, Kernel, Key,
    SubmitError, Value,
};

#[test]
fn items_and_progress_come_in_order_and_before_the_end() {
    let (engine, sum) = (engine(2), kernel("c.sum"));
    assert_eq!(
        (sum.signature_text(), sum.doc()),
        (Some("i64([i64] values)"), "The sum.")
    );
    let (queue, wake) = event_queue();
    let options = JobOptions {
        listener: Some(queue.clone()),
        progress: true,
        ..JobOptions::default()
    };
    let job = engine
        .submit(&sum, vec![ints(&[3, 4, 5])], None, options)
        .unwrap();
    let all = events(&queue, &wake, |event| matches!(event, Event::Done(_)));
    assert!(all.iter().any(|event| matches!(event, Event::Items(_))));
    assert_eq!(job.notice_items(), 3);
    let items: Vec<_> = std::iter::from_fn(|| match job.take_item() {
        Some(Value::Int(item)) => Some(item),
        _ => None,
    })
    .collect();
    assert_eq!((items, job.has_items()), (vec![3, 4, 5], false));
    assert!(all.iter().any(|event| matches!(event, Event::Progress(_))));
    assert_eq!(
        (job.take_progress(), int(&job), job.state()),
        ((3, 3), 12, JobState::Done)
    );
    queue.clear();
    assert!(queue.pop().is_none(), "nothing comes after the end");
}

#[test]
fn a_batch_is_notified_once() {
    let (engine, sum) = (engine(2), kernel("c.sum"));
    let (queue, wake) = event_queue();
    let (batch, jobs) = engine
        .submit_many(
            &sum,
            vec![vec![ints(&[])]; 1000],
            Some(queue.clone()),
            &JobOptions::default,
        )
        .unwrap();
    let all = events(&queue, &wake, |event| matches!(event, Event::Batch(_)));
    assert!(matches!(all[..], [Event::Batch(id)] if id == batch.id()));
    assert!(wake.try_recv().is_err());
    assert_eq!(batch.remaining(), 0);
    batch.subscribe(queue.clone());
    assert!(matches!(
        events(&queue, &wake, |_| true)[..],
        [Event::Batch(_)]
    ));
    assert!(jobs.iter().all(|job| int(job) == 0));
    // Late subscribers are notified at once.
    jobs[0].subscribe(queue.clone());
    assert!(matches!(
        events(&queue, &wake, |_| true)[..],
        [Event::Done(_)]
    ));
}

#[test]
fn cancelling_a_job_that_waits_and_one_that_runs() {
    let (engine, forever) = (engine(1), kernel("c.forever"));
    let (queue, wake) = event_queue();
    let running = run(&engine, &forever, vec![]);
    let options = JobOptions {
        listener: Some(queue.clone()),
        ..JobOptions::default()
    };
    let waiting = engine.submit(&forever, vec![], None, options).unwrap();
    assert!(waiting.cancel());
    assert!(
        matches!(waiting.result(), Some(JobResult::Cancelled)),
        "at once: it has never run"
    );
    events(&queue, &wake, |event| matches!(event, Event::Done(_)));
    until_it_runs(&engine, &running);
    assert!(running.cancel());
    assert!(matches!(result(&running), JobResult::Cancelled));
    assert!(!running.cancel());
}

#[test]
fn deadlines_count_while_waiting_and_while_running() {
    let (engine, forever) = (engine(1), kernel("c.forever"));
    let late = |after| JobOptions {
        deadline: Some(Instant::now() + Duration::from_millis(after)),
        ..JobOptions::default()
    };
    let running = run(&engine, &forever, vec![]);
    let waiting = engine.submit(&forever, vec![], None, late(20)).unwrap();
    assert!(matches!(result(&waiting), JobResult::TimedOut));
    assert!(
        running.result().is_none(),
        "the worker is still busy with the other"
    );
    assert!(running
        .wait(Some(Instant::now() + Duration::from_millis(1)))
        .is_none());
    running.cancel();
    // A busy machine may begin it too late.
    let ran = [20, 200, 2000, 20_000].into_iter().any(|after| {
        let job = engine.submit(&forever, vec![], None, late(after)).unwrap();
        while job.state() == JobState::Queued {
            std::thread::yield_now();
        }
        let ran = job.state() == JobState::Running;
        assert!(matches!(result(&job), JobResult::TimedOut));
        ran
    });
    assert!(ran);
}

#[test]
fn errors_have_the_kernels_code_and_words() {
    let engine = engine(1);
    for (status, code) in [
        (-1, Code::Invalid),
        (-6, Code::NotFound),
        (7, Code::Custom(7)),
        (-99, Code::Custom(-99)),
    ] {
        let job = run(&engine, &kernel("c.fails"), vec![Arg::Int(status)]);
        assert_eq!(error(&job), (code, "on purpose".into()));
    }
    let garbage = |kind, flags| {
        run(
            &engine,
            &kernel("c.garbage"),
            vec![Arg::Int(kind), Arg::Int(flags)],
        )
    };
    assert_eq!(
        error(&garbage(99, 0)),
        (
            Code::Result,
            "the kernel returned a value of the unknown kind 99".into()
        )
    );
    assert_eq!(error(&garbage(7, 0)).0, Code::Result);
    assert!(error(&garbage(6, 0))
        .1
        .contains("memory that is not the host's"));
    assert_eq!(&bytes(&garbage(6, 4))[..], b"own");
    assert!(
        matches!(result(&garbage(5, 4)), JobResult::Value(Value::Str(text)) if &**text == "own")
    );
}

#[test]
fn memory_of_the_host_becomes_the_result_and_keys_go_with_the_job() {
    let engine = engine(1);
    let key = Key::new(b"result").unwrap();
    let options = JobOptions {
        key: Some(key),
        ..JobOptions::default()
    };
    let data = Arg::Buffer(buffer(b"abc", c"B"));
    let job = engine
        .submit(&kernel("c.memory"), vec![data], None, options)
        .unwrap();
    let view = bytes(&job);
    assert_eq!(&view[..], b"abcabc");
    assert_eq!(
        engine.bus().get(b"result").unwrap().as_ptr(),
        view.as_ptr(),
        "shared, not copied"
    );
    let own = format!("job:{}:half", job.id());
    assert_eq!(&engine.bus().snapshot(own.as_bytes()).unwrap()[..], b"abc");
    assert_eq!(engine.bus().keys().len(), 2);
    // The worker drops its handle right after it has notified of the result.
    let weak = Arc::downgrade(&job);
    drop(job);
    let until = soon().unwrap();
    while weak.strong_count() > 0 || engine.bus().contains(own.as_bytes()) {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
    engine.bus().pop(b"result").unwrap();
    assert_eq!(engine.memory().used(), 6);
    drop(view);
    assert_eq!(engine.memory().used(), 0);
}

#[test]
fn limits_of_memory_are_errors_of_the_job() {
    let engine = Engine::new(&Config {
        threads: 1,
        job_memory: 5,
        ..Config::default()
    });
    let job = run(
        &engine,
        &kernel("c.memory"),
        vec![Arg::Buffer(buffer(b"abc", c"B"))],
    );
    assert_eq!(error(&job), (Code::Memory, "out of memory".into()));
    let engine = Engine::new(&Config {
        threads: 1,
        bus_capacity: 2,
        ..Config::default()
    });
    let job = run(
        &engine,
        &kernel("c.memory"),
        vec![Arg::Buffer(buffer(b"abc", c"B"))],
    );
    assert_eq!(
        error(&job),
        (
            Code::Memory,
            "3 bytes do not fit on the bus: 0 of 2 bytes are taken".into()
        )
    );
    drop(job);
    assert_eq!(engine.memory().used(), 0);
}

/// Returns the value that `user` points to.
unsafe extern "C" fn give(
    _: *const abi::Host,
    _: *mut abi::RawCtx,
    _: *const abi::Val,
    _: usize,
    out: *mut abi::Val,
    user: *mut c_void,
) -> i32 {
    // SAFETY: `user` points to a value that is leaked, and `out` to a variable of the host.
    unsafe { out.write(user.cast::<abi::Val>().read()) };
    0
}

#[test]
fn results_have_the_declared_type() {
    let engine = engine(1);
    let returned = |signature: &'static std::ffi::CStr, value: abi::Val| {
        let entry = abi::Kernel {
            size: abi::size::<abi::Kernel>(),
            flags: 0,
            name: c"give".as_ptr(),
            sig: signature.as_ptr(),
            doc: std::ptr::null(),
            func: Some(give),
            user: std::ptr::from_mut(Box::leak(Box::new(value))).cast(),
            drop: None,
        };
        // SAFETY: the entry is valid: it consists of constants, the kernel above, and its value.
        let kernel = unsafe { Kernel::from_entry(&raw const entry, None) }.unwrap();
        let job = run(&engine, &kernel, vec![]);
        match result(&job) {
            JobResult::Value(value) => format!("{value:?}"),
            JobResult::Error(error) => {
                assert_eq!(error.code, Code::Result);
                error.message.clone()
            }
            other => panic!("{other:?}"),
        }
    };
    let text = abi::Val::buf(
        abi::kind::STR,
        abi::Buf::bytes(c"text".as_ptr().cast(), 4, abi::COPY),
    );
    for (signature, value, expected) in [
        (c"bool()", abi::Val::i64(2), "Bool(true)"),
        (c"bool()", abi::Val::u64(0), "Bool(false)"),
        (c"u8()", abi::Val::i64(255), "UInt(255)"),
        (c"u8()", abi::Val::bool(true), "UInt(1)"),
        (c"i8()", abi::Val::u64(127), "Int(127)"),
        (c"f64()", abi::Val::i64(-3), "Float(-3.0)"),
        (c"f32()", abi::Val::f64(0.1), "Float(0.10000000149011612)"),
        (c"any()", abi::Val::i64(300), "Int(300)"),
        (c"u8()", abi::Val::NONE, "None"),
        (
            c"u8()",
            abi::Val::i64(256),
            "the kernel returned 256, and declares u8",
        ),
        (
            c"u32()",
            abi::Val::i64(-1),
            "the kernel returned -1, and declares u32",
        ),
        (
            c"i64()",
            abi::Val::u64(1 << 63),
            "the kernel returned 9223372036854775808, and declares i64",
        ),
        (
            c"i32()",
            abi::Val::f64(1.0),
            "the kernel returned a float, and declares i32",
        ),
        (
            c"bool()",
            abi::Val::f64(1.0),
            "the kernel returned a float, and declares bool",
        ),
        (c"f64()", text, "the kernel returned str, and declares f64"),
    ] {
        assert_eq!(returned(signature, value), expected, "{signature:?}");
    }
}

#[test]
fn small_buffers_that_are_not_aligned_are_copied() {
    let engine = engine(1);
    let bytes: &'static mut [u8] = Box::leak(vec![0_u8; (64 << 10) + 17].into());
    let start = usize::from(bytes.as_ptr().addr().is_multiple_of(8));
    for number in bytes[start..].chunks_exact_mut(8) {
        number.copy_from_slice(&1_i64.to_ne_bytes());
    }
    let bytes: &'static [u8] = bytes;
    let skewed = |len: usize| {
        let mut argument = buffer(&bytes[start..start + len], c"B");
        (argument.format, argument.itemsize) = (c"q".into(), 8);
        argument
    };
    let job = run(&engine, &kernel("c.sum"), vec![Arg::Buffer(skewed(24))]);
    assert_eq!(int(&job), 3);
    drop(job);
    let many = vec![vec![Arg::Buffer(skewed(64 << 10))]; 2];
    let submitted = engine.submit_many(&kernel("c.sum"), many, None, &JobOptions::default);
    for job in submitted.unwrap().1 {
        assert_eq!(int(&job), 8 << 10);
    }
    assert_eq!(engine.memory().used(), 0);
    let submit = |engine: &Engine, len| {
        let args = vec![Arg::Buffer(skewed(len))];
        engine.submit(&kernel("c.sum"), args, None, JobOptions::default())
    };
    let error = submit(&engine, (64 << 10) + 8).unwrap_err().to_string();
    assert!(error.contains("too large to be copied (64 KiB)"), "{error}");
    let tight = Engine::new(&Config {
        threads: 1,
        memory: 100,
        ..Config::default()
    });
    assert_eq!(submit(&tight, 104).unwrap_err(), SubmitError::Memory);
    assert_eq!(int(&submit(&tight, 96).unwrap()), 12);
}
