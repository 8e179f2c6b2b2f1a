//! What the tests of the engine share.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::{mpsc, Arc, Mutex};
use std::time::{Duration, Instant};

use hybridloop_kernels::{
    find_symbol, load, Arg, Buffer, Code, Config, Engine, Event, EventQueue, Job, JobOptions,
    JobResult, JobState, Kernel, Value, View,
};

/// The limit for every wait.
pub const LIMIT: Duration = Duration::from_secs(600);

pub fn soon() -> Option<Instant> {
    Some(Instant::now() + LIMIT)
}

/// Compiles `tests/kernels/plain.c` to a shared library.
pub fn library(name: &str, options: &[&str]) -> PathBuf {
    compile(name, "tests/kernels/plain.c", "../../include", options)
}

/// Compiles a file to a shared library, with the header in the directory `include`.
pub fn compile(name: &str, source: &str, include: &str, options: &[&str]) -> PathBuf {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = cc::Build::new();
    build
        .host(&triple)
        .target(&triple)
        .opt_level(1)
        .cargo_metadata(false);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::temp_dir().join(format!("hybridloop-{}-{name}.so", std::process::id()));
    let status = build
        .get_compiler()
        .to_command()
        .args([
            "-std=c99", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-I",
        ])
        .arg(root.join(include))
        .args(options)
        .arg("-o")
        .arg(&target)
        .arg(root.join(source))
        .status()
        .unwrap();
    assert!(status.success());
    target
}

pub fn kernels() -> Vec<Arc<Kernel>> {
    static PATH: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut path = PATH.lock().unwrap();
    let path = path.get_or_insert_with(|| library("good", &[]));
    // SAFETY: the library was compiled from the tests' own source.
    unsafe { load(path) }.unwrap()
}

pub fn kernel(name: &str) -> Arc<Kernel> {
    kernels()
        .into_iter()
        .find(|kernel| kernel.name() == name)
        .unwrap()
}

pub fn plain(name: &str, signature: &str) -> Arc<Kernel> {
    static PATH: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut path = PATH.lock().unwrap();
    let path = path.get_or_insert_with(|| library("plain", &[]));
    // SAFETY: the library was compiled from the tests' own source, and callers pass the signature of the function.
    unsafe {
        let address = find_symbol(Some(path.as_os_str()), name).unwrap();
        Kernel::from_address(name, address, signature, "", None).unwrap()
    }
}

/// Elements as an argument; they outlive the job.
pub fn buffer<T: 'static + Sync>(data: &'static [T], format: &'static std::ffi::CStr) -> Buffer {
    // SAFETY: the memory is static, and kernels only read it.
    let mut buffer = unsafe { Buffer::new(1, data.as_ptr().cast(), size_of_val(data)) };
    (buffer.format, buffer.itemsize) = (format.into(), size_of::<T>());
    buffer
}

pub fn ints(data: &'static [i64]) -> Arg {
    Arg::Buffer(buffer(data, c"q"))
}

/// An event queue, and what receives its wake-ups.
pub fn event_queue() -> (Arc<EventQueue>, mpsc::Receiver<()>) {
    let (sender, receiver) = mpsc::channel();
    // Nobody receives any more when a test has ended.
    let wake = move || sender.send(()).unwrap_or(());
    (Arc::new(EventQueue::new(Some(Box::new(wake)))), receiver)
}

/// All events up to and with the first that `last` picks.
pub fn events(
    queue: &EventQueue,
    wake: &mpsc::Receiver<()>,
    last: impl Fn(&Event) -> bool,
) -> Vec<Event> {
    let mut all = Vec::new();
    loop {
        wake.recv_timeout(LIMIT).unwrap();
        queue.clear();
        while let Some(event) = queue.pop() {
            let is_last = last(&event);
            all.push(event);
            if is_last {
                return all;
            }
        }
    }
}

pub fn engine(threads: usize) -> Engine {
    Engine::new(&Config {
        threads,
        ..Config::default()
    })
}

/// Waits until a worker runs the only job there is, which is counted as queued for a moment yet.
pub fn until_it_runs(engine: &Engine, job: &Arc<Job>) {
    let limit = Instant::now() + LIMIT;
    while job.state() == JobState::Queued || engine.stats().queued > 0 {
        assert!(Instant::now() < limit);
        std::thread::yield_now();
    }
}

pub fn result(job: &Arc<Job>) -> &JobResult {
    job.wait(soon()).unwrap()
}

pub fn int(job: &Arc<Job>) -> i64 {
    match result(job) {
        JobResult::Value(Value::Int(value)) => *value,
        other => panic!("{other:?}"),
    }
}

pub fn error(job: &Arc<Job>) -> (Code, String) {
    match result(job) {
        JobResult::Error(error) => (error.code, error.message.clone()),
        other => panic!("{other:?}"),
    }
}

pub fn bytes(job: &Arc<Job>) -> View {
    match result(job) {
        JobResult::Value(Value::Buffer(view)) => view.clone(),
        other => panic!("{other:?}"),
    }
}

pub fn run(engine: &Engine, kernel: &Arc<Kernel>, args: Vec<Arg>) -> Arc<Job> {
    engine
        .submit(kernel, args, None, JobOptions::default())
        .unwrap()
}
