//! The table of descriptors: the owner of each, its registration, and its events.

use std::os::fd::RawFd;

use hybridloop_reactor::{Event, FdMap, Interest, Registry, Token};
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::types::PyType;
use pyo3::PyTraverseError;

use crate::event_loop::callback_args::context_keyword;
use crate::event_loop::io::files::{file_number, too_large, Watched};
use crate::event_loop::io::source::{IoRef, IoSource};
use crate::event_loop::io::watcher::{Direction, FdWatcher, Mode, Owner, Ready};
use crate::event_loop::methods::install;
use crate::event_loop::{check_thread, exceptions, handles, LoopCore};
use crate::python::handle::{new_handle, track_if_shared, Call, Class, HandleRef, PERSISTENT};
use crate::python::vectorcall::missing;
use crate::python::{context, Args, FfiResult, Ref};
use crate::{fastcall, onearg};

/// The receiver of a descriptor's events.
pub enum Source {
    /// A transport or a listening socket.
    IoSource(IoSource),
    /// Callbacks and `sock_*` calls of the program. Boxed, so that the entries of transports are small.
    FdWatcher(Box<FdWatcher>),
}

impl Source {
    /// Releases a source that was removed from the table.
    pub fn forget(self) {
        match self {
            Self::IoSource(native) => native.forget(),
            Self::FdWatcher(watch) => drop(watch),
        }
    }
}

/// All descriptors of a loop.
#[derive(Default)]
pub struct Descriptors {
    sources: Registry<Source>,
    by_fd: FdMap,
}

impl Descriptors {
    pub fn token(&self, fd: RawFd) -> Option<Token> {
        self.by_fd.get(fd)
    }

    fn source(&self, fd: RawFd) -> Option<&Source> {
        self.sources.get(self.token(fd)?)
    }

    pub fn watch(&mut self, fd: RawFd) -> Option<&mut FdWatcher> {
        self.watch_of(self.token(fd)?)
    }

    pub fn watch_of(&mut self, token: Token) -> Option<&mut FdWatcher> {
        match self.sources.get_mut(token)? {
            Source::FdWatcher(watch) => Some(watch),
            Source::IoSource(_) => None,
        }
    }

    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Inserts a source. Returns the previous source of the same number, for the caller to drop.
    pub fn insert(&mut self, fd: RawFd, source: Source) -> (Token, Option<Source>) {
        let token = self.sources.insert(source);
        let old = self.by_fd.insert(fd, token);
        (token, old.and_then(|old| self.sources.remove(old)))
    }

    /// The descriptor under which `file` is watched. The file may be closed by now.
    pub fn watched_file(&self, file: *mut PyObject) -> Option<RawFd> {
        self.sources.iter().find_map(|source| match source {
            Source::FdWatcher(watch) => watch.is_for(file).then(|| watch.fd()),
            Source::IoSource(_) => None,
        })
    }

    /// Makes sure that `fd` has an [`FdWatcher`]. Returns a source of another kind that had this number, for the caller to
    /// drop.
    pub fn ensure_watch(&mut self, fd: RawFd) -> Option<Source> {
        if self.watch(fd).is_some() {
            return None;
        }
        self.insert(fd, Source::FdWatcher(Box::new(FdWatcher::new(fd))))
            .1
    }

    /// Removes the source of `token`.
    pub fn remove(&mut self, fd: RawFd, token: Token) -> Option<Source> {
        self.by_fd.remove(fd, token);
        self.sources.remove(token)
    }

    /// Removes the source of the highest descriptor.
    pub fn pop(&mut self) -> Option<Source> {
        while let Some(token) = self.by_fd.pop() {
            let source = self.sources.remove(token);
            if source.is_some() {
                return source;
            }
        }
        None
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for source in self.sources.iter() {
            match source {
                Source::IoSource(native) => {
                    native.held().map_or(Ok(()), |object| object.visit(visit))?;
                }
                Source::FdWatcher(watch) => {
                    watch.refs().try_for_each(|object| object.visit(visit))?;
                }
            }
        }
        Ok(())
    }

    /// The I/O object of a token, if its source is one.
    #[inline]
    pub fn native(&self, token: Token) -> Option<IoRef> {
        match self.sources.get(token)? {
            Source::IoSource(native) => native.hold(),
            Source::FdWatcher(_) => None,
        }
    }

