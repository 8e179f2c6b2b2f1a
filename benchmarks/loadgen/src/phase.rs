//! What a phase of load does, when it ends and what it measured.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use mio::{Events, Poll};

/// When a phase stops starting messages. Messages under way are still awaited and counted.
#[derive(Clone, Copy)]
pub enum Limit {
    /// After this many messages over all connections.
    Messages(u64),
    /// After this time.
    Time(Duration),
}

/// What a phase did.
pub struct Phase {
    /// Messages that came back whole and unchanged.
    pub messages: u64,
    /// From the first send to the last byte received.
    pub elapsed: Duration,
    /// Nanoseconds from the start of a message's send to its last byte received.
    pub latency: Histogram<u64>,
}

/// A phase while it goes on.
pub(crate) struct Progress {
    limit: Limit,
    begin: Instant,
    started: u64,
    pub(crate) finished: u64,
    latency: Histogram<u64>,
}

impl Progress {
    pub(crate) fn new(limit: Limit, begin: Instant) -> Result<Self> {
        Ok(Self {
            limit,
            begin,
            started: 0,
            finished: 0,
            latency: Histogram::new_with_bounds(1, 3_600_000_000_000, 3)?,
        })
    }

    pub(crate) fn may_start(&self, now: Instant) -> bool {
        match self.limit {
            Limit::Messages(count) => self.started < count,
            Limit::Time(time) => now.duration_since(self.begin) < time,
        }
    }

    pub(crate) fn start(&mut self) {
        self.started += 1;
    }

    pub(crate) fn finish(&mut self, start: Instant, now: Instant) -> Result<()> {
        let nanoseconds = u64::try_from(now.duration_since(start).as_nanos())?;
        self.latency.saturating_record(nanoseconds);
        self.finished += 1;
        Ok(())
    }

    /// Whether messages are under way.
    pub(crate) fn goes_on(&self) -> bool {
        self.finished < self.started
    }

    pub(crate) fn end(self, end: Instant) -> Phase {
        Phase {
            messages: self.finished,
            elapsed: end.duration_since(self.begin),
            latency: self.latency,
        }
    }
}

/// Waits for events; false when there are none for `time`.
pub(crate) fn wait(poll: &mut Poll, events: &mut Events, time: Duration) -> Result<bool> {
    loop {
        match poll.poll(events, Some(time)) {
            Ok(()) => return Ok(!events.is_empty()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}
