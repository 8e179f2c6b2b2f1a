//! One descriptor of the user: who waits for it, and how it is registered for that.

use std::os::fd::RawFd;

use hybridloop_reactor::{Event, Interest};
use pyo3::ffi::PyObject;

use crate::event_loop::{exceptions, LoopCore};
use crate::python::handle::{HandleRef, CANCELLED};
use crate::python::refs::WeakRef;
use crate::python::unstable::socket_fd::still_open;
use crate::python::{future, FfiResult, Ref};

/// One direction of a watched descriptor.
#[derive(Default)]
pub struct Direction {
    /// Set by `add_reader`/`add_writer`: runs as long as the descriptor is ready.
    pub callback: Option<HandleRef>,
    /// Futures of `sock_*` calls, resolved at the next readiness.
    pub waiters: Waiters,
}

/// Futures in the order in which they came: mostly one.
#[derive(Default)]
pub struct Waiters {
    first: Option<Ref>,
    more: Vec<Ref>,
}

impl Waiters {
    /// Adds one; it comes back if there is no memory for it.
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

    /// Takes one out; the others keep their order.
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

/// What the user waits for on one descriptor.
pub struct FdWatcher {
    fd: RawFd,
    /// The file object that `add_reader`/`add_writer` was given, unless it was a number. It is kept while there is a
    /// callback, as by `selectors`: a file that is closed is found by it, and shows by it that the number is another's.
    file: Option<Ref>,
    pub read: Direction,
    pub write: Direction,
    /// The socket whose `sock_*` calls keep the registration. A number that another socket has taken
    /// over shows by this.
    pub socket: Option<WeakRef>,
    /// Nothing to read was left, and no edge has come since. Says something in [`Mode::Edge`] only.
    pub drained: bool,
    /// A read that came back short has emptied the socket.
    pub short_read_drains: bool,
}

/// Whose a watched descriptor is.
pub enum Owner {
    /// A file object that was given to `add_reader`/`add_writer`.
    File(Ref),
    /// The socket whose calls keep the registration.
    Socket(WeakRef),
    /// Only the number was given.
    Unknown,
}

impl Owner {
    /// `fd` while its owner has it, −1 afterwards. It may run Python.
    pub fn open_fd(&self, fd: RawFd) -> RawFd {
        // SAFETY: attached, as all code of the loop's table is; the objects are held here.
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

    /// Whether `file` is the object that was given.
    pub fn is_for(&self, file: *mut PyObject) -> bool {
        self.file.as_ref().is_some_and(|own| own.as_ptr() == file)
    }

    /// Keeps the object that the first callback was added with. What is not kept comes back, to be dropped.
    pub fn set_file(&mut self, file: Option<Ref>) -> Option<Ref> {
        if self.has_callback() {
            return file;
        }
        std::mem::replace(&mut self.file, file)
    }

    /// Takes the object out once there is no callback.
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

    /// Whose the descriptor is, as far as that is known.
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

    /// What to register: callbacks want to hear again and again, `sock_*` calls once per change. Those of an object that
    /// cannot be told from others of the same number are heard once.
    pub fn mode(&self) -> Mode {
        let (read, write) = (&self.read, &self.write);
        if self.is_edge() {
            Mode::Edge
        } else if self.has_callback() || self.has_waiters() {
            Mode::Level(Interest {
                readable: read.callback.is_some() || !read.waiters.is_empty(),
                writable: write.callback.is_some() || !write.waiters.is_empty(),
            })
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

    /// What an event calls for, with references of its own.
    pub fn ready(&mut self, event: Event) -> Ready {
        let before = self.mode();
        if event.readable {
            self.drained = false;
        }
        if event.closed {
            // An end or an error waits behind the data.
            self.short_read_drains = false;
        }
        let take = |on: bool, direction: &mut Direction| {
            if on {
                (
                    direction.callback.clone(),
                    std::mem::take(&mut direction.waiters),
                )
            } else {
                (None, Waiters::default())
            }
        };
        let (reader, readers) = take(event.readable, &mut self.read);
        let (writer, writers) = take(event.writable, &mut self.write);
        // A level that nobody waits for any longer would be reported for ever.
        let changed =
            !(readers.is_empty() && writers.is_empty()) && matches!(before, Mode::Level(_));
        Ready {
            callbacks: [reader, writer],
            waiters: [readers, writers],
            stale: changed.then_some((self.fd, before)),
        }
    }
}

/// What a watched descriptor has ready, out of the table.
pub struct Ready {
    callbacks: [Option<HandleRef>; 2],
    waiters: [Waiters; 2],
    stale: Option<(RawFd, Mode)>,
}

impl Ready {
    pub fn run(self, core: &LoopCore, object: *mut PyObject) -> FfiResult<()> {
        if let Some((fd, before)) = self.stale {
            // One that was closed meanwhile has nothing to be brought in line.
            exceptions::report_unless_fatal(object, core.rearm(fd, before))?;
        }
        for waiters in &self.waiters {
            for waiter in waiters.iter() {
                exceptions::report_unless_fatal(object, future::resolve(waiter))?;
            }
        }
        for handle in self.callbacks.into_iter().flatten() {
            if !handle.has(CANCELLED) {
                core.run_handle(object, handle)?;
            }
        }
        Ok(())
    }
}