    /// Every I/O object.
    pub fn natives(&self) -> impl Iterator<Item = &IoSource> {
        self.sources.iter().filter_map(|source| match source {
            Source::IoSource(native) => Some(native),
            Source::FdWatcher(_) => None,
        })
    }

    /// The callbacks and futures of an event on a watched descriptor, as owned references.
    pub fn ready(&mut self, event: Event) -> Option<Ready> {
        match self.sources.get_mut(event.token)? {
            Source::IoSource(_) => None,
            Source::FdWatcher(watch) => Some(watch.ready(event)),
        }
    }
}

impl LoopCore {
    /// Updates the registration of `fd`, which was `before`, to the current mode. The number may belong to another file by now.
    pub fn rearm(&self, fd: RawFd, before: Mode) -> FfiResult<()> {
        let owner = self.descriptors.with(|all| Some(all.watch(fd)?.owner()));
        match owner {
            Some(owner) => self.rearm_as(fd, owner.open_fd(fd), before),
            None => Ok(()),
        }
    }

    /// A callback of the descriptor has returned: those that were due meanwhile may be called again.
    #[cold]
    pub fn resume_watchers(&self, fd: RawFd) -> FfiResult<()> {
        let before = self.descriptors.with(|all| all.watch(fd)?.resume());
        before.map_or(Ok(()), |before| self.rearm(fd, before))
    }

    /// Like [`LoopCore::rearm`]. `open_fd` is `fd`, or −1 if the watched file is closed.
    pub fn rearm_as(&self, fd: RawFd, open_fd: RawFd, before: Mode) -> FfiResult<()> {
        let wanted = self
            .descriptors
            .with(|all| Some((all.token(fd)?, all.watch(fd)?.mode())));
        let Some((token, mode)) = wanted else {
            return Ok(());
        };
        if mode == before {
            return Ok(());
        }
        // Registering again reports the current readiness.
        self.descriptors.with(|all| {
            if let Some(watch) = all.watch(fd) {
                watch.drained = false;
            }
        });
        let known = before.is_registered();
        let result = match mode {
            Mode::Level(interest) => self.register_level(open_fd, token, interest, known),
            Mode::Edge if open_fd >= 0 => self.register_edge(open_fd, token, Interest::BOTH, known),
            Mode::Suspended => {
                self.deregister(fd);
                return Ok(());
            }
            // The registration that `sock_*` calls keep ends with their socket.
            Mode::Edge | Mode::Unregistered => {
                drop(self.descriptors.with(|all| all.remove(fd, token)));
                self.deregister(fd);
                return Ok(());
            }
        };
        result.map_err(|error| {
            drop(self.descriptors.with(|all| all.remove(fd, token)));
            exceptions::os_error(&error).into()
        })
    }

    /// Sets the callback of one direction, and returns the previous one.
    ///
    /// # Safety
    /// `file` is a live object, and the thread is attached.
    unsafe fn watch_file(
        &self,
        file: *mut PyObject,
        watched: Watched,
        write: bool,
        callback: HandleRef,
    ) -> FfiResult<Option<HandleRef>> {
        let Watched { fd, open } = watched;
        if open {
            self.drop_closed(fd);
        }
        // SAFETY: the caller is a method of the loop: CPython calls it attached, and keeps its arguments alive.
        let file_object = unsafe { (ffi::PyLong_Check(file) == 0).then(|| Ref::borrowed(file)) };
        let (before, old, replaced, _unused) = self.descriptors.with(|all| {
            let replaced = all.ensure_watch(fd);
            let Some(watch) = all.watch(fd) else {
                return (Mode::Unregistered, Some(callback), replaced, file_object);
            };
            let before = watch.mode();
            let unused = watch.set_file(file_object);
            let old = watch.direction(write).set_callback(Some(callback));
            (before, old, replaced, unused)
        });
        if let Some(replaced) = replaced {
            replaced.forget();
        }
        self.rearm_as(fd, if open { fd } else { -1 }, before)?;
        Ok(old)
    }

