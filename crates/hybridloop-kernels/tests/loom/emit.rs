//! A kernel that emits waits for whoever takes; a wake-up that is lost is a deadlock, which loom reports.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use hybridloop_kernels::abi::{self, code, Host, KernelFn, RawCtx, Val};
use hybridloop_kernels::{
    Config, Engine, Event, EventQueue, Job, JobOptions, JobResult, Kernel, Value,
};
use loom::thread;

use crate::Flag;

const COUNT: u64 = 3;

unsafe extern "C" fn emit(
    host: *const Host,
    ctx: *mut RawCtx,
    _: *const Val,
    _: usize,
    _: *mut Val,
    _: *mut c_void,
) -> i32 {
    for i in 0..COUNT {
        let val = Val::u64(i);
        // SAFETY: the host passes its table and the context of the call, and the value is valid during the call.
        let status = unsafe { ((*host).base.emit)(ctx, &raw const val) };
        if status != code::OK {
            return status;
        }
    }
    code::OK
}

/// The context of a call, which its threads share.
#[derive(Clone, Copy)]
struct Shared(*const Host, *mut RawCtx);

// SAFETY: the interface allows any thread to use the context until the call ends.
unsafe impl Send for Shared {}

impl Shared {
    fn emit(self) -> i32 {
        let val = Val::u64(0);
        // SAFETY: the host passes its table and the context of the call, which does not end before its threads have.
        unsafe { ((*self.0).base.emit)(self.1, &raw const val) }
    }
}

/// Two threads emit a value each.
unsafe extern "C" fn emit_twice(
    host: *const Host,
    ctx: *mut RawCtx,
    _: *const Val,
    _: usize,
    _: *mut Val,
    _: *mut c_void,
) -> i32 {
    // Makes the limit of the job, in a cell that loom does not know.
    // SAFETY: the host passes its table and the context of the call.
    unsafe { ((*host).base.free)(ctx, ((*host).base.alloc)(ctx, 1, 1)) };
    let shared = Shared(host, ctx);
    let other = thread::spawn(move || shared.emit());
    let mine = shared.emit();
    match other.join().unwrap() {
        code::OK => mine,
        status => status,
    }
}

fn start() -> (Engine, Arc<EventQueue>, Flag, Arc<Job>) {
    start_with(Config {
        job_items: 1,
        ..Config::default()
    })
}

fn start_with(config: Config) -> (Engine, Arc<EventQueue>, Flag, Arc<Job>) {
    start_kernel(emit, config)
}

fn start_kernel(func: KernelFn, config: Config) -> (Engine, Arc<EventQueue>, Flag, Arc<Job>) {
    let entry = abi::Kernel {
        size: abi::size::<abi::Kernel>(),
        flags: abi::EMIT_WAITS,
        name: c"emit".as_ptr(),
        sig: c"any()".as_ptr(),
        doc: std::ptr::null(),
        func: Some(func),
        user: std::ptr::null_mut(),
        drop: None,
    };
    // SAFETY: the entry is valid: it consists of constants and the kernel above.
    let kernel = unsafe { Kernel::from_entry(&raw const entry, None) }.unwrap();
    let engine = Engine::new(&Config {
        threads: 1,
        bus_capacity: 100,
        ..config
    });
    let flag = Flag::default();
    let setter = flag.clone();
    let queue = Arc::new(EventQueue::new(Some(Box::new(move || setter.set()))));
    let options = JobOptions {
        listener: Some(queue.clone()),
        ..JobOptions::default()
    };
    let job = engine.submit(&kernel, vec![], None, options).unwrap();
    (engine, queue, flag, job)
}

/// Takes items until the job is done; gives their number.
fn take_all(queue: &EventQueue, flag: &Flag, job: &Job) -> u64 {
    let mut count = 0;
    loop {
        flag.wait();
        queue.clear();
        while let Some(event) = queue.pop() {
            job.notice_items();
            while let Some(item) = job.take_item() {
                assert!(matches!(item, Value::UInt(i) if i == count));
                count += 1;
            }
            if matches!(event, Event::Done(_)) {
                return count;
            }
        }
    }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(model);
}

#[test]
fn all_items_are_taken() {
    check(|| {
        let (engine, queue, flag, job) = start();
        assert_eq!(take_all(&queue, &flag, &job), COUNT);
        assert!(matches!(job.result(), Some(JobResult::Value(_))));
        assert!(engine.close(Duration::MAX).is_empty());
    });
}

/// A place in the queue counts for two values and their reservations: there is room for one.
const ROOM: usize = 3 * (size_of::<Value>() + 16);

#[test]
fn threads_that_need_the_memory_of_each_other_get_it() {
    check(|| {
        let config = Config {
            job_memory: ROOM,
            ..Config::default()
        };
        let (engine, queue, flag, job) = start_kernel(emit_twice, config);
        let (mut count, mut is_done) = (0, false);
        while !is_done {
            flag.wait();
            queue.clear();
            while let Some(event) = queue.pop() {
                job.notice_items();
                count += std::iter::from_fn(|| job.take_item()).count();
                is_done |= matches!(event, Event::Done(_));
            }
        }
        assert_eq!(count, 2);
        assert!(matches!(job.result(), Some(JobResult::Value(_))));
        assert!(engine.close(Duration::MAX).is_empty());
    });
}

#[test]
fn a_kernel_that_waits_for_memory_gets_it_when_all_items_are_taken() {
    check(|| {
        let (engine, queue, flag, job) = start_with(Config {
            job_memory: ROOM,
            ..Config::default()
        });
        assert_eq!(take_all(&queue, &flag, &job), COUNT);
        assert!(matches!(job.result(), Some(JobResult::Value(_))));
        assert!(engine.close(Duration::MAX).is_empty());
    });
}

#[test]
fn a_kernel_that_waits_is_cancelled() {
    check(|| {
        let (engine, queue, flag, job) = start();
        assert!(job.cancel());
        assert!(take_all(&queue, &flag, &job) <= COUNT);
        assert!(matches!(job.result(), Some(JobResult::Cancelled)));
        assert!(engine.close(Duration::MAX).is_empty());
    });
}

#[test]
fn a_kernel_waits_no_longer_when_nobody_takes() {
    check(|| {
        let (engine, queue, flag, job) = start();
        let other = {
            let job = job.clone();
            thread::spawn(move || job.discard_items())
        };
        drop(job.take_item());
        other.join().unwrap();
        assert!(matches!(job.wait(None), Some(JobResult::Value(_))));
        drop(flag);
        assert!(engine.close(Duration::MAX).is_empty());
        while queue.pop().is_some() {}
    });
}
