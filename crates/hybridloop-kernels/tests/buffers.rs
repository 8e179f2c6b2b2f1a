//! Which jobs may read and write the same buffers.
#![cfg(all(not(loom), not(miri)))]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{engine, int, kernel, plain, result, run};
use hybridloop_kernels::{Arg, JobOptions, SubmitError};

#[test]
fn a_buffer_is_written_by_one_job_at_a_time() {
    let (engine, forever) = (engine(1), kernel("c.forever"));
    let blocker = run(&engine, &forever, vec![]);
    let fill = plain("plain_fill", "none(out i32* target, usize n, i32 with)");
    let memory: &'static mut [i32] = Box::leak(Box::new([0; 4]));
    // SAFETY: the memory is leaked, and only kernels use it.
    let mut target = unsafe { hybridloop_kernels::Buffer::new(0, memory.as_mut_ptr().cast(), 16) };
    (target.format, target.itemsize, target.writable) = (c"i".into(), 4, true);
    let submit = || {
        engine.submit(
            &fill,
            vec![Arg::Int(4), Arg::Int(1)],
            Some(Arg::Buffer(target.clone())),
            JobOptions::default(),
        )
    };
    let first = submit().unwrap();
    let in_use = SubmitError::BufferInUse {
        name: "target".into(),
        job: Some(first.id()),
    };
    assert_eq!(submit().unwrap_err(), in_use);
    blocker.cancel();
    result(&first);
    result(&submit().unwrap());
}

#[test]
fn a_buffer_that_a_job_reads_is_not_written() {
    // Two engines share the memory, and the tracker.
    let (engine, other) = (engine(1), common::engine(1));
    let blocker = run(&engine, &kernel("c.forever"), vec![]);
    let memory: &'static mut [i64] = Box::leak(Box::new([7; 4]));
    // SAFETY: the memory is leaked, and only kernels use it.
    let mut buffer = unsafe { hybridloop_kernels::Buffer::new(0, memory.as_mut_ptr().cast(), 32) };
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
            JobOptions::default(),
        )
    };
    let refused = SubmitError::BufferRead("target".into());
    assert_eq!(write().unwrap_err(), refused);
    readers[0].cancel();
    assert_eq!(write().unwrap_err(), refused);
    blocker.cancel();
    assert_eq!(int(&readers[1]), 28);
    result(&write().unwrap());
}

#[test]
fn a_batch_does_not_write_twice_to_the_same_memory() {
    let engine = engine(1);
    let fill = plain("plain_fill", "none(out i32* target, usize n, i32 with)");
    let memory: &'static mut [i32] = Box::leak(Box::new([0; 4]));
    // SAFETY: the memory is leaked, and only kernels use it.
    let mut buffer = unsafe { hybridloop_kernels::Buffer::new(0, memory.as_mut_ptr().cast(), 16) };
    (buffer.format, buffer.itemsize, buffer.writable) = (c"i".into(), 4, true);
    let call = || vec![Arg::Buffer(buffer.clone()), Arg::Int(4), Arg::Int(1)];
    let many = |calls| engine.submit_many(&fill, calls, None, &JobOptions::default);
    let SubmitError::Call(1, refused) = many(vec![call(), call()]).unwrap_err() else {
        panic!("the second call is to be refused");
    };
    assert!(matches!(
        *refused,
        SubmitError::BufferInUse { job: Some(_), .. }
    ));
    // A job that was refused has borrowed nothing.
    let (_, jobs) = many(vec![call()]).unwrap();
    result(&jobs[0]);
}
