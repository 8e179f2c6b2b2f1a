//! The threads that run lookups.

use std::collections::VecDeque;
use std::ptr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use hybridloop_sync::fork::PerProcess;

/// The greatest number of lookups at a time; more are queued.
const THREADS: usize = 16;
/// How long an idle thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(10);
/// The size of a stack. The system's functions have buffers on it, and so have modules of the name service switch.
const STACK: usize = 512 * 1024;

type Job = Box<dyn FnOnce() + Send>;

/// Runs a job on a thread of the resolver.
///
/// # Errors
/// If no thread exists and none can be started, or out of memory.
pub fn spawn(job: Job) -> std::io::Result<()> {
    Pool::current().spawn(job)
}

#[derive(Default)]
struct Pool {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Pool {
    /// The pool of this process. The child of a fork has none of its parent's threads.
    fn current() -> &'static Self {
        static POOL: PerProcess<Pool> = PerProcess::new();
        POOL.get()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&'static self, job: Job) -> std::io::Result<()> {
        let mut state = self.state();
        state.jobs.try_reserve(1)?;
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() || state.threads >= THREADS {
            self.work.notify_one();
            return Ok(());
        }
        let started = thread::Builder::new()
            .name("hybridloop-dns".into())
            .stack_size(STACK)
            .spawn(move || self.work());
        match started {
            Ok(_) => {
                state.threads += 1;
                Ok(())
            }
            // The threads that exist run the job.
            Err(_) if state.threads > 0 => Ok(()),
            Err(error) => {
                state.jobs.pop_back();
                Err(error)
            }
        }
    }

    fn work(&self) {
        block_signals();
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // The panic hook has reported a panic; the thread goes on.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                state = self.state();
                continue;
            }
            state.idle += 1;
            let (woken, waited) = self
                .work
                .wait_timeout(state, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

/// Leaves signals to the threads of the program.
fn block_signals() {
    // SAFETY: all-zero is a valid `sigset_t`, which `sigfillset` sets; `pthread_sigmask` changes this thread only.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, ptr::null_mut());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Barrier};

    use super::*;

    #[test]
    fn more_jobs_than_threads_all_run_and_no_more_at_a_time() {
        let (sender, receiver) = channel();
        let gate = Arc::new(Barrier::new(THREADS));
        for number in 0..THREADS * 4 {
            let (sender, gate) = (sender.clone(), gate.clone());
            spawn(Box::new(move || {
                // Passes only if that many jobs run at the same time.
                gate.wait();
                sender.send(number).unwrap();
            }))
            .unwrap();
        }
        let mut done: Vec<usize> = receiver.iter().take(THREADS * 4).collect();
        done.sort_unstable();
        assert_eq!(done, (0..THREADS * 4).collect::<Vec<_>>());
        assert!(Pool::current().state().threads <= THREADS);
    }

    #[test]
    fn a_panic_costs_no_thread() {
        let (sender, receiver) = channel();
        for number in 0..THREADS * 2 {
            let sender = sender.clone();
            spawn(Box::new(move || {
                sender.send(number).unwrap();
                assert!(number % 2 == 0, "meant to panic");
            }))
            .unwrap();
        }
        assert_eq!(receiver.iter().take(THREADS * 2).count(), THREADS * 2);
    }
}
