//! Statistics of a loop. They are always on, so they must be cheap.
//!
//! The processor's counter is read where the loop reads it anyway, once an iteration, and between the callbacks of an
//! iteration. A read costs a tenth of a short callback, so consecutive short callbacks are timed as a batch.

use hybridloop_sync::tsc::{ns_to_ticks, ticks};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::event_loop::io::source::IoSource;
use crate::event_loop::LoopCore;
use crate::python::handle::CANCELLED;
use crate::python::RelaxedU64;

/// A callback or a batch that takes less time than this is short.
const SHORT_NS: u64 = 5_000;
/// The largest batch.
const MAX_BATCH: u32 = 8;

/// How many callbacks are timed as one batch: twice as many after each short batch.
pub struct CallbackTimer {
    batch: u32,
    left: u32,
}

impl CallbackTimer {
    pub fn new() -> Self {
        Self { batch: 1, left: 1 }
    }
}

#[derive(Default)]
pub struct Stats {
    iterations: RelaxedU64,
    callbacks: RelaxedU64,
    polls: RelaxedU64,
    polls_skipped: RelaxedU64,
    bytes_in: RelaxedU64,
    bytes_out: RelaxedU64,
    /// When the current run began, in ticks; 0 while the loop does not run.
    running_since: RelaxedU64,
    /// When the loop began to wait; 0 while it does not wait.
    waiting_since: RelaxedU64,
    /// When the current iteration's work began.
    working_since: RelaxedU64,
    ran: RelaxedU64,
    waited: RelaxedU64,
    longest: RelaxedU64,
    /// When the current callback, or its batch, began.
    called_since: RelaxedU64,
    longest_callback: RelaxedU64,
    /// [`SHORT_NS`] in ticks.
    short: RelaxedU64,
}

#[inline]
fn add(counter: &RelaxedU64, n: u64) {
    counter.set(counter.get().wrapping_add(n));
}

impl Stats {
    #[inline]
    pub fn iteration(&self) {
        add(&self.iterations, 1);
    }

    #[inline]
    pub fn callback(&self) {
        add(&self.callbacks, 1);
    }

    /// A busy iteration did not poll; the counter's value is `now`.
    #[inline]
    pub fn poll_skipped(&self, now: u64) {
        add(&self.polls_skipped, 1);
        self.work_done(now);
    }

    /// A poll begins.
    #[inline]
    pub fn polling(&self, waits: bool) {
        let now = ticks();
        add(&self.polls, 1);
        self.work_done(now);
        if waits {
            self.waiting_since.set(now);
        }
    }

    /// A poll has ended; the counter's value is `now`.
    #[inline]
    pub fn polled(&self, now: u64) {
        let since = self.waiting_since.replace(0);
        if since != 0 {
            add(&self.waited, now.wrapping_sub(since));
        }
        self.working_since.set(now);
        self.called_since.set(now);
    }

    #[inline]
    fn work_done(&self, now: u64) {
        let took = now.wrapping_sub(self.working_since.replace(now));
        if took > self.longest.get() {
            self.longest.set(took);
        }
        self.called(now);
    }

    /// A callback has ended. Returns how long its batch took.
    #[inline]
    fn called(&self, now: u64) -> u64 {
        let took = now.wrapping_sub(self.called_since.replace(now));
        if took > self.longest_callback.get() {
            self.longest_callback.set(took);
        }
        took
    }

    /// A callback has ended, and other work begins. Returns the counter's value.
    pub fn callback_over(&self) -> u64 {
        let now = ticks();
        self.called(now);
        now
    }

    /// How long the current callback has run, with the earlier callbacks of its batch.
    #[inline]
    pub fn callback_ticks(&self) -> u64 {
        ticks().wrapping_sub(self.called_since.get())
    }

    /// A callback has ended, and the next one begins. Returns the counter's value, if it was read.
    #[inline]
    pub fn next_callback(&self, timer: &mut CallbackTimer) -> Option<u64> {
        timer.left -= 1;
        if timer.left > 0 {
            return None;
        }
        let now = ticks();
        let took = self.called(now);
        let short = took < self.short.get();
        timer.batch = if short {
            MAX_BATCH.min(2 * timer.batch)
        } else {
            1
        };
        timer.left = timer.batch;
        Some(now)
    }

    /// Callbacks begin after other work. Returns the counter's value.
    pub fn callbacks_begin(&self) -> u64 {
        let now = ticks();
        self.called_since.set(now);
        now
    }

    pub fn run_begins(&self) {
        self.short.set(ns_to_ticks(SHORT_NS));
        let now = ticks();
        self.running_since.set(now);
        self.working_since.set(now);
        self.called_since.set(now);
    }

    pub fn run_ends(&self) {
        let now = ticks();
        self.work_done(now);
        let since = self.running_since.replace(0);
        add(&self.ran, now.wrapping_sub(since));
    }

    /// Counts received bytes.
    #[inline]
    pub fn received(&self, n: usize) {
        add(&self.bytes_in, n as u64);
    }

    /// Counts sent bytes.
    #[inline]
    pub fn sent(&self, n: usize) {
        add(&self.bytes_out, n as u64);
    }

    /// Seconds of the longest stretch of work, and of the longest callback.
    fn longest(&self) -> (f64, f64) {
        let works = self.running_since.get() != 0 && self.waiting_since.get() == 0;
        let now = ticks();
        let seconds = |longest: &RelaxedU64, since: &RelaxedU64| {
            let under_way = if works {
                now.wrapping_sub(since.get())
            } else {
                0
            };
            ratio(longest.get().max(under_way), ns_to_ticks(1_000_000_000))
        };
        (
            seconds(&self.longest, &self.working_since),
            seconds(&self.longest_callback, &self.called_since),
        )
    }

    /// Seconds that the loop has run, and seconds of these in which it did not wait.
    fn times(&self) -> (f64, f64) {
        let now = ticks();
        let under_way = |since: &RelaxedU64| match since.get() {
            0 => 0,
            since => now.wrapping_sub(since),
        };
        let ran = self.ran.get() + under_way(&self.running_since);
        let waited = self.waited.get() + under_way(&self.waiting_since);
        let second = ns_to_ticks(1_000_000_000);
        (
            ratio(ran, second),
            ratio(ran.saturating_sub(waited), second),
        )
    }
}

#[allow(clippy::cast_precision_loss)]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

impl LoopCore {
    /// The fields of `hybridloop.loop.stats.LoopStats`, in order.
    pub fn stats_tuple<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let timers = self
            .timers
            .with(|timers| timers.iter().filter(|timer| !timer.has(CANCELLED)).count());
        let is_transport = |native: &IoSource| !native.vtable.is_reader;
        let transports = self
            .descriptors
            .with(|all| all.natives().filter(|native| is_transport(native)).count());
        let stats = &self.stats;
        let (running_seconds, busy_seconds) = stats.times();
        let (longest_iteration, longest_callback) = stats.longest();
        let counts = (
            stats.iterations.get(),
            stats.callbacks.get(),
            stats.polls.get(),
            stats.polls_skipped.get(),
            self.ready.len(),
            timers,
            transports,
            stats.bytes_in.get(),
            stats.bytes_out.get(),
            self.stacks.waiting.get(),
            self.stacks.switches.get(),
        );
        let seconds = (
            longest_iteration,
            longest_callback,
            running_seconds,
            busy_seconds,
        );
        let all = counts.into_pyobject(py)?.into_sequence();
        all.concat(seconds.into_pyobject(py)?.as_sequence())?
            .to_tuple()
    }
}
