//! Readiness of descriptors.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use hybridloop_sync::fork::Process;
use mio::{Events, Poll, Waker};

use crate::registry::Token;
use crate::sys;

/// How many events one poll takes at most; the rest come with the next.
const EVENTS: usize = 512;
const WAKER: mio::Token = mio::Token(usize::MAX);

/// What a source wants to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Data or end of file can be read, or a connection accepted.
    pub readable: bool,
    /// Data can be written, or a connect has ended.
    pub writable: bool,
}

impl Interest {
    /// Both directions.
    pub const BOTH: Self = Self {
        readable: true,
        writable: true,
    };

    /// Reading alone.
    pub const READ: Self = Self {
        readable: true,
        writable: false,
    };
}

/// One source that became ready. Errors and hang-ups count for both directions, so that whoever waits finds out.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The source's token.
    pub token: Token,
    /// Reading would not block.
    pub readable: bool,
    /// Writing would not block.
    pub writable: bool,
    /// The peer has ended its side, the connection failed, or there is urgent data: a read that comes back short is not
    /// the last, because an end of file, an error or data is still behind it.
    pub closed: bool,
}

/// Refuses in the child of a fork, which shares the selector: what it changed there would change for the parent.
#[inline]
fn check_process(process: Process) -> io::Result<()> {
    if process.is_current() {
        return Ok(());
    }
    Err(io::Error::other(
        "this event loop was made before a fork and belongs to the parent process; make a new one",
    ))
}

/// Ends a poll from any thread.
#[derive(Clone)]
pub struct WakeHandle {
    waker: Arc<Waker>,
    process: Process,
}

impl WakeHandle {
    /// Ends the poll under way, or the next one.
    ///
    /// # Errors
    /// When the descriptor behind the waker can't be written to.
    pub fn wake(&self) -> io::Result<()> {
        if !self.process.is_current() {
            return Ok(());
        }
        self.waker.wake()
    }
}

/// Registers descriptors with a [`Poller`], from any thread and while it polls.
#[derive(Clone, Copy, Debug)]
pub struct Registrar {
    selector: RawFd,
    process: Process,
}

impl Registrar {
    /// The selector's own descriptor, which can be read while a poll would find something.
    #[must_use]
    pub fn selector(&self) -> RawFd {
        self.selector
    }

    /// Registers `fd` for as long as it lives: one event per change of readiness.
    ///
    /// `known` tells that the descriptor has a registration already.
    ///
    /// # Errors
    /// Those of the system's selector: a closed descriptor, one that can't be polled, a poller that is gone.
    pub fn register_edge(
        &self,
        fd: RawFd,
        token: Token,
        interest: Interest,
        known: bool,
    ) -> io::Result<()> {
        check_process(self.process)?;
        sys::register(self.selector, fd, token.0, interest, true, known)
    }

    /// Registers `fd` for as long as it is ready: an event per poll.
    ///
    /// # Errors
    /// As [`Registrar::register_edge`].
    pub fn register_level(
        &self,
        fd: RawFd,
        token: Token,
        interest: Interest,
        known: bool,
    ) -> io::Result<()> {
        check_process(self.process)?;
        sys::register(self.selector, fd, token.0, interest, false, known)
    }

    /// Takes `fd` out.
    ///
    /// # Errors
    /// When the system refuses; a descriptor that is closed or unknown is no error. In the child of a fork nothing is
    /// done: the registration is the parent's.
    pub fn deregister(&self, fd: RawFd) -> io::Result<()> {
        if !self.process.is_current() {
            return Ok(());
        }
        sys::deregister(self.selector, fd)
    }
}

/// mio's poll with level-triggered registration beside its edges.
pub struct Poller {
    process: Process,
    poll: Poll,
    events: Events,
    waker: WakeHandle,
}

