//! What a call of a kernel costs: `cargo run --release -p hybridloop-kernels --example roundtrip`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::{mpsc, Arc, Mutex};
use std::time::Instant;

use hybridloop_kernels::{Config, Engine, Event, Mailbox, Options, Registry, Wake};

struct Signal(Mutex<mpsc::SyncSender<()>>);
impl Wake for Signal {
    fn wake(&self) {
        let _ = self.0.lock().unwrap().try_send(());
    }
}

fn main() {
    const N: usize = 20_000;
    let engine = Engine::new(&Config::default());
    let noop = Registry::with_builtins().get("hl.noop").unwrap();
    let (sender, wake) = mpsc::sync_channel(1);
    let mailbox = Arc::new(Mailbox::new(Box::new(Signal(Mutex::new(sender)))));
    let options = || Options {
        mailbox: Some(mailbox.clone()),
        ..Options::default()
    };
    let take = |n: usize| {
        let (mut done, mut wakes) = (0, 0);
        while done < n {
            wake.recv().unwrap();
            wakes += 1;
            mailbox.open();
            while let Some(event) = mailbox.pop() {
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
                Some(mailbox.clone()),
                &Options::default,
            )
            .unwrap();
        wakes += take(1);
    }
    report("in batches of 1000", begin, wakes);
}
