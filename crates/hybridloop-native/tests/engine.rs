//! Jobs from their submission to their outcome, with kernels in C.
#![cfg(all(not(loom), not(miri)))]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use common::{buffer, events, ints, kernel, library, mailbox, plain, soon};
use hybridloop_native::{
    load, symbol, Arg, ArgumentErrorKind, Code, Config, Engine, Event, Job, Kernel, Key, Options,
    Order, Outcome, Registry, RegistryError, State, SubmitError, Value, View,
};

fn engine(threads: usize) -> Engine {
    Engine::new(&Config {
        threads,
        ..Config::default()
    })
}

fn outcome(job: &Arc<Job>) -> &Outcome {
    job.wait(soon()).unwrap()
}

fn int(job: &Arc<Job>) -> i64 {
    match outcome(job) {
        Outcome::Value(Value::Int(value)) => *value,
        other => panic!("{other:?}"),
    }
}

fn error(job: &Arc<Job>) -> (Code, String) {
    match outcome(job) {
        Outcome::Error(error) => (error.code, error.message.clone()),
        other => panic!("{other:?}"),
    }
}

fn bytes(job: &Arc<Job>) -> View {
    match outcome(job) {
        Outcome::Value(Value::Buffer(view)) => view.clone(),
        other => panic!("{other:?}"),
    }
}

fn run(engine: &Engine, kernel: &Arc<Kernel>, args: Vec<Arg>) -> Arc<Job> {
    engine
        .submit(kernel, args, None, Options::default())
        .unwrap()
}

#[test]
fn items_and_progress_come_in_order_and_before_the_end() {
    let (engine, sum) = (engine(2), kernel("c.sum"));
    assert_eq!(
        (sum.signature_text(), sum.doc()),
        (Some("i64([i64] values)"), "The sum.")
    );
    let (mailbox, wake) = mailbox();
    let options = Options {
        mailbox: Some(mailbox.clone()),
        progress: true,
        ..Options::default()
    };
    let job = engine
        .submit(&sum, vec![ints(&[3, 4, 5])], None, options)
        .unwrap();
    let all = events(&mailbox, &wake, |event| matches!(event, Event::Done(_)));
    let items: Vec<_> = all
        .iter()
        .filter_map(|event| match event {
            Event::Item(_, Value::Int(item)) => Some(*item),
            _ => None,
        })
        .collect();
    assert_eq!(items, [3, 4, 5]);
    assert!(all.iter().any(|event| matches!(event, Event::Progress(_))));
    assert_eq!(
        (job.take_progress(), int(&job), job.state()),
        ((3, 3), 12, State::Done)
    );
    mailbox.open();
    assert!(mailbox.pop().is_none(), "nothing comes after the end");
}

#[test]
fn a_batch_is_told_of_once() {
    let (engine, sum) = (engine(2), kernel("c.sum"));
    let (mailbox, wake) = mailbox();
    let (batch, jobs) = engine
        .submit_many(
            &sum,
            vec![vec![ints(&[])]; 1000],
            Some(mailbox.clone()),
            &Options::default,
        )
        .unwrap();
    let all = events(&mailbox, &wake, |event| matches!(event, Event::Batch(_)));
    assert!(matches!(all[..], [Event::Batch(id)] if id == batch.id()));
    assert!(wake.try_recv().is_err());
    assert_eq!(batch.remaining(), 0);
    batch.subscribe(mailbox.clone());
    assert!(matches!(
        events(&mailbox, &wake, |_| true)[..],
        [Event::Batch(_)]
    ));
    assert!(jobs.iter().all(|job| int(job) == 0));
    // Whoever comes late is told at once.
    jobs[0].subscribe(mailbox.clone());
    assert!(matches!(
        events(&mailbox, &wake, |_| true)[..],
        [Event::Done(_)]
    ));
}

#[test]
fn cancelling_a_job_that_waits_and_one_that_runs() {
    let (engine, forever) = (engine(1), kernel("c.forever"));
    let (mailbox, wake) = mailbox();
    let running = run(&engine, &forever, vec![]);
    let options = Options {
        mailbox: Some(mailbox.clone()),
        ..Options::default()
    };
    let waiting = engine.submit(&forever, vec![], None, options).unwrap();
    assert!(waiting.cancel());
    assert!(
        matches!(waiting.outcome(), Some(Outcome::Cancelled)),
        "at once: it has never run"
    );
    events(&mailbox, &wake, |event| matches!(event, Event::Done(_)));
    while running.state() == State::Queued {
        std::thread::yield_now();
    }
    assert_eq!(engine.stats().queued, 0);
    assert!(running.cancel());
    assert!(matches!(outcome(&running), Outcome::Cancelled));
    assert!(!running.cancel());
}