impl Poller {
    /// Opens the selector and its waker.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let process = Process::current();
        let waker = WakeHandle {
            waker: Arc::new(Waker::new(poll.registry(), WAKER)?),
            process,
        };
        Ok(Self {
            process,
            poll,
            events: Events::with_capacity(EVENTS),
            waker,
        })
    }

    /// A handle that ends polls.
    #[must_use]
    pub fn waker(&self) -> WakeHandle {
        self.waker.clone()
    }

    /// What registers descriptors; it must not be used once the poller is dropped.
    #[must_use]
    pub fn registrar(&self) -> Registrar {
        Registrar {
            selector: self.poll.as_raw_fd(),
            process: self.process,
        }
    }

    /// Waits until a source is ready, the waker is used or the time is over, and adds what is ready to `into`.
    ///
    /// `None` waits without limit. The time is rounded up to the selector's resolution (1 ms).
    ///
    /// # Errors
    /// [`io::ErrorKind::Interrupted`] when a signal came in, or what else the selector says.
    pub fn poll(
        &mut self,
        timeout: Option<Duration>,
        into: &mut VecDeque<Event>,
    ) -> io::Result<()> {
        check_process(self.process)?;
        self.poll.poll(&mut self.events, timeout)?;
        for event in &self.events {
            if event.token() == WAKER {
                continue;
            }
            let closed = event.is_read_closed() || event.is_error() || event.is_priority();
            into.push_back(Event {
                token: Token(event.token().0 as u64),
                readable: event.is_readable() || closed,
                writable: event.is_writable() || closed || event.is_write_closed(),
                closed,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::Registry;

    fn poll(poller: &mut Poller) -> VecDeque<Event> {
        let mut events = VecDeque::new();
        poller.poll(Some(Duration::ZERO), &mut events).unwrap();
        events
    }

    #[test]
    fn edges_come_once_and_levels_again() {
        let mut poller = Poller::new().unwrap();
        let registrar = poller.registrar();
        let mut registry = Registry::new();
        let (edge, mut edge_peer) = UnixStream::pair().unwrap();
        let (mut level, mut level_peer) = UnixStream::pair().unwrap();
        let (a, b) = (registry.insert(()), registry.insert(()));
        registrar
            .register_edge(edge.as_raw_fd(), a, Interest::BOTH, false)
            .unwrap();
        let read = Interest {
            readable: true,
            writable: false,
        };
        registrar
            .register_level(level.as_raw_fd(), b, read, false)
            .unwrap();
        let first = poll(&mut poller);
        assert!(first
            .iter()
            .any(|e| e.token == a && e.writable && !e.readable));

        edge_peer.write_all(b"x").unwrap();
        level_peer.write_all(b"x").unwrap();
        let tokens = |events: VecDeque<Event>| events.iter().map(|e| e.token).collect::<Vec<_>>();
        let both = tokens(poll(&mut poller));
        assert!(both.contains(&a) && both.contains(&b));
        assert_eq!(tokens(poll(&mut poller)), [b], "only the level repeats");
        level.read_exact(&mut [0]).unwrap();
        assert!(poll(&mut poller).is_empty());

        drop(edge_peer);
        let end = poll(&mut poller);
        assert!(end.iter().any(|e| e.token == a && e.closed && e.readable));
    }

    #[test]
    fn registration_heals_itself_when_a_number_is_used_again() {
        let poller = Poller::new().unwrap();
        let registrar = poller.registrar();
        let mut registry = Registry::new();
        let token = registry.insert(());
        let (left, _peer) = UnixStream::pair().unwrap();
        let fd = left.as_raw_fd();
        registrar
            .register_edge(fd, token, Interest::BOTH, true)
            .unwrap();
        registrar
            .register_edge(fd, token, Interest::BOTH, false)
            .unwrap();
        registrar.deregister(fd).unwrap();
        registrar.deregister(fd).unwrap();
        drop(left);
        assert!(registrar
            .register_edge(fd, token, Interest::BOTH, false)
            .is_err());
    }

    #[test]
    fn the_waker_ends_a_poll_from_another_thread() {
        let mut poller = Poller::new().unwrap();
        let waker = poller.waker();
        let thread = std::thread::spawn(move || waker.wake());
        let mut events = VecDeque::new();
        poller.poll(None, &mut events).unwrap();
        assert!(events.is_empty());
        thread.join().unwrap().unwrap();
    }
}
