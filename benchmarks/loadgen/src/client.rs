//! Standing connections on one thread: sends messages, checks every byte that comes back.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use mio::{Events, Interest, Poll, Token};

use crate::pattern::Pattern;
use crate::phase::{wait, Limit, Phase, Progress};
use crate::stream::{Connector, Stream};

/// The most that one datagram holds over IPv4.
const MAX_DATAGRAM: u64 = 65_507;

/// A server that stays silent for this long with messages under way is taken for stalled.
const STALL: Duration = Duration::from_secs(10);

/// Connections start at different positions of the pattern, so that bytes that cross over from
/// one connection to another are noticed.
const CONNECTION_STRIDE: u64 = 7919;

struct Connection {
    stream: Stream,
    /// Stream positions: bytes given to the kernel, bytes of started messages, bytes received.
    sent: u64,
    started: u64,
    received: u64,
    /// Where the oldest message under way ends, and when each message under way started.
    message_end: u64,
    starts: VecDeque<Instant>,
}

/// A set of connections to one echo server.
pub struct Client {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    pattern: Pattern,
    buffer: Vec<u8>,
    size: u64,
    depth: usize,
    think: Duration,
}

impl Client {
    /// Opens `connections` connections; each keeps up to `depth` messages of `size` bytes under
    /// way, and pauses for `think` between replies and the next messages.
    ///
    /// # Errors
    ///
    /// When a connection can't be made or the poller can't be set up, or when messages do not fit
    /// into datagrams. Only one datagram may be under way: more could change their order.
    pub fn connect(
        connector: &Connector,
        connections: usize,
        size: u64,
        depth: usize,
        think: Duration,
    ) -> Result<Self> {
        if connector.is_datagram() {
            ensure!(
                size <= MAX_DATAGRAM,
                "a datagram holds {MAX_DATAGRAM} bytes"
            );
            ensure!(depth == 1, "one datagram at a time");
        }
        let poll = Poll::new()?;
        let mut client = Self {
            events: Events::with_capacity(connections.max(64)),
            connections: Vec::with_capacity(connections),
            pattern: Pattern::default(),
            buffer: vec![0; 256 * 1024],
            poll,
            size,
            depth,
            think,
        };
        let mut origin = 0;
        for index in 0..connections {
            let mut stream = connector
                .connect()
                .with_context(|| format!("connection {index}"))?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            client
                .poll
                .registry()
                .register(&mut stream, Token(index), interest)?;
            client.connections.push(Connection {
                stream,
                sent: origin,
                started: origin,
                received: origin,
                message_end: origin + size,
                starts: VecDeque::with_capacity(depth),
            });
            origin += CONNECTION_STRIDE;
        }
        Ok(client)
    }

    /// Echoes messages until `limit`, then waits for those under way.
    ///
    /// # Errors
    ///
    /// When the server changes a byte, closes a connection, or stays silent for too long.
    pub fn run(&mut self, limit: Limit) -> Result<Phase> {
        let begin = Instant::now();
        let mut progress = Progress::new(limit, begin)?;
        for index in 0..self.connections.len() {
            self.advance(index, begin, &mut progress)?;
        }
        let mut end = begin;
        while progress.goes_on() {
            let replied = wait(&mut self.poll, &mut self.events, STALL)?;
            ensure!(replied, "no reply for {STALL:?}");
            let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
            let finished = progress.finished;
            for event in &events {
                let index = event.token().0;
                if event.is_readable() || event.is_read_closed() {
                    end = self.receive(index, event.is_read_closed(), &mut progress)?;
                }
                if self.think.is_zero() {
                    self.advance(index, end, &mut progress)?;
                }
            }
            if !self.think.is_zero() {
                if progress.finished > finished && progress.may_start(end) {
                    std::thread::sleep(self.think);
                }
                let now = Instant::now();
                for event in &events {
                    self.advance(event.token().0, now, &mut progress)?;
                }
            }
            self.events = events;
        }
        Ok(progress.end(end))
    }

    /// Starts the messages that may start and hands their bytes to the kernel.
    fn advance(&mut self, index: usize, now: Instant, progress: &mut Progress) -> Result<()> {
        let connection = &mut self.connections[index];
        while connection.starts.len() < self.depth && progress.may_start(now) {
            connection.starts.push_back(now);
            connection.started += self.size;
            progress.start();
        }
        while connection.sent < connection.started {
            let unsent = connection.started - connection.sent;
            let bytes = self.pattern.slice(connection.sent, unsent);
            match connection.stream.write(bytes) {
                Ok(count) => connection.sent += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("write to connection {index}"))
                }
            }
        }
        match connection.stream.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                Err(error).with_context(|| format!("write to connection {index}"))
            }
            _ => Ok(()),
        }
    }

    /// Reads and checks what has arrived; returns the time of the last read. With `closed`, reads
    /// to the end of the stream.
    fn receive(&mut self, index: usize, closed: bool, progress: &mut Progress) -> Result<Instant> {
        let connection = &mut self.connections[index];
        loop {
            let count = match connection.stream.read(&mut self.buffer) {
                Ok(0) => bail!("the server closed connection {index}"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Instant::now()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(error).with_context(|| format!("read from connection {index}"))
                }
            };
            let expected = self.pattern.slice(connection.received, count as u64);
            ensure!(
                self.buffer[..count] == *expected,
                "connection {index} echoed wrong bytes after {} good ones",
                connection.received
            );
            connection.received += count as u64;
            ensure!(
                connection.received <= connection.sent,
                "connection {index} echoed more bytes than it was sent"
            );
            let now = Instant::now();
            while connection.received >= connection.message_end {
                let Some(start) = connection.starts.pop_front() else {
                    break;
                };
                progress.finish(start, now)?;
                connection.message_end += self.size;
            }
            if count < self.buffer.len() && connection.stream.short_read_drains() && !closed {
                return Ok(now);
            }
        }
    }
}