#[test]
fn deadlines_count_while_waiting_and_while_running() {
    let (engine, forever) = (engine(1), kernel("c.forever"));
    let late = |after| Options {
        deadline: Some(Instant::now() + Duration::from_millis(after)),
        ..Options::default()
    };
    let running = engine.submit(&forever, vec![], None, late(150)).unwrap();
    let waiting = engine.submit(&forever, vec![], None, late(20)).unwrap();
    assert!(matches!(outcome(&waiting), Outcome::TimedOut));
    assert!(
        running.outcome().is_none(),
        "the worker is still busy with the other"
    );
    assert!(running
        .wait(Some(Instant::now() + Duration::from_millis(1)))
        .is_none());
    assert!(matches!(outcome(&running), Outcome::TimedOut));
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
        matches!(outcome(&garbage(5, 4)), Outcome::Value(Value::Str(text)) if &**text == "own")
    );
}

#[test]
fn memory_of_the_host_becomes_the_result_and_keys_go_with_the_job() {
    let engine = engine(1);
    let key = Key::new(b"result").unwrap();
    let options = Options {
        key: Some(key),
        ..Options::default()
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
    // The worker lets go of its handle right after it has told of the outcome.
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

#[test]
fn plain_functions_are_called_with_their_types() {
    let engine = engine(1);
    let scale = plain(
        "plain_scale",
        "double(const double *values, size_t n, double by, float, int8_t)",
    );
    let values = Arg::Buffer(buffer(&[1.5, 2.5], c"d"));
    let job = run(
        &engine,
        &scale,
        vec![
            values,
            Arg::Int(2),
            Arg::Int(10),
            Arg::Float(0.5),
            Arg::Int(-1),
        ],
    );
    assert!(
        matches!(outcome(&job), Outcome::Value(Value::Float(value)) if value.to_bits() == 21_f64.to_bits())
    );
    let small = plain("plain_small", "i8(u16, i32)");
    assert_eq!(
        int(&run(
            &engine,
            &small,
            vec![Arg::Int(65535), Arg::Int(65530)]
        )),
        -5
    );
    let fill = plain("plain_fill", "none(out i32* target, usize n, i32 with)");
    let memory: &'static mut [i32] = Box::leak(Box::new([0; 3]));
    let address = memory.as_mut_ptr();
    // SAFETY: leaked memory that only the kernel touches until it is read below.
    let mut target = unsafe { hybridloop_native::Buffer::new(0, address.cast(), 12) };
    (target.format, target.itemsize) = (c"i".into(), 4);
    let args = || vec![Arg::Int(3), Arg::Int(7)];
    let refused = engine.submit(
        &fill,
        args(),
        Some(Arg::Buffer(target.clone())),
        Options::default(),
    );
    assert!(
        matches!(refused, Err(SubmitError::Argument(error)) if error.kind == ArgumentErrorKind::Value)
    );
    target.writable = true;
    let job = engine
        .submit(&fill, args(), Some(Arg::Buffer(target)), Options::default())
        .unwrap();
    assert!(matches!(outcome(&job), Outcome::Value(Value::None)));
    // SAFETY: the job is done.
    assert_eq!(unsafe { *address.cast::<[i32; 3]>() }, [7; 3]);
}

#[test]
fn a_buffer_is_written_by_one_job_at_a_time() {
    let (engine, forever) = (engine(1), kernel("c.forever"));
    let blocker = run(&engine, &forever, vec![]);
    let fill = plain("plain_fill", "none(out i32* target, usize n, i32 with)");
    let memory: &'static mut [i32] = Box::leak(Box::new([0; 4]));
    // SAFETY: leaked memory that only kernels touch.
    let mut target = unsafe { hybridloop_native::Buffer::new(0, memory.as_mut_ptr().cast(), 16) };
    (target.format, target.itemsize, target.writable) = (c"i".into(), 4, true);
    let submit = || {
        engine.submit(
            &fill,
            vec![Arg::Int(4), Arg::Int(1)],
            Some(Arg::Buffer(target.clone())),
            Options::default(),
        )
    };
    let first = submit().unwrap();
    let in_use = SubmitError::BufferInUse {
        name: "target".into(),
        job: Some(first.id()),
    };
    assert_eq!(submit().unwrap_err(), in_use);
    blocker.cancel();
    outcome(&first);
    outcome(&submit().unwrap());
}

#[test]
fn a_buffer_that_a_job_reads_is_not_written() {
    // Of two engines: the memory is one.
    let (engine, other) = (engine(1), self::engine(1));
    let blocker = run(&engine, &kernel("c.forever"), vec![]);
    let memory: &'static mut [i64] = Box::leak(Box::new([7; 4]));
    // SAFETY: leaked memory that only kernels touch.
    let mut buffer = unsafe { hybridloop_native::Buffer::new(0, memory.as_mut_ptr().cast(), 32) };
    (buffer.format, buffer.itemsize, buffer.writable) = (c"q".into(), 8, true);
    let readers = [(); 2].map(|()| {
        let data = vec![Arg::Buffer(buffer.clone())];
        run(&engine, &kernel("c.sum"), data)
    });
    let fill = plain("plain_fill", "none(out i64* target, usize n, i32 with)");
    let write = || {
        let out = Some(Arg::Buffer(buffer.clone()));
        other.submit(
            &fill,
            vec![Arg::Int(0), Arg::Int(0)],
            out,
            Options::default(),
        )
    };
    let refused = SubmitError::BufferRead("target".into());
    assert_eq!(write().unwrap_err(), refused);
    readers[0].cancel();
    assert_eq!(write().unwrap_err(), refused);
    blocker.cancel();
    assert_eq!(int(&readers[1]), 28);
    outcome(&write().unwrap());
}

#[test]
fn a_batch_does_not_write_twice_to_the_same_memory() {
    let engine = engine(1);
    let fill = plain("plain_fill", "none(out i32* target, usize n, i32 with)");
    let memory: &'static mut [i32] = Box::leak(Box::new([0; 4]));
    // SAFETY: leaked memory that only kernels touch.
    let mut buffer = unsafe { hybridloop_native::Buffer::new(0, memory.as_mut_ptr().cast(), 16) };
    (buffer.format, buffer.itemsize, buffer.writable) = (c"i".into(), 4, true);
    let call = || vec![Arg::Buffer(buffer.clone()), Arg::Int(4), Arg::Int(1)];
    let many = |calls| engine.submit_many(&fill, calls, None, &Options::default);
    let refused = many(vec![call(), call()]).unwrap_err();
    assert!(matches!(
        refused,
        SubmitError::BufferInUse { job: Some(_), .. }
    ));
    // And what was refused has left nothing behind.
    let (_, jobs) = many(vec![call()]).unwrap();
    outcome(&jobs[0]);
}

#[test]
fn bad_arguments_and_full_queues_run_nothing() {
    let engine = Engine::new(&Config {
        threads: 1,
        max_queue: 2,
        ..Config::default()
    });
    let sum = kernel("c.sum");
    let refused = engine
        .submit(&sum, vec![Arg::Int(1)], None, Options::default())
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "c.sum(): argument 'values': expected [i64], got int"
    );
    let blocker = run(&engine, &kernel("c.forever"), vec![]);
    while blocker.state() == State::Queued {
        std::thread::yield_now();
    }
    let waiting = [
        run(&engine, &sum, vec![ints(&[1])]),
        run(&engine, &sum, vec![ints(&[2])]),
    ];
    let refused = engine.submit(&sum, vec![ints(&[])], None, Options::default());
    assert_eq!(refused.unwrap_err(), SubmitError::QueueFull(2));
    let many = engine.submit_many(&sum, vec![vec![ints(&[])]; 3], None, &Options::default);
    assert_eq!(many.unwrap_err(), SubmitError::QueueFull(2));
    waiting[0].cancel();
    let third = run(&engine, &sum, vec![ints(&[3])]);
    blocker.cancel();
    assert_eq!((int(&waiting[1]), int(&third)), (2, 3));
}

#[test]
fn priorities_and_orders_are_kept() {
    for (order, expected) in [(Order::Fifo, [30, 10, 20]), (Order::Lifo, [30, 20, 10])] {
        let engine = Engine::new(&Config {
            threads: 1,
            order,
            ..Config::default()
        });
        let blocker = run(&engine, &kernel("c.forever"), vec![]);
        while blocker.state() == State::Queued {
            std::thread::yield_now();
        }
        let (mailbox, wake) = mailbox();
        for (data, priority) in [(&[10][..], 0), (&[20], 0), (&[30], 5)] {
            let options = Options {
                mailbox: Some(mailbox.clone()),
                priority,
                ..Options::default()
            };
            engine
                .submit(&kernel("c.sum"), vec![ints(data)], None, options)
                .unwrap();
        }
        blocker.cancel();
        let mut done = Vec::new();
        while done.len() < 3 {
            for event in events(&mailbox, &wake, |_| true) {
                if let Event::Done(job) = event {
                    done.push(int(&job));
                }
            }
            // More may have come with the same wake-up.
            while let Some(event) = mailbox.pop() {
                if let Event::Done(job) = event {
                    done.push(int(&job));
                }
            }
        }
        assert_eq!(done, expected);
    }
}

#[test]
fn closing_ends_all_within_its_bound_and_names_what_goes_on() {
    let engine = engine(1);
    let running = run(&engine, &kernel("c.forever"), vec![]);
    while running.state() == State::Queued {
        std::thread::yield_now();
    }
    let waiting = run(&engine, &kernel("c.sum"), vec![ints(&[1])]);
    assert!(engine.close(Duration::from_secs(30)).is_empty());
    assert!(matches!(running.outcome(), Some(Outcome::Cancelled)));
    assert!(matches!(waiting.outcome(), Some(Outcome::Closed)));
    let refused = engine.submit(&kernel("c.sum"), vec![ints(&[])], None, Options::default());
    assert_eq!(refused.unwrap_err(), SubmitError::Closed);

    // A kernel that does not look whether it is cancelled.
    let engine = self::engine(1);
    // SAFETY: usleep() of the C library.
    let sleep = unsafe {
        let address = symbol(None, "usleep").unwrap();
        Kernel::from_address("libc.usleep", address, "int(unsigned)", "", None).unwrap()
    };
    let stubborn = run(&engine, &sleep, vec![Arg::Int(400_000)]);
    while stubborn.state() == State::Queued {
        std::thread::yield_now();
    }
    let began = Instant::now();
    assert_eq!(engine.close(Duration::from_millis(20)), ["libc.usleep"]);
    assert!(began.elapsed() < Duration::from_millis(300));
    assert!(stubborn.outcome().is_none());
    assert!(
        matches!(outcome(&stubborn), Outcome::Cancelled),
        "its end comes when it ends"
    );
}

#[test]
fn a_forked_child_has_to_make_its_own() {
    let engine = engine(1);
    let sum = kernel("c.sum");
    assert_eq!(int(&run(&engine, &sum, vec![ints(&[1])])), 1);
    // SAFETY: the child calls what works after a fork of a process with threads here, and leaves by _exit.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            let refused = engine.submit(&sum, vec![ints(&[2])], None, Options::default());
            let own = Engine::new(&Config {
                threads: 1,
                ..Config::default()
            });
            let job = own.submit(&sum, vec![ints(&[2])], None, Options::default());
            let works = job
                .is_ok_and(|job| matches!(job.wait(soon()), Some(Outcome::Value(Value::Int(2)))));
            libc::_exit(i32::from(
                !(matches!(refused, Err(SubmitError::Forked)) && works),
            ));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        assert_eq!(status, 0);
    }
    assert_eq!(int(&run(&engine, &sum, vec![ints(&[3])])), 3);
}

