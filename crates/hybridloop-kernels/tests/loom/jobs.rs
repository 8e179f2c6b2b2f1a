//! Jobs: start, cancellation, deadlines, closing, and listeners.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hybridloop_kernels::abi::{self, Host, RawCtx, Val};
use hybridloop_kernels::{
    Config, Engine, Event, EventQueue, Idle, Job, JobOptions, JobResult, Kernel, Policy,
    SubmitError, Value,
};
use loom::thread;

use crate::Flag;

/// A kernel that counts its calls and returns their number.
unsafe extern "C" fn count(
    _: *const Host,
    _: *mut RawCtx,
    _: *const Val,
    _: usize,
    out: *mut Val,
    user: *mut c_void,
) -> i32 {
    // SAFETY: `user` points to the counter of `kernel`, which is leaked; `out` points to a variable of the host.
    unsafe {
        let calls = &*user.cast::<AtomicUsize>();
        out.write(Val::u64(calls.fetch_add(1, SeqCst) as u64 + 1));
    }
    0
}

fn kernel() -> (Arc<Kernel>, &'static AtomicUsize) {
    let calls: &'static AtomicUsize = Box::leak(Box::default());
    let entry = abi::Kernel {
        size: abi::size::<abi::Kernel>(),
        flags: 0,
        name: c"count".as_ptr(),
        sig: c"u64()".as_ptr(),
        doc: std::ptr::null(),
        func: Some(count),
        user: std::ptr::from_ref(calls).cast_mut().cast(),
        drop: None,
    };
    // SAFETY: the entry is valid: it consists of constants and the kernel above.
    let kernel = unsafe { Kernel::from_entry(&raw const entry, None) };
    (kernel.unwrap(), calls)
}

fn engine() -> Engine {
    Engine::new(&Config {
        threads: 1,
        bus_capacity: 100,
        bus_policy: Policy::Error,
        ..Config::default()
    })
}

fn options(queue: &Arc<EventQueue>) -> JobOptions {
    JobOptions {
        listener: Some(queue.clone()),
        ..JobOptions::default()
    }
}

fn event_queue() -> (Arc<EventQueue>, Flag) {
    let flag = Flag::default();
    let setter = flag.clone();
    let wake = move || setter.set();
    (Arc::new(EventQueue::new(Some(Box::new(wake)))), flag)
}

/// Waits for a wake-up, and counts the jobs and batches that were reported as done.
fn ends(queue: &EventQueue, flag: &Flag) -> usize {
    flag.wait();
    queue.clear();
    std::iter::from_fn(|| queue.pop())
        .filter(|event| matches!(event, Event::Done(_) | Event::Batch(_)))
        .count()
}

fn result(job: &Arc<Job>) -> JobResult {
    job.wait(None).unwrap().clone()
}

/// Two preemptions, because an engine takes many steps.
fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(model);
}

#[test]
fn a_job_that_could_be_cancelled_is_cancelled() {
    check(|| {
        let (engine, (kernel, calls)) = (engine(), kernel());
        let (queue, flag) = event_queue();
        let job = engine
            .submit(&kernel, vec![], None, options(&queue))
            .unwrap();
        let cancelled = job.cancel();
        match result(&job) {
            JobResult::Cancelled => assert!(cancelled),
            JobResult::Value(Value::UInt(1)) => assert!(!cancelled),
            other => panic!("{other:?}"),
        }
        assert!(calls.load(SeqCst) <= 1 && !job.cancel());
        assert_eq!(ends(&queue, &flag), 1);
        assert!(engine.close(Duration::from_secs(60)).is_empty());
        assert_eq!(engine.stats().queued, 0);
    });
}

#[test]
fn a_result_that_is_there_is_counted() {
    check(|| {
        let (engine, (kernel, _)) = (engine(), kernel());
        let job = engine.submit(&kernel, vec![], None, JobOptions::default());
        let job = job.unwrap();
        if job.result().is_some() {
            let stats = engine.stats();
            assert_eq!((stats.completed, stats.done), (1, 1));
        }
        assert!(engine.close(Duration::from_secs(60)).is_empty());
    });
}

