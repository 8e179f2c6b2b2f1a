//! A descriptor that the program watches: its callbacks and futures, and its registration.

use std::os::fd::RawFd;

use hybridloop_reactor::{Event, Interest};
use pyo3::ffi::PyObject;

use crate::event_loop::{exceptions, LoopCore};
use crate::python::handle::{HandleRef, CANCELLED, RUNNING};
use crate::python::refs::WeakRef;
use crate::python::unstable::socket_fd::still_open;
use crate::python::{future, FfiResult, Ref};

/// One direction of a watched descriptor.
#[derive(Default)]
pub struct Direction {
    /// Set by `add_reader`/`add_writer`: runs in each iteration in which the descriptor is ready.
    pub callback: Option<HandleRef>,
    /// The callback was due again before it has returned, as it runs the loop or waits. It is not called twice at a time, so
    /// the direction is not registered until it returns.
    busy: bool,
    /// Futures of `sock_*` calls, resolved at the next readiness.
    pub waiters: Waiters,
}

impl Direction {
    /// Replaces the callback, and returns the previous one.
    pub fn set_callback(&mut self, callback: Option<HandleRef>) -> Option<HandleRef> {
        self.busy = false;
        std::mem::replace(&mut self.callback, callback)
    }

    fn is_wanted(&self) -> bool {
        self.callback.is_some() && !self.busy || !self.waiters.is_empty()
    }

    /// The callback for an event, unless it runs.
    fn due(&mut self) -> Option<HandleRef> {
        let callback = self.callback.as_ref()?;
        self.busy = callback.has(RUNNING);
        (!self.busy).then(|| callback.clone())
    }
}

/// Futures in order of registration: mostly one.
#[derive(Default)]
pub struct Waiters {
    first: Option<Ref>,
    more: Vec<Ref>,
}

impl Waiters {
    /// Adds a future, or returns it if there is no memory for it.
    #[inline]
    pub fn push(&mut self, future: Ref) -> Result<(), Ref> {
        if self.first.is_none() {
            self.first = Some(future);
        } else if self.more.try_reserve(1).is_ok() {
            self.more.push(future);
        } else {
            return Err(future);
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Removes a future; the others keep their order.
    pub fn remove(&mut self, future: &Ref) -> Option<Ref> {
        let is_future = |waiter: &Ref| waiter.as_ptr() == future.as_ptr();
        if self.first.as_ref().is_some_and(is_future) {
            let next = (!self.more.is_empty()).then(|| self.more.remove(0));
            return std::mem::replace(&mut self.first, next);
        }
        let at = self.more.iter().position(is_future)?;
        Some(self.more.remove(at))
    }

    fn iter(&self) -> impl Iterator<Item = &Ref> {
        self.first.iter().chain(&self.more)
    }
}

/// The callbacks and futures of one descriptor.
pub struct FdWatcher {
    fd: RawFd,
    /// The file object of `add_reader`/`add_writer`, unless it was a number. It is kept while there is a callback, as by
    /// `selectors`: a closed file is found by it, and it shows whether the number now belongs to another file.
    file: Option<Ref>,
    pub read: Direction,
    pub write: Direction,
    /// The socket whose `sock_*` calls keep the registration. It shows whether the number now belongs to another socket.
    pub socket: Option<WeakRef>,
    /// The last read found no more data, and no edge has come since. Valid in [`Mode::Edge`] only.
    pub drained: bool,
    /// A short read means that the socket is drained.
    pub short_read_drains: bool,
}

/// The owner of a watched descriptor.
pub enum Owner {
    /// The file object of `add_reader`/`add_writer`.
    File(Ref),
    /// The socket whose calls keep the registration.
    Socket(WeakRef),
    /// Only the number was given.
    Unknown,
}

impl Owner {
    /// `fd` while its owner has it, −1 afterwards. It may run Python.
    pub fn open_fd(&self, fd: RawFd) -> RawFd {
        // SAFETY: methods and the thread of the loop call this attached; `self` holds the objects.
        unsafe {
            match self {
                Self::File(file) => still_open(file.as_ptr(), fd),
                Self::Socket(weak) => weak
                    .upgrade()
                    .map_or(-1, |socket| still_open(socket.as_ptr(), fd)),
                Self::Unknown => fd,
            }
        }
    }
}

/// How a watched descriptor is registered.
#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    Unregistered,
    Edge,
    Level(Interest),
    /// Neither direction may be reported until a callback returns.
    Suspended,
}

impl Mode {
    pub fn is_registered(self) -> bool {
        matches!(self, Self::Edge | Self::Level(_))
    }
}

impl FdWatcher {
    pub fn new(fd: RawFd) -> Self {
        Self {
            fd,
            file: None,
            read: Direction::default(),
            write: Direction::default(),
            socket: None,
            drained: false,
            short_read_drains: false,
        }
    }

    pub fn fd(&self) -> RawFd {
        self.fd
    }

    pub fn file(&self) -> Option<Ref> {
        self.file.clone()
    }

    /// Whether `file` is the watched file object.
    pub fn is_for(&self, file: *mut PyObject) -> bool {
        self.file.as_ref().is_some_and(|own| own.as_ptr() == file)
    }