#[test]
fn many_threads_submit_and_cancel() {
    let engine = engine(3);
    let (sum, start, done) = (kernel("c.sum"), Barrier::new(4), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for id in 0..4_usize {
            let (engine, sum, start, done) = (&engine, &sum, &start, &done);
            scope.spawn(move || {
                start.wait();
                for i in 0..2000_usize {
                    let job = run(engine, sum, vec![ints(&[1, 2])]);
                    if (i + id) % 3 == 0 {
                        job.cancel();
                    }
                    match outcome(&job) {
                        Outcome::Value(Value::Int(3)) => done.fetch_add(1, Ordering::Relaxed),
                        Outcome::Cancelled => 0,
                        other => panic!("{other:?}"),
                    };
                }
            });
        }
    });
    assert!(done.into_inner() >= 4000);
    assert_eq!((engine.stats().queued, engine.memory().used()), (0, 0));
}

#[test]
fn libraries_are_refused_by_name() {
    let path = library("wrong-abi", &["-DWRONG_ABI"]);
    // SAFETY: the library of the tests.
    let error = unsafe { load(&path) }.unwrap_err();
    assert!(matches!(
        error,
        RegistryError::Abi {
            theirs: 99,
            ours: 1,
            ..
        }
    ));
    assert!(error
        .to_string()
        .ends_with("was built for kernel interface 99, but this is kernel interface 1"));
    // SAFETY: nothing is loaded.
    unsafe {
        assert!(matches!(
            load("/nowhere/nothing.so"),
            Err(RegistryError::Library(_))
        ));
        assert!(matches!(
            symbol(Some(path.as_os_str()), "nothing"),
            Err(RegistryError::Symbol(_))
        ));
        assert!(matches!(load("libc.so.6"), Err(RegistryError::Symbol(_))));
        let bad = |signature| {
            Kernel::from_address("x", std::ptr::dangling(), signature, "", None).unwrap_err()
        };
        assert!(bad("f64(str)").to_string().contains("cannot take str"));
        assert!(bad("wat").to_string().contains("bad signature"));
        let null = Kernel::from_address("x", std::ptr::null(), "f64()", "", None);
        assert!(matches!(null, Err(RegistryError::Symbol(_))));
    }
}

#[test]
fn names_are_taken_once() {
    let registry = Registry::new();
    registry.add_all(common::kernels(), false).unwrap();
    assert_eq!(registry.all().len(), 5);
    assert!(registry.get("c.sum").is_some() && registry.get("c.none").is_none());
    assert_eq!(
        registry.add(kernel("c.sum"), false),
        Err(RegistryError::Exists("c.sum".into()))
    );
    registry.add(kernel("c.sum"), true).unwrap();
}
