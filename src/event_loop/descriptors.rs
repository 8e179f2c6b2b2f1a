//! Descriptors: who owns each, what is registered for it, and what happens when it is ready.

use std::os::fd::RawFd;

use hybridloop_reactor::{Event, Interest, Registry, Token};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::types::PyType;
use pyo3::PyTraverseError;

use super::callback_arguments::context_keyword;
use super::methods::install;
use super::source::{Native, Pending};
use super::watch::{Direction, Mode, Ready, Watch};
use super::{confined, errors, handle, LoopCore};
use crate::ffi::fastcall::missing;
use crate::ffi::handle::{new_handle, track_kept, Call, Class, HandleRef, PERSISTENT};
use crate::ffi::{context, Args, Ref, Res};
use crate::{fastcall, onearg};

/// Who gets the events of a descriptor.
pub enum Source {
    /// A transport or a listening socket.
    Native(Native),
    /// Callbacks and `sock_*` calls of the user. Boxed, so that the entries of the many connections are small.
    Watch(Box<Watch>),
}

impl Source {
    /// Lets go of a source that was taken out of the table.
    pub fn forget(self) {
        match self {
            Self::Native(native) => native.forget(),
            Self::Watch(watch) => drop(watch),
        }
    }
}

/// All descriptors of a loop.
#[derive(Default)]
pub struct Descriptors {
    sources: Registry<Source>,
    by_fd: Vec<Option<Token>>,
}

impl Descriptors {
    pub fn token(&self, fd: RawFd) -> Option<Token> {
        *self.by_fd.get(usize::try_from(fd).ok()?)?
    }

    fn source(&self, fd: RawFd) -> Option<&Source> {
        self.sources.get(self.token(fd)?)
    }

    pub fn watch(&mut self, fd: RawFd) -> Option<&mut Watch> {
        self.watch_of(self.token(fd)?)
    }

    pub fn watch_of(&mut self, token: Token) -> Option<&mut Watch> {
        match self.sources.get_mut(token)? {
            Source::Watch(watch) => Some(watch),
            Source::Native(_) => None,
        }
    }

    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Puts a source in. What was there before under the same number comes back, to be dropped.
    pub fn insert(&mut self, fd: RawFd, source: Source) -> (Token, Option<Source>) {
        let index = usize::try_from(fd).unwrap_or(0);
        if self.by_fd.len() <= index {
            self.by_fd.resize(index + 1, None);
        }
        let old = self.by_fd[index].and_then(|token| self.sources.remove(token));
        let token = self.sources.insert(source);
        self.by_fd[index] = Some(token);
        (token, old)
    }

    /// Makes `fd` a watch. A source of another kind under that number comes back, to be dropped.
    pub fn ensure_watch(&mut self, fd: RawFd) -> Option<Source> {
        if self.watch(fd).is_some() {
            return None;
        }
        self.insert(fd, Source::Watch(Box::new(Watch::new(fd)))).1
    }

    /// Takes the source out that `token` names.
    pub fn remove(&mut self, fd: RawFd, token: Token) -> Option<Source> {
        if let Some(slot) = usize::try_from(fd)
            .ok()
            .and_then(|fd| self.by_fd.get_mut(fd))
        {
            if *slot == Some(token) {
                *slot = None;
            }
        }
        self.sources.remove(token)
    }

    /// Takes out the source of the highest descriptor.
    pub fn pop(&mut self) -> Option<Source> {
        while let Some(token) = self.by_fd.pop() {
            if let Some(source) = token.and_then(|token| self.sources.remove(token)) {
                return Some(source);
            }
        }
        None
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for source in self.sources.iter() {
            match source {
                Source::Native(native) => {
                    native.held().map_or(Ok(()), |object| object.visit(visit))?;
                }
                Source::Watch(watch) => watch.refs().try_for_each(|object| object.visit(visit))?,
            }
        }
        Ok(())
    }

    /// The I/O object behind a token, if it is one.
    #[inline]
    pub fn native(&self, token: Token) -> Option<Pending> {
        match self.sources.get(token)? {
            Source::Native(native) => native.hold(),
            Source::Watch(_) => None,
        }
    }

    /// Every I/O object.
    pub fn natives(&self) -> impl Iterator<Item = &Native> {
        self.sources.iter().filter_map(|source| match source {
            Source::Native(native) => Some(native),
            Source::Watch(_) => None,
        })
    }

