//! Descriptors: who owns each, what is registered for it, and what happens when it is ready.

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

/// Who gets the events of a descriptor.
pub enum Source {
    /// A transport or a listening socket.
    IoSource(IoSource),
    /// Callbacks and `sock_*` calls of the user. Boxed, so that the entries of the many connections are small.
    FdWatcher(Box<FdWatcher>),
}

impl Source {
    /// Lets go of a source that was taken out of the table.
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

    /// Puts a source in. What was there before under the same number comes back, to be dropped.
    pub fn insert(&mut self, fd: RawFd, source: Source) -> (Token, Option<Source>) {
        let token = self.sources.insert(source);
        let old = self.by_fd.insert(fd, token);
        (token, old.and_then(|old| self.sources.remove(old)))
    }

    /// The descriptor that `file` is watched under, which may have been closed since.
    pub fn watched_file(&self, file: *mut PyObject) -> Option<RawFd> {
        self.sources.iter().find_map(|source| match source {
            Source::FdWatcher(watch) => watch.is_for(file).then(|| watch.fd()),
            Source::IoSource(_) => None,
        })
    }

    /// Makes `fd` a watch. A source of another kind under that number comes back, to be dropped.
    pub fn ensure_watch(&mut self, fd: RawFd) -> Option<Source> {
        if self.watch(fd).is_some() {
            return None;
        }
        self.insert(fd, Source::FdWatcher(Box::new(FdWatcher::new(fd))))
            .1
    }

    /// Takes the source out that `token` names.
    pub fn remove(&mut self, fd: RawFd, token: Token) -> Option<Source> {
        self.by_fd.remove(fd, token);
        self.sources.remove(token)
    }

    /// Takes out the source of the highest descriptor.
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

    /// The I/O object behind a token, if it is one.
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

    /// What an event on a watched descriptor calls for, with references of its own.
    pub fn ready(&mut self, event: Event) -> Option<Ready> {
        match self.sources.get_mut(event.token)? {
            Source::IoSource(_) => None,
            Source::FdWatcher(watch) => Some(watch.ready(event)),
        }
    }
}

impl LoopCore {
    /// Brings the selector in line with what is wanted of `fd`, which wanted `before` until now. The number may belong to
    /// another file by now.
    pub fn rearm(&self, fd: RawFd, before: Mode) -> FfiResult<()> {
        let owner = self.descriptors.with(|all| Some(all.watch(fd)?.owner()));
        match owner {
            Some(owner) => self.rearm_as(fd, owner.open_fd(fd), before),
            None => Ok(()),
        }
    }

    /// As [`LoopCore::rearm`], where `open_fd` is `fd`, or −1 if the file that is watched is closed.
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
        // Registering anew reports what is ready now.
        self.descriptors.with(|all| {
            if let Some(watch) = all.watch(fd) {
                watch.drained = false;
            }
        });
        let known = before != Mode::Unregistered;
        let result = match mode {
            Mode::Level(interest) => self.register_level(open_fd, token, interest, known),
            Mode::Edge if open_fd >= 0 => self.register_edge(open_fd, token, Interest::BOTH, known),
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

    /// Puts a callback in, in place of the one that comes back.
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
        // SAFETY: the caller's object is live.
        let file_object = unsafe { (ffi::PyLong_Check(file) == 0).then(|| Ref::borrowed(file)) };
        let (before, old, replaced, _unused) = self.descriptors.with(|all| {
            let replaced = all.ensure_watch(fd);
            let Some(watch) = all.watch(fd) else {
                return (Mode::Unregistered, Some(callback), replaced, file_object);
            };
            let before = watch.mode();
            let unused = watch.set_file(file_object);
            let old = watch.direction(write).callback.replace(callback);
            (before, old, replaced, unused)
        });
        if let Some(replaced) = replaced {
            replaced.forget();
        }
        self.rearm_as(fd, if open { fd } else { -1 }, before)?;
        Ok(old)
    }

    /// Drops what is registered for a file that is closed, and whose number another file has got.
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
        // SAFETY: arguments are live during the call.
        unsafe {
            let watched = self.find_watched(file)?.ok_or_else(too_large)?;
            self.refuse_transport(watched.fd, file)?;
            // Releases before Python 3.15 have no `context`, and what later ones add is not for a watch.
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
        // SAFETY: the argument is live during the call.
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
            let callback = watch.direction(write).callback.take();
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
    /// An open transport owns its descriptor: nobody else may wait on it. One whose socket somebody has closed owns none.
    pub unsafe fn refuse_transport(&self, fd: RawFd, file: *mut PyObject) -> FfiResult<()> {
        let owner = self.descriptors.with(|all| match all.source(fd) {
            Some(Source::IoSource(native)) => native.hold(),
            _ => None,
        });
        match owner.filter(IoRef::is_exclusive) {
            Some(owner) => {
                // SAFETY: attached; the caller's argument is live.
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

/// What `_remove_reader()` and `_remove_writer()` take out.
enum Taken {
    /// A listening socket.
    IoSource(Option<Source>),
    /// A callback, and the file object with the last one. What the descriptor wanted before, and whose it is.
    Callback(Mode, Owner, Option<HandleRef>, Option<Ref>),
}

/// Cancels a handle that was replaced or removed.
fn cancel(handle: Option<HandleRef>) -> FfiResult<()> {
    match handle {
        // SAFETY: an owned handle is live.
        Some(handle) => unsafe { handles::cancel(handle.as_object().as_ptr()).map(drop) },
        None => Ok(()),
    }
}

unsafe fn add_reader(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe { LoopCore::of(slf).set_callback(slf, &args, false) }
}

unsafe fn add_writer(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: as for `add_reader`.
    unsafe { LoopCore::of(slf).set_callback(slf, &args, true) }
}

unsafe fn remove_reader(slf: *mut PyObject, file: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `add_reader`.
    unsafe { LoopCore::of(slf).unset_callback(file, false) }
}

unsafe fn remove_writer(slf: *mut PyObject, file: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `add_reader`.
    unsafe { LoopCore::of(slf).unset_callback(file, true) }
}

/// `_watched(file)`: the file object that was given first, its descriptor, and the reader and writer handle or `None` for
/// each; `None` if nothing is watched.
unsafe fn watched(slf: *mut PyObject, file: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `add_reader`.
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

/// `_ensure_fd_no_transport(fd)`: refuses descriptors that a transport of this loop owns.
unsafe fn ensure_fd_no_transport(slf: *mut PyObject, file: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: as for `add_reader`.
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
                "Call back while a descriptor can be read.",
            ),
            (
                fastcall!(c"_add_writer", add_writer, check_thread),
                "(self, fd, callback, *args, context=None)",
                "Call back while a descriptor can be written.",
            ),
            (
                onearg!(c"_remove_reader", remove_reader, check_thread),
                "(self, fd)",
                "Stop calling back; False if nothing was there.",
            ),
            (
                onearg!(c"_remove_writer", remove_writer, check_thread),
                "(self, fd)",
                "Stop calling back; False if nothing was there.",
            ),
            (
                onearg!(c"_watched", watched),
                "(self, fd)",
                "File object, descriptor, reader and writer handle of what is watched.",
            ),
            (
                onearg!(c"_ensure_fd_no_transport", ensure_fd_no_transport),
                "(self, fd)",
                "Refuse a descriptor that a transport owns.",
            ),
        ],
    )
}