#[test]
fn a_late_job_never_runs() {
    // A time before all jobs.
    let past = Instant::now();
    check(move || {
        let (engine, (kernel, calls)) = (engine(), kernel());
        let (queue, flag) = event_queue();
        let options = JobOptions {
            deadline: Some(past),
            ..options(&queue)
        };
        let job = engine.submit(&kernel, vec![], None, options).unwrap();
        job.expire();
        assert_eq!(ends(&queue, &flag), 1);
        assert!(matches!(job.result(), Some(JobResult::TimedOut)));
        assert_eq!(calls.load(SeqCst), 0);
        assert!(engine.close(Duration::from_secs(60)).is_empty());
        assert_eq!(engine.stats().queued, 0);
    });
}

#[test]
fn a_job_that_is_taken_while_the_engine_closes_has_an_end() {
    check(|| {
        let (engine, (kernel, _)) = (Arc::new(engine()), kernel());
        let submitter = {
            let engine = engine.clone();
            thread::spawn(move || engine.submit(&kernel, vec![], None, JobOptions::default()))
        };
        // Without a timeout: a job that never ends is a deadlock, which loom reports.
        engine.close(Duration::MAX);
        match submitter.join().unwrap() {
            Err(error) => assert_eq!(error, SubmitError::Closed),
            Ok(job) => assert!(matches!(
                result(&job),
                JobResult::Closed | JobResult::Cancelled | JobResult::Value(_)
            )),
        }
        assert_eq!(engine.stats().queued, 0);
    });
}

#[test]
fn a_subscriber_is_notified_once() {
    check(|| {
        let (engine, (kernel, _)) = (engine(), kernel());
        let (queue, flag) = event_queue();
        let job = engine
            .submit(&kernel, vec![], None, JobOptions::default())
            .unwrap();
        job.subscribe(queue.clone());
        assert_eq!(ends(&queue, &flag), 1);
        assert!(matches!(job.result(), Some(JobResult::Value(_))));
        assert!(engine.close(Duration::from_secs(60)).is_empty());
        assert!(queue.pop().is_none());
    });
}

#[test]
fn each_listener_is_notified_of_a_batch_once() {
    check(|| {
        let (engine, (kernel, calls)) = (engine(), kernel());
        let ((first, first_flag), (second, second_flag)) = (event_queue(), event_queue());
        let (batch, jobs) = engine
            .submit_many(
                &kernel,
                vec![vec![]; 2],
                Some(first.clone()),
                &JobOptions::default,
            )
            .unwrap();
        batch.subscribe(second.clone());
        assert_eq!(ends(&first, &first_flag), 1);
        assert_eq!(ends(&second, &second_flag), 1);
        assert!(jobs.iter().all(|job| job.result().is_some()));
        assert_eq!((batch.remaining(), calls.load(SeqCst)), (0, 2));
        assert!(engine.close(Duration::from_secs(60)).is_empty());
        assert!(first.pop().is_none() && second.pop().is_none());
    });
}

/// Two workers that spin before they sleep; a job that nobody runs is a deadlock, which loom reports.
#[test]
fn no_job_is_left_while_a_worker_spins() {
    use loom::sync::atomic::AtomicUsize;
    use loom::sync::atomic::Ordering::{AcqRel, Acquire};
    check(|| {
        let idle = Arc::new(Idle::new());
        let (queue, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(2)));
        let work = {
            let (idle, queue, left) = (idle.clone(), queue.clone(), left.clone());
            move || loop {
                let taken = queue.fetch_update(AcqRel, Acquire, |n| n.checked_sub(1));
                if let Ok(before) = taken {
                    if before > 1 {
                        idle.notify();
                    }
                    if left.fetch_sub(1, AcqRel) == 1 {
                        idle.close();
                    }
                    continue;
                }
                let has_work = || queue.load(Acquire) > 0;
                let mut looks = 0;
                let found = idle.spin(has_work, || {
                    looks += 1;
                    looks < 2
                });
                if !found && !idle.sleep(has_work) {
                    break;
                }
            }
        };
        let workers = [thread::spawn(work.clone()), thread::spawn(work)];
        for _ in 0..2 {
            queue.fetch_add(1, AcqRel);
            idle.notify();
        }
        for worker in workers {
            worker.join().unwrap();
        }
    });
}