    /// What an event on a watched descriptor calls for, with references of its own.
    pub fn ready(&mut self, event: Event) -> Option<Ready> {
        match self.sources.get_mut(event.token)? {
            Source::Native(_) => None,
            Source::Watch(watch) => Some(watch.ready(event)),
        }
    }
}

impl LoopCore {
    /// Brings the selector in line with what is wanted of `fd`, which wanted `before` until now.
    pub fn rearm(&self, fd: RawFd, before: Mode) -> Res<()> {
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
                watch.dry = false;
            }
        });
        let known = before != Mode::Out;
        let result = match mode {
            Mode::Level(interest) => self.registrar.register_level(fd, token, interest, known),
            Mode::Edge => self
                .registrar
                .register_edge(fd, token, Interest::BOTH, known),
            Mode::Out => {
                drop(self.descriptors.with(|all| all.remove(fd, token)));
                self.deregister(fd);
                return Ok(());
            }
        };
        result.map_err(|error| {
            drop(self.descriptors.with(|all| all.remove(fd, token)));
            errors::os_error(&error).into()
        })
    }

    /// Changes the watch of `fd`, made if need be, and the selector with it.
    fn change_watch<T: Default>(&self, fd: RawFd, change: impl FnOnce(&mut Watch) -> T) -> Res<T> {
        let (before, value, replaced) = self.descriptors.with(|all| {
            let replaced = all.ensure_watch(fd);
            all.watch(fd).map_or_else(
                || (Mode::Out, T::default(), None),
                |watch| (watch.mode(), change(watch), replaced),
            )
        });
        if let Some(replaced) = replaced {
            replaced.forget();
        }
        self.rearm(fd, before)?;
        Ok(value)
    }

    unsafe fn set_callback(&self, slf: *mut PyObject, args: &Args<'_>, write: bool) -> Res<Ref> {
        let function = if write { "_add_writer" } else { "_add_reader" };
        let &[file, callback, ref rest @ ..] = args.positional else {
            return Err(missing(function, "callback"));
        };
        self.check_open()?;
        // SAFETY: arguments are live during the call.
        unsafe {
            let fd = file_descriptor(file)?;
            self.refuse_transport(fd, file)?;
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
                new_handle(&self.maker, &self.contexts, running, Class::Plain, call)?
            };
            (*handle.as_ptr()).set(PERSISTENT, true);
            track_kept(&handle, true);
            if self.is_debug() {
                handle::note_source(&handle)?;
            }
            let new = handle.clone();
            cancel(self.change_watch(fd, |watch| watch.direction(write).callback.replace(new))?)?;
            Ok(handle.into_object())
        }
    }

    unsafe fn unset_callback(&self, file: *mut PyObject, write: bool) -> Res<Ref> {
        if self.is_closed() {
            return Ok(Ref::bool(false));
        }
        // SAFETY: the argument is live during the call.
        let fd = unsafe { file_descriptor(file)? };
        let taken = self.descriptors.with(|all| {
            if let Some(Source::Native(native)) = all.source(fd) {
                if write || !native.kind.is_reader {
                    return None;
                }
                let token = all.token(fd)?;
                return Some((Mode::Out, None, all.remove(fd, token)));
            }
            let watch = all.watch(fd)?;
            let before = watch.mode();
            Some((before, watch.direction(write).callback.take(), None))
        });
        let Some((before, callback, native)) = taken else {
            return Ok(Ref::bool(false));
        };
        if let Some(native) = native {
            native.forget();
            self.deregister(fd);
            return Ok(Ref::bool(true));
        }
        self.rearm(fd, before)?;
        let found = callback.is_some();
        cancel(callback)?;
        Ok(Ref::bool(found))
    }
}

