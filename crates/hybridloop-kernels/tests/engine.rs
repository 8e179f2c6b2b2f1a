//! Engines: refusals, order of jobs, and closing.
#![cfg(all(not(loom), not(miri)))]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Barrier;
use std::time::Duration;

use common::{engine, event_queue, events, int, ints, kernel, result, run, soon, until_it_runs};
use hybridloop_kernels::{
    find_symbol, Arg, Config, Engine, Event, JobOptions, JobResult, Kernel, Order, SubmitError,
    Value,
};

#[test]
fn bad_arguments_and_full_queues_run_nothing() {
    let engine = Engine::new(&Config {
        threads: 1,
        max_queue: 2,
        ..Config::default()
    });
    let sum = kernel("c.sum");
    let refused = engine
        .submit(&sum, vec![Arg::Int(1)], None, JobOptions::default())
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "c.sum(): argument 'values': expected [i64], got int"
    );
    let blocker = run(&engine, &kernel("c.forever"), vec![]);
    until_it_runs(&engine, &blocker);
    let waiting = [
        run(&engine, &sum, vec![ints(&[1])]),
        run(&engine, &sum, vec![ints(&[2])]),
    ];
    let refused = engine.submit(&sum, vec![ints(&[])], None, JobOptions::default());
    assert_eq!(
        refused.unwrap_err(),
        SubmitError::QueueFull {
            wanted: 1,
            queued: 2,
            limit: 2
        }
    );
    let many = engine.submit_many(&sum, vec![vec![ints(&[])]; 3], None, &JobOptions::default);
    assert_eq!(
        many.unwrap_err(),
        SubmitError::QueueFull {
            wanted: 3,
            queued: 2,
            limit: 2
        }
    );
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
        until_it_runs(&engine, &blocker);
        let (queue, wake) = event_queue();
        for (data, priority) in [(&[10][..], 0), (&[20], 0), (&[30], 5)] {
            let options = JobOptions {
                listener: Some(queue.clone()),
                priority,
                ..JobOptions::default()
            };
            engine
                .submit(&kernel("c.sum"), vec![ints(data)], None, options)
                .unwrap();
        }
        blocker.cancel();
        let mut done = Vec::new();
        while done.len() < 3 {
            for event in events(&queue, &wake, |_| true) {
                if let Event::Done(job) = event {
                    done.push(int(&job));
                }
            }
            // The same wake-up may stand for more events.
            while let Some(event) = queue.pop() {
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
    until_it_runs(&engine, &running);
    let waiting = run(&engine, &kernel("c.sum"), vec![ints(&[1])]);
    assert!(engine.close(Duration::from_secs(30)).is_empty());
    assert!(matches!(running.result(), Some(JobResult::Cancelled)));
    assert!(matches!(waiting.result(), Some(JobResult::Closed)));
    let refused = engine.submit(
        &kernel("c.sum"),
        vec![ints(&[])],
        None,
        JobOptions::default(),
    );
    assert_eq!(refused.unwrap_err(), SubmitError::Closed);

    // The end of a running job starts no other once the engine has stopped starting jobs.
    let engine = common::engine(1);
    let running = run(&engine, &kernel("c.forever"), vec![]);
    until_it_runs(&engine, &running);
    let waiting = run(&engine, &kernel("c.sum"), vec![ints(&[1])]);
    engine.stop_starting();
    running.cancel();
    assert!(matches!(result(&running), JobResult::Cancelled));
    assert!(matches!(result(&waiting), JobResult::Closed));

    // A kernel that does not check for cancellation.
    let engine = common::engine(1);
    let (reader, writer) = std::io::pipe().unwrap();
    let mut waits_for = libc::pollfd {
        fd: reader.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: the signature is that of poll() of the C library. The test keeps what it writes to until it has returned.
    let poll = unsafe {
        let address = find_symbol(None, "poll").unwrap();
        Kernel::from_address(
            "libc.poll",
            address,
            "int(usize, unsigned long, int)",
            "",
            None,
        )
        .unwrap()
    };
    let address = i64::try_from((&raw mut waits_for).expose_provenance()).unwrap();
    let stubborn = run(
        &engine,
        &poll,
        vec![Arg::Int(address), Arg::Int(1), Arg::Int(-1)],
    );
    until_it_runs(&engine, &stubborn);
    assert_eq!(engine.close(Duration::from_millis(20)), ["libc.poll"]);
    assert!(stubborn.result().is_none());
    drop(writer);
    assert!(
        matches!(result(&stubborn), JobResult::Cancelled),
        "its end comes when it ends"
    );
}

#[test]
fn a_forked_child_has_to_make_its_own() {
    let engine = engine(1);
    let sum = kernel("c.sum");
    assert_eq!(int(&run(&engine, &sum, vec![ints(&[1])])), 1);
    // SAFETY: the child calls only functions that work after a fork of a process with threads, and ends with `_exit`.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            let refused = engine.submit(&sum, vec![ints(&[2])], None, JobOptions::default());
            let own = Engine::new(&Config {
                threads: 1,
                ..Config::default()
            });
            let job = own.submit(&sum, vec![ints(&[2])], None, JobOptions::default());
            let works = job
                .is_ok_and(|job| matches!(job.wait(soon()), Some(JobResult::Value(Value::Int(2)))));
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
                    match result(&job) {
                        JobResult::Value(Value::Int(3)) => done.fetch_add(1, Ordering::Relaxed),
                        JobResult::Cancelled => 0,
                        other => panic!("{other:?}"),
                    };
                }
            });
        }
    });
    assert!(done.into_inner() >= 4000);
    assert_eq!((engine.stats().queued, engine.memory().used()), (0, 0));
}
