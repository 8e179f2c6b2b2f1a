//! Echo connections on one thread: sends messages, checks every byte that comes back.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::pattern::Pattern;

/// A server that stays silent for this long with messages under way is taken for stalled.
const STALL: Duration = Duration::from_secs(20);

/// Connections start at different positions of the pattern, so that bytes that cross over from
/// one connection to another are noticed.
const CONNECTION_STRIDE: u64 = 7919;

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

struct Connection {
    stream: TcpStream,
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

struct Progress {
    limit: Limit,
    begin: Instant,
    started: u64,
    finished: u64,
    latency: Histogram<u64>,
}

impl Progress {
    fn may_start(&self, now: Instant) -> bool {
        match self.limit {
            Limit::Messages(count) => self.started < count,
            Limit::Time(time) => now.duration_since(self.begin) < time,
        }
    }
}

impl Client {
    /// Opens `connections` connections; each keeps up to `depth` messages of `size` bytes under
    /// way, and pauses for `think` between replies and the next messages.
    ///
    /// # Errors
    ///
    /// When a connection can't be made or the poller can't be set up.
    pub fn connect(
        address: SocketAddr,
        connections: usize,
        size: u64,
        depth: usize,
        think: Duration,
    ) -> Result<Self> {
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
            let stream = std::net::TcpStream::connect(address)
                .with_context(|| format!("connection {index} to {address}"))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
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
        let mut progress = Progress {
            limit,
            begin,
            started: 0,
            finished: 0,
            latency: Histogram::new_with_bounds(1, 3_600_000_000_000, 3)?,
        };
        for index in 0..self.connections.len() {
            self.advance(index, begin, &mut progress)?;
        }
        let mut end = begin;
        while progress.finished < progress.started {
            self.wait()?;
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
        Ok(Phase {
            messages: progress.finished,
            elapsed: end.duration_since(begin),
            latency: progress.latency,
        })
    }

    fn wait(&mut self) -> Result<()> {
        loop {
            match self.poll.poll(&mut self.events, Some(STALL)) {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        ensure!(!self.events.is_empty(), "no reply for {STALL:?}");
        Ok(())
    }

    /// Starts the messages that may start and hands their bytes to the kernel.
    fn advance(&mut self, index: usize, now: Instant, progress: &mut Progress) -> Result<()> {
        let connection = &mut self.connections[index];
        while connection.starts.len() < self.depth && progress.may_start(now) {
            connection.starts.push_back(now);
            connection.started += self.size;
            progress.started += 1;
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
        Ok(())
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
                let nanoseconds = u64::try_from(now.duration_since(start).as_nanos())?;
                progress.latency.saturating_record(nanoseconds);
                progress.finished += 1;
                connection.message_end += self.size;
            }
            // A short read drains the socket: the next bytes raise a new edge.
            if count < self.buffer.len() && !closed {
                return Ok(now);
            }
        }
    }
}