impl LoopCore {
    /// An open transport owns its descriptor: nobody else may wait on it.
    pub unsafe fn refuse_transport(&self, fd: RawFd, file: *mut PyObject) -> Res<()> {
        let owner = self.descriptors.with(|all| match all.source(fd) {
            Some(Source::Native(native)) if native.is_exclusive() => native.hold(),
            _ => None,
        });
        match owner {
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

/// Cancels a handle that was replaced or removed.
fn cancel(handle: Option<HandleRef>) -> Res<()> {
    match handle {
        // SAFETY: an owned handle is live.
        Some(handle) => unsafe { handle::cancel(handle.as_object().as_ptr()).map(drop) },
        None => Ok(()),
    }
}

/// The descriptor behind an integer or an object with `fileno()`, with the errors of `selectors`.
pub unsafe fn file_descriptor(file: *mut PyObject) -> Res<RawFd> {
    // SAFETY: the caller's argument is live.
    unsafe {
        let py = Python::assume_attached();
        let file = Bound::from_borrowed_ptr(py, file);
        let number = if ffi::PyLong_Check(file.as_ptr()) != 0 {
            file.extract::<i64>()?
        } else {
            let number = file
                .call_method0("fileno")
                .and_then(|number| number.extract::<i64>());
            match number {
                Ok(number) => number,
                Err(_) => {
                    return Err(PyValueError::new_err(format!(
                        "Invalid file object: {}",
                        file.repr()?
                    ))
                    .into())
                }
            }
        };
        match RawFd::try_from(number) {
            Ok(fd) if fd >= 0 => Ok(fd),
            _ => Err(PyValueError::new_err(format!("Invalid file descriptor: {number}")).into()),
        }
    }
}

unsafe fn add_reader(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe { LoopCore::of(slf).set_callback(slf, &args, false) }
}

unsafe fn add_writer(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    // SAFETY: as for `add_reader`.
    unsafe { LoopCore::of(slf).set_callback(slf, &args, true) }
}

unsafe fn remove_reader(slf: *mut PyObject, file: *mut PyObject) -> Res<Ref> {
    // SAFETY: as for `add_reader`.
    unsafe { LoopCore::of(slf).unset_callback(file, false) }
}

unsafe fn remove_writer(slf: *mut PyObject, file: *mut PyObject) -> Res<Ref> {
    // SAFETY: as for `add_reader`.
    unsafe { LoopCore::of(slf).unset_callback(file, true) }
}

/// `_watched(fd)`: the reader and writer handle of a descriptor, or `None` for each.
unsafe fn watched(slf: *mut PyObject, file: *mut PyObject) -> Res<Ref> {
    // SAFETY: as for `add_reader`.
    unsafe {
        let fd = file_descriptor(file)?;
        let handle = |direction: &Direction| direction.callback.clone().map(HandleRef::into_object);
        let (reader, writer) = LoopCore::of(slf).descriptors.with(|all| {
            all.watch(fd).map_or((None, None), |watch| {
                (handle(&watch.read), handle(&watch.write))
            })
        });
        let (reader, writer) = (
            reader.unwrap_or_else(Ref::none),
            writer.unwrap_or_else(Ref::none),
        );
        Ref::new(ffi::PyTuple_Pack(2, reader.as_ptr(), writer.as_ptr()))
    }
}

/// `_ensure_fd_no_transport(fd)`: refuses descriptors that a transport of this loop owns.
unsafe fn ensure_fd_no_transport(slf: *mut PyObject, file: *mut PyObject) -> Res<Ref> {
    // SAFETY: as for `add_reader`.
    unsafe {
        let fd = file_descriptor(file)?;
        LoopCore::of(slf).refuse_transport(fd, file)?;
    }
    Ok(Ref::none())
}

/// Adds the methods to the class. The public `add_reader()` and so on are inherited and call these.
pub fn add_methods(class: &Bound<'_, PyType>) -> PyResult<()> {
    install(
        class,
        [
            (
                fastcall!(c"_add_reader", add_reader, confined),
                "(self, fd, callback, *args, context=None)",
                "Call back while a descriptor can be read.",
            ),
            (
                fastcall!(c"_add_writer", add_writer, confined),
                "(self, fd, callback, *args, context=None)",
                "Call back while a descriptor can be written.",
            ),
            (
                onearg!(c"_remove_reader", remove_reader, confined),
                "(self, fd)",
                "Stop calling back; False if nothing was there.",
            ),
            (
                onearg!(c"_remove_writer", remove_writer, confined),
                "(self, fd)",
                "Stop calling back; False if nothing was there.",
            ),
            (
                onearg!(c"_watched", watched),
                "(self, fd)",
                "Reader and writer handle of a descriptor.",
            ),
            (
                onearg!(c"_ensure_fd_no_transport", ensure_fd_no_transport),
                "(self, fd)",
                "Refuse a descriptor that a transport owns.",
            ),
        ],
    )
}
