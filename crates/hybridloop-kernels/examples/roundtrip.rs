//! The cost of a call of a kernel: `cargo run --release -p hybridloop-kernels --example roundtrip`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::{mpsc, Arc};
use std::time::Instant;

use hybridloop_kernels::{Config, Engine, Event, EventQueue, JobOptions, Registry};

fn main() {
    const N: usize = 20_000;
    let engine = Engine::new(&Config::default());
    let noop = Registry::with_builtins().get("hl.noop").unwrap();
    let (sender, receiver) = mpsc::sync_channel(1);
    let wake = move || sender.try_send(()).unwrap_or(());
    let queue = Arc::new(EventQueue::new(Some(Box::new(wake))));
    let options = || JobOptions {
        listener: Some(queue.clone()),
        ..JobOptions::default()
    };
    let take = |n: usize| {
        let (mut done, mut wakes) = (0, 0);
        while done < n {
            receiver.recv().unwrap();
            wakes += 1;
            queue.clear();
            while let Some(event) = queue.pop() {
                done += usize::from(matches!(event, Event::Done(_) | Event::Batch(_)));
            }
        }
        wakes
    };
    let report = |name: &str, begin: Instant, wakes: usize| {
        #[allow(clippy::cast_precision_loss)]
        let each = begin.elapsed().as_secs_f64() * 1e6 / N as f64;
        println!("{name:<28} {each:8.3} µs a job, {wakes} wake-ups for {N} jobs");
    };

    let begin = Instant::now();
    let mut wakes = 0;
    for _ in 0..N {
        engine.submit(&noop, vec![], None, options()).unwrap();
        wakes += take(1);
    }
    report("round trip", begin, wakes);

    let begin = Instant::now();
    let mut wakes = 0;
    for _ in 0..N / 64 {
        for _ in 0..64 {
            engine.submit(&noop, vec![], None, options()).unwrap();
        }
        wakes += take(64);
    }
    report("64 at a time", begin, wakes);

    let begin = Instant::now();
    let mut wakes = 0;
    for _ in 0..N / 1000 {
        engine
            .submit_many(
                &noop,
                vec![vec![]; 1000],
                Some(queue.clone()),
                &JobOptions::default,
            )
            .unwrap();
        wakes += take(1);
    }
    report("in batches of 1000", begin, wakes);
}
