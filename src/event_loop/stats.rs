//! What a loop has done: counters that are always on, so they cost next to nothing.
//!
//! Time is taken where the loop reads the processor's counter anyway, once a turn. So the longest stretch of work is told
//! by the turn, not by the callback.

use hybridloop_reactor::{ticks, ticks_in};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::source::Native;
use super::LoopCore;
use crate::ffi::handle::CANCELLED;
use crate::ffi::Word;

#[derive(Default)]
pub struct Stats {
    turns: Word,
    callbacks: Word,
    polls: Word,
    polls_skipped: Word,
    bytes_in: Word,
    bytes_out: Word,
    /// When the run under way began, in ticks; 0 while the loop does not run.
    running_since: Word,
    /// When it began to wait; 0 while it does not.
    waiting_since: Word,
    /// When the work under way began.
    working_since: Word,
    ran: Word,
    waited: Word,
    longest: Word,
}

#[inline]
fn add(counter: &Word, n: u64) {
    counter.set(counter.get().wrapping_add(n));
}

impl Stats {
    #[inline]
    pub fn turn(&self) {
        add(&self.turns, 1);
    }

    #[inline]
    pub fn callback(&self) {
        add(&self.callbacks, 1);
    }

    /// A busy turn did not look for I/O; the counter stands at `now`.
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

    /// A poll is over; the counter stands at `now`.
    #[inline]
    pub fn polled(&self, now: u64) {
        let since = self.waiting_since.replace(0);
        if since != 0 {
            add(&self.waited, now.wrapping_sub(since));
        }
        self.working_since.set(now);
    }

    #[inline]
    fn work_done(&self, now: u64) {
        let took = now.wrapping_sub(self.working_since.replace(now));
        if took > self.longest.get() {
            self.longest.set(took);
        }
    }

    pub fn run_begins(&self) {
        let now = ticks();
        self.running_since.set(now);
        self.working_since.set(now);
    }

    pub fn run_ends(&self) {
        let now = ticks();
        self.work_done(now);
        let since = self.running_since.replace(0);
        add(&self.ran, now.wrapping_sub(since));
    }

    /// Bytes came in.
    #[inline]
    pub fn received(&self, n: usize) {
        add(&self.bytes_in, n as u64);
    }

    /// Bytes went out.
    #[inline]
    pub fn sent(&self, n: usize) {
        add(&self.bytes_out, n as u64);
    }

    /// Seconds of the longest stretch of work.
    fn longest(&self) -> f64 {
        let under_way = if self.running_since.get() == 0 || self.waiting_since.get() != 0 {
            0
        } else {
            ticks().wrapping_sub(self.working_since.get())
        };
        ratio(self.longest.get().max(under_way), ticks_in(1_000_000_000))
    }

    /// Seconds that the loop has run, and of these the ones in which it did not wait.
    fn times(&self) -> (f64, f64) {
        let now = ticks();
        let under_way = |since: &Word| match since.get() {
            0 => 0,
            since => now.wrapping_sub(since),
        };
        let ran = self.ran.get() + under_way(&self.running_since);
        let waited = self.waited.get() + under_way(&self.waiting_since);
        let second = ticks_in(1_000_000_000);
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
    /// The fields of `hybridloop.stats.LoopStats`, in order.
    pub fn stats_tuple<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let timers = self
            .timers
            .with(|timers| timers.iter().filter(|timer| !timer.has(CANCELLED)).count());
        let is_transport = |native: &Native| !native.kind.is_reader;
        let transports = self
            .descriptors
            .with(|all| all.natives().filter(|native| is_transport(native)).count());
        let it = &self.stats;
        let (running_seconds, busy_seconds) = it.times();
        (
            it.turns.get(),
            it.callbacks.get(),
            it.polls.get(),
            it.polls_skipped.get(),
            self.ready.with(|ready| ready.len()),
            timers,
            transports,
            it.bytes_in.get(),
            it.bytes_out.get(),
            it.longest(),
            running_seconds,
            busy_seconds,
        )
            .into_pyobject(py)
    }
}