    /// Drops the source of a closed file whose number now belongs to another file.
    fn drop_closed(&self, fd: RawFd) {
        let owner = self.descriptors.with(|all| Some(all.watch(fd)?.owner()));
        if owner.is_some_and(|owner| owner.open_fd(fd) < 0) {
            let closed = self.descriptors.with(|all| {
                let token = all.token(fd)?;
                all.remove(fd, token)
            });
            drop(closed);
        }
    }

    unsafe fn set_callback(
        &self,
        slf: *mut PyObject,
        args: &Args<'_>,
        write: bool,
    ) -> FfiResult<Ref> {
        let function = if write { "_add_writer" } else { "_add_reader" };
        let &[file, callback, ref rest @ ..] = args.positional else {
            return Err(missing(function, "callback"));
        };
        self.check_open()?;
        // SAFETY: the caller is a method of the loop: CPython calls it attached, and keeps its arguments alive.
        unsafe {
            let watched = self.find_watched(file)?.ok_or_else(too_large)?;
            self.refuse_transport(watched.fd, file)?;
            // Python before 3.15 has no `context` here. Keywords that later releases add are ignored.
            let context = match context_keyword(args) {
                Some(context) => context,
                None => context::copy_current()?,
            };
            let call = Call {
                callback,
                args: rest,
                context: Some(context),
                event_loop: slf,
            };
            let handle = {
                let running = self.is_running();
                new_handle(
                    &self.handle_pool,
                    &self.contexts,
                    running,
                    Class::Plain,
                    call,
                )?
            };
            (*handle.as_ptr()).set(PERSISTENT, true);
            track_if_shared(&handle, true);
            if self.is_debug() {
                handles::save_source_traceback(&handle)?;
            }
            cancel(self.watch_file(file, watched, write, handle.clone())?)?;
            Ok(handle.into_object())
        }
    }

    unsafe fn unset_callback(&self, file: *mut PyObject, write: bool) -> FfiResult<Ref> {
        if self.is_closed() {
            return Ok(Ref::bool(false));
        }
        // SAFETY: the caller is a method of the loop: CPython calls it attached, and keeps its arguments alive.
        let Some(Watched { fd, .. }) = (unsafe { self.find_watched(file)? }) else {
            return Ok(Ref::bool(false));
        };
        let taken = self.descriptors.with(|all| {
            if let Some(Source::IoSource(native)) = all.source(fd) {
                if write || !native.vtable.is_reader {
                    return None;
                }
                let token = all.token(fd)?;
                return Some(Taken::IoSource(all.remove(fd, token)));
            }
            let watch = all.watch(fd)?;
            let (before, owner) = (watch.mode(), watch.owner());
            let callback = watch.direction(write).set_callback(None);
            Some(Taken::Callback(
                before,
                owner,
                callback,
                watch.take_unused_file(),
            ))
        });
        let (before, owner, callback) = match taken {
            None => return Ok(Ref::bool(false)),
            Some(Taken::IoSource(native)) => {
                if let Some(native) = native {
                    native.forget();
                }
                self.deregister(fd);
                return Ok(Ref::bool(true));
            }
            Some(Taken::Callback(before, owner, callback, _file)) => (before, owner, callback),
        };
        self.rearm_as(fd, owner.open_fd(fd), before)?;
        let found = callback.is_some();
        cancel(callback)?;
        Ok(Ref::bool(found))
    }
}

impl LoopCore {
    /// Raises if an open transport owns the descriptor: nothing else may watch it. A transport whose socket was closed by the
    /// program owns none.
    ///
    /// # Safety
    /// `file` is a live object, and the thread is attached.
    pub unsafe fn refuse_transport(&self, fd: RawFd, file: *mut PyObject) -> FfiResult<()> {
        let owner = self.descriptors.with(|all| match all.source(fd) {
            Some(Source::IoSource(native)) => native.hold(),
            _ => None,
        });
        match owner.filter(IoRef::is_exclusive) {
            Some(owner) => {
                // SAFETY: the caller guarantees an attached thread and a live `file`.
                let file = unsafe { Bound::from_borrowed_ptr(Python::assume_attached(), file) };
                Err(PyRuntimeError::new_err(format!(
                    "File descriptor {} is used by transport {}",
                    file.repr()?,
                    owner.object.bind(file.py()).repr()?
                ))
                .into())
            }
            None => Ok(()),
        }
    }
}

