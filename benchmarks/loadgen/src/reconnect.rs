//! Short connections: connect, echo one message, close.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use mio::{Events, Interest, Poll, Token};

use crate::pattern::{Pattern, MAX_SLICE};
use crate::phase::{wait, Limit, Phase, Progress};
use crate::stream::{Connector, Stream};

/// A connection's message begins at another position of the pattern than the one before.
const STRIDE: u64 = 7919;

/// A server that stays silent for this long with connections under way is taken for stalled.
const STALL: Duration = Duration::from_secs(5);

struct Connection {
    stream: Stream,
    start: Instant,
    /// Where its message begins in the pattern.
    origin: u64,
    sent: u64,
    received: u64,
    finished: bool,
}

/// A client that keeps a number of short connections under way.
pub struct Reconnecting {
    connector: Connector,
    poll: Poll,
    events: Events,
    slots: Vec<Option<Connection>>,
    pattern: Pattern,
    buffer: Vec<u8>,
    size: u64,
    origin: u64,
}

impl Reconnecting {
    /// Keeps `connections` under way at a time; each sends and receives `size` bytes.
    ///
    /// # Errors
    ///
    /// When the poller can't be set up, or the server has no connections.
    pub fn new(connector: Connector, connections: usize, size: u64) -> Result<Self> {
        ensure!(!connector.is_datagram(), "UDP has no connections");
        ensure!(size <= MAX_SLICE as u64, "messages are too long");
        Ok(Self {
            connector,
            poll: Poll::new()?,
            events: Events::with_capacity(connections.max(64)),
            slots: std::iter::repeat_with(|| None).take(connections).collect(),
            pattern: Pattern::default(),
            buffer: vec![0; 64 * 1024],
            size,
            origin: 0,
        })
    }

    /// Makes connections until `limit`, then waits for those under way. A connection counts as a
    /// message, and its latency reaches from connecting to the end of the server's stream.
    ///
    /// # Errors
    ///
    /// When the server refuses a connection, changes a byte, or stays silent for too long.
    pub fn run(&mut self, limit: Limit) -> Result<Phase> {
        let begin = Instant::now();
        let mut progress = Progress::new(limit, begin)?;
        let mut end = begin;
        for index in 0..self.slots.len() {
            end = self.advance(index, end, &mut progress)?;
        }
        while progress.goes_on() {
            if !wait(&mut self.poll, &mut self.events, STALL)? {
                let ended = |slot: &Option<Connection>| slot.as_ref().is_some_and(|c| c.finished);
                ensure!(
                    !self.slots.iter().any(ended),
                    "the server leaves connections open that the client has ended"
                );
                bail!("no reply for {STALL:?}");
            }
            let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
            for event in &events {
                end = self.advance(event.token().0, end, &mut progress)?;
            }
            self.events = events;
        }
        Ok(progress.end(end))
    }

    /// Takes a slot as far as it goes without waiting, through as many connections as it can.
    fn advance(
        &mut self,
        index: usize,
        mut now: Instant,
        progress: &mut Progress,
    ) -> Result<Instant> {
        loop {
            if self.slots[index].is_none() {
                if !progress.may_start(now) {
                    return Ok(now);
                }
                progress.start();
                self.slots[index] = Some(self.connect(index)?);
            }
            let Some(connection) = &mut self.slots[index] else {
                return Ok(now);
            };
            match connection.step(&self.pattern, self.size, &mut self.buffer) {
                Ok(()) => {}
                Err(error) if is_wait(&error) => return Ok(now),
                Err(error) => return Err(error.context("connect, echo, close")),
            }
            now = Instant::now();
            progress.finish(connection.start, now)?;
            self.slots[index] = None;
        }
    }

    fn connect(&mut self, index: usize) -> Result<Connection> {
        let start = Instant::now();
        let mut stream = self.connector.connect().context("connect")?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut stream, Token(index), interest)?;
        self.origin += STRIDE;
        Ok(Connection {
            stream,
            start,
            origin: self.origin,
            sent: 0,
            received: 0,
            finished: false,
        })
    }
}

fn is_wait(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::WouldBlock)
}

impl Connection {
    /// Goes on to the end of the connection, or to a would-block error.
    fn step(&mut self, pattern: &Pattern, size: u64, buffer: &mut [u8]) -> Result<()> {
        while self.sent < size {
            let bytes = pattern.slice(self.origin + self.sent, size - self.sent);
            self.sent += self.stream.write(bytes)? as u64;
        }
        while self.received < size {
            let count = self.stream.read(buffer)?;
            ensure!(count > 0, "the server closed without an echo");
            let expected = pattern.slice(self.origin + self.received, count as u64);
            ensure!(buffer[..count] == *expected, "wrong bytes");
            self.received += count as u64;
        }
        ensure!(self.received == size, "more bytes than were sent");
        if !self.finished {
            self.finished = true;
            self.stream.finish()?;
        }
        match self.stream.read(buffer) {
            Ok(0) => Ok(()),
            Ok(_) => bail!("more bytes than were sent"),
            // TLS: the server may leave out its farewell.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
