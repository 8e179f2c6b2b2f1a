//! Readiness of descriptors.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hybridloop_sync::fork::Process;
use mio::{Events, Poll, Waker};

use crate::interest::Interest;
use crate::registry::Token;
use crate::sys;

/// The greatest number of events of one poll; more come with the next poll.
const EVENTS: usize = 512;
const WAKER: mio::Token = mio::Token(usize::MAX);

/// A source that became ready. Errors and hang-ups count as readiness in both directions, so that every waiter sees them.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The source's token.
    pub token: Token,
    /// A read does not block.
    pub readable: bool,
    /// A write does not block.
    pub writable: bool,
    /// The peer has shut down its side, the connection failed, or there is urgent data. A short read then does not mean that
    /// the socket is drained: EOF, an error or data follows.
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

/// Wakes a poller from any thread.
#[derive(Clone)]
pub struct WakeHandle {
    waker: Arc<Waker>,
    process: Process,
}

impl WakeHandle {
    /// Ends the current poll or the next one.
    ///
    /// # Errors
    /// If the descriptor of the waker cannot be written to.
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
    /// The descriptor of the selector, which is readable as long as a poll would find events.
    #[must_use]
    pub fn selector(&self) -> RawFd {
        self.selector
    }

    /// Registers `fd` edge-triggered: an event per change of readiness. `registered` says that the descriptor is registered
    /// already.
    ///
    /// # Errors
    /// Those of the selector: a descriptor that is closed or cannot be polled, or a selector that is closed.
    pub fn register_edge(
        &self,
        fd: RawFd,
        token: Token,
        interest: Interest,
        registered: bool,
    ) -> io::Result<()> {
        check_process(self.process)?;
        sys::register(self.selector, fd, token.0, interest, true, registered)
    }

    /// Registers `fd` level-triggered: an event per poll as long as it is ready. `registered` says that the descriptor is
    /// registered already.
    ///
    /// # Errors
    /// Those of the selector: a descriptor that is closed or cannot be polled, or a selector that is closed.
    pub fn register_level(
        &self,
        fd: RawFd,
        token: Token,
        interest: Interest,
        registered: bool,
    ) -> io::Result<()> {
        check_process(self.process)?;
        sys::register(self.selector, fd, token.0, interest, false, registered)
    }

    /// Removes `fd`. In the child of a fork it does nothing: the registration belongs to the parent.
    ///
    /// # Errors
    /// Those of the selector. A descriptor that is closed or not registered is no error.
    pub fn deregister(&self, fd: RawFd) -> io::Result<()> {
        if !self.process.is_current() {
            return Ok(());
        }
        sys::deregister(self.selector, fd)
    }
}

/// mio's poll, with level-triggered registration as well.
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
    /// If the system has no descriptor left.
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

    /// A handle that wakes the poller.
    #[must_use]
    pub fn waker(&self) -> WakeHandle {
        self.waker.clone()
    }

    /// A handle that registers descriptors. It must not be used after the poller is dropped.
    #[must_use]
    pub fn registrar(&self) -> Registrar {
        Registrar {
            selector: self.poll.as_raw_fd(),
            process: self.process,
        }
    }

    /// Waits until a source is ready, the poller is woken, or the timeout is over. [`events`](Self::events) are then those of this
    /// poll.
    ///
    /// `None` waits without a timeout. A timeout is rounded up to the resolution of the selector (1 ms).
    ///
    /// # Errors
    /// [`io::ErrorKind::Interrupted`] after a signal, or another error of the selector.
    pub fn poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        check_process(self.process)?;
        self.poll.poll(&mut self.events, timeout)
    }

    /// Polls without waiting, again and again for `time`, until there is an event or a wake-up, or `is_over` returns true.
    /// Returns whether one of these ended it.
    ///
    /// # Errors
    /// As [`Poller::poll`].
    pub fn busy_poll(&mut self, time: Duration, is_over: impl Fn() -> bool) -> io::Result<bool> {
        let begin = Instant::now();
        loop {
            self.poll(Some(Duration::ZERO))?;
            if !self.events.is_empty() || is_over() {
                return Ok(true);
            }
            if begin.elapsed() >= time {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
    }

    /// The events of the last poll, if it has not failed.
    #[inline]
    pub fn events(&self) -> impl Iterator<Item = Event> + '_ {
        self.events
            .iter()
            .filter(|event| event.token() != WAKER)
            .map(|event| {
                let closed = event.is_read_closed() || event.is_error() || event.is_priority();
                Event {
                    token: Token(event.token().0 as u64),
                    readable: event.is_readable() || closed,
                    writable: event.is_writable() || closed || event.is_write_closed(),
                    closed,
                }
            })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::Registry;

    fn poll(poller: &mut Poller) -> Vec<Event> {
        poller.poll(Some(Duration::ZERO)).unwrap();
        poller.events().collect()
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
        let tokens = |events: Vec<Event>| events.iter().map(|e| e.token).collect::<Vec<_>>();
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
        poller.poll(None).unwrap();
        assert_eq!(poller.events().count(), 0);
        thread.join().unwrap().unwrap();
    }
}