/// The entry that `_remove_reader()` or `_remove_writer()` has removed.
enum Taken {
    /// A listening socket.
    IoSource(Option<Source>),
    /// The mode before the removal, the owner of the descriptor, the callback, and with the last callback the file object.
    Callback(Mode, Owner, Option<HandleRef>, Option<Ref>),
}

/// Cancels a handle that was replaced or removed.
fn cancel(handle: Option<HandleRef>) -> FfiResult<()> {
    match handle {
        // SAFETY: the reference `handle` keeps the object alive.
        Some(handle) => unsafe { handles::cancel(handle.as_object().as_ptr()).map(drop) },
        None => Ok(()),
    }
}

unsafe fn add_reader(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe { LoopCore::of(slf).set_callback(slf, &args, false) }
}

unsafe fn add_writer(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe { LoopCore::of(slf).set_callback(slf, &args, true) }
}

unsafe fn remove_reader(slf: *mut PyObject, file: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe { LoopCore::of(slf).unset_callback(file, false) }
}

unsafe fn remove_writer(slf: *mut PyObject, file: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe { LoopCore::of(slf).unset_callback(file, true) }
}

/// `_watched(file)`: the file object of the first `_add_…()`, its descriptor, and the reader and writer handle or `None` for
/// each; `None` if nothing is watched.
unsafe fn watched(slf: *mut PyObject, file: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe {
        let core = LoopCore::of(slf);
        let Some(Watched { fd, .. }) = core.find_watched(file)? else {
            return Ok(Ref::none());
        };
        let handle = |direction: &Direction| direction.callback.clone().map(HandleRef::into_object);
        let found = core.descriptors.with(|all| {
            let watch = all.watch(fd)?;
            Some((watch.file(), handle(&watch.read), handle(&watch.write)))
        });
        let Some((file, reader, writer)) = found else {
            return Ok(Ref::none());
        };
        if reader.is_none() && writer.is_none() {
            return Ok(Ref::none());
        }
        let number = Ref::new(ffi::PyLong_FromLong(fd.into()))?;
        let file = file.unwrap_or_else(|| number.clone());
        let reader = reader.unwrap_or_else(Ref::none);
        let writer = writer.unwrap_or_else(Ref::none);
        Ref::new(ffi::PyTuple_Pack(
            4,
            file.as_ptr(),
            number.as_ptr(),
            reader.as_ptr(),
            writer.as_ptr(),
        ))
    }
}

/// `_ensure_fd_no_transport(fd)`: raises if a transport of this loop owns the descriptor.
unsafe fn ensure_fd_no_transport(slf: *mut PyObject, file: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe {
        if let Ok(fd) = RawFd::try_from(file_number(file)?) {
            LoopCore::of(slf).refuse_transport(fd, file)?;
        }
    }
    Ok(Ref::none())
}

/// Adds the methods to the class. The public `add_reader()` and so on are inherited and call these.
pub fn add_methods(class: &Bound<'_, PyType>) -> PyResult<()> {
    install(
        class,
        [
            (
                fastcall!(c"_add_reader", add_reader, check_thread),
                "(self, fd, callback, *args, context=None)",
                "Call a callback while the descriptor is readable.",
            ),
            (
                fastcall!(c"_add_writer", add_writer, check_thread),
                "(self, fd, callback, *args, context=None)",
                "Call a callback while the descriptor is writable.",
            ),
            (
                onearg!(c"_remove_reader", remove_reader, check_thread),
                "(self, fd)",
                "Remove the callback. Returns False if there was none.",
            ),
            (
                onearg!(c"_remove_writer", remove_writer, check_thread),
                "(self, fd)",
                "Remove the callback. Returns False if there was none.",
            ),
            (
                onearg!(c"_watched", watched),
                "(self, fd)",
                "Return the watched file object, its descriptor, and the reader and writer handles.",
            ),
            (
                onearg!(c"_ensure_fd_no_transport", ensure_fd_no_transport),
                "(self, fd)",
                "Raise RuntimeError if a transport owns the descriptor.",
            ),
        ],
    )
}