    /// Stores the file object of the first callback. Returns the object that is not stored, for the caller to drop.
    pub fn set_file(&mut self, file: Option<Ref>) -> Option<Ref> {
        if self.has_callback() {
            return file;
        }
        std::mem::replace(&mut self.file, file)
    }

    /// Takes the file object out, if there is no callback.
    pub fn take_unused_file(&mut self) -> Option<Ref> {
        if self.has_callback() {
            None
        } else {
            self.file.take()
        }
    }

    fn has_callback(&self) -> bool {
        self.read.callback.is_some() || self.write.callback.is_some()
    }

    /// The owner of the descriptor, if it is known.
    pub fn owner(&self) -> Owner {
        match (&self.file, &self.socket) {
            (Some(file), _) => Owner::File(file.clone()),
            (None, Some(socket)) if !self.has_callback() => Owner::Socket(socket.clone()),
            _ => Owner::Unknown,
        }
    }

    pub fn direction(&mut self, write: bool) -> &mut Direction {
        if write {
            &mut self.write
        } else {
            &mut self.read
        }
    }

    /// The mode to register: level-triggered for callbacks, edge-triggered for `sock_*` calls. Calls with an object that
    /// supports no weak references are level-triggered, until their futures are resolved.
    pub fn mode(&self) -> Mode {
        let (readable, writable) = (self.read.is_wanted(), self.write.is_wanted());
        if self.is_edge() {
            Mode::Edge
        } else if readable || writable {
            Mode::Level(Interest { readable, writable })
        } else if self.has_callback() {
            Mode::Suspended
        } else {
            Mode::Unregistered
        }
    }

    /// Whether `sock_*` calls wait.
    pub fn has_waiters(&self) -> bool {
        !self.read.waiters.is_empty() || !self.write.waiters.is_empty()
    }

    /// Whether the mode is [`Mode::Edge`].
    #[inline]
    pub fn is_edge(&self) -> bool {
        self.socket.is_some() && !self.has_callback()
    }

    pub fn refs(&self) -> impl Iterator<Item = &Ref> {
        [&self.read, &self.write]
            .into_iter()
            .flat_map(|direction| {
                direction
                    .callback
                    .iter()
                    .map(HandleRef::as_object)
                    .chain(direction.waiters.iter())
            })
            .chain(self.socket.as_ref().map(WeakRef::object))
            .chain(&self.file)
    }

    /// The callbacks that were not called because they had not returned may be called again. Returns the mode before, if there
    /// is one that has returned.
    pub fn resume(&mut self) -> Option<Mode> {
        let before = self.mode();
        for direction in [&mut self.read, &mut self.write] {
            let runs = |callback: &HandleRef| callback.has(RUNNING);
            direction.busy = direction.busy && direction.callback.as_ref().is_some_and(runs);
        }
        (self.mode() != before).then_some(before)
    }

    /// The callbacks and futures of an event, as owned references.
    pub fn ready(&mut self, event: Event) -> Ready {
        let before = self.mode();
        if event.readable {
            self.drained = false;
        }
        if event.closed {
            // The event reported EOF or an error, so a short read does not mean drained.
            self.short_read_drains = false;
        }
        let take = |on: bool, direction: &mut Direction| {
            if on {
                (direction.due(), std::mem::take(&mut direction.waiters))
            } else {
                (None, Waiters::default())
            }
        };
        let (reader, readers) = take(event.readable, &mut self.read);
        let (writer, writers) = take(event.writable, &mut self.write);
        // A level-triggered event that nothing waits for would be reported in every poll.
        let busy = self.read.busy || self.write.busy;
        let changed = (busy || !(readers.is_empty() && writers.is_empty()))
            && matches!(before, Mode::Level(_));
        Ready {
            fd: self.fd,
            busy,
            callbacks: [reader, writer],
            waiters: [readers, writers],
            stale: changed.then_some(before),
        }
    }
}

/// The callbacks and futures of an event, taken out of the table.
pub struct Ready {
    fd: RawFd,
    /// A callback of the descriptor is not called because it has not returned.
    busy: bool,
    callbacks: [Option<HandleRef>; 2],
    waiters: [Waiters; 2],
    /// The mode before the event, if that may have changed it.
    stale: Option<Mode>,
}

impl Ready {
    pub fn run(self, core: &LoopCore, object: *mut PyObject) -> FfiResult<()> {
        if self.busy {
            core.stacks.busy_watchers.set(true);
        }
        let (fd, switches) = (self.fd, core.stacks.switches.get());
        if let Some(before) = self.stale {
            // It does nothing if the descriptor has been removed.
            exceptions::report_unless_fatal(object, core.rearm(fd, before))?;
        }
        for waiters in &self.waiters {
            for waiter in waiters.iter() {
                exceptions::report_unless_fatal(object, future::resolve(waiter))?;
            }
        }
        for handle in self.callbacks.into_iter().flatten() {
            // If the first callback has waited, the second one may have run: the next poll tells whether it is due.
            if !handle.has(CANCELLED) && core.stacks.switches.get() == switches {
                let result = core.run_handle(object, handle);
                if core.stacks.busy_watchers.get() {
                    exceptions::report_unless_fatal(object, core.resume_watchers(fd))?;
                }
                result?;
            }
        }
        Ok(())
    }
}
