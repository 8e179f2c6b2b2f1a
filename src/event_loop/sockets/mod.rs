//! `sock_recv`, `sock_sendall` and related methods: coroutines over the user's own sockets.
//!
//! * [`methods`] — the Python methods: binding of arguments.
//! * [`receive`], [`send`] — system calls on plain sockets.
//!
//! Each tries the system call first and waits only when it would block. Sockets that are exactly `socket.socket` are read
//! and written here; for other objects, and for addresses, their methods are called, as asyncio does.

mod methods;
mod receive;
mod send;

use std::cell::Cell;
use std::ffi::{c_int, CStr};
use std::os::fd::RawFd;
use std::ptr;

use pyo3::exceptions::PyValueError;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;

use crate::event_loop::io::readiness::RegisteredSocket;
use crate::event_loop::{file_descriptor, LoopCore};
use crate::python::buffer::BufferGuard;
use crate::python::coroutine::{Class, Operation, Step, Visit};
use crate::python::unstable::socket_fd::plain_descriptor;
use crate::python::{ErrSet, FfiResult, LoopCell, Ref};
pub use methods::register;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Recv,
    RecvInto,
    RecvFrom,
    RecvFromInto,
    SendAll,
    SendTo,
    Accept,
}

impl Kind {
    /// The coroutine's name.
    const fn name(self) -> &'static CStr {
        match self {
            Self::Recv => c"Loop.sock_recv",
            Self::RecvInto => c"Loop.sock_recv_into",
            Self::RecvFrom => c"Loop.sock_recvfrom",
            Self::RecvFromInto => c"Loop.sock_recvfrom_into",
            Self::SendAll => c"Loop.sock_sendall",
            Self::SendTo => c"Loop.sock_sendto",
            Self::Accept => c"Loop.sock_accept",
        }
    }

    /// The method of the socket that does the work.
    const fn method(self) -> &'static str {
        match self {
            Self::Recv => "recv",
            Self::RecvInto => "recv_into",
            Self::RecvFrom => "recvfrom",
            Self::RecvFromInto => "recvfrom_into",
            Self::SendAll => "send",
            Self::SendTo => "sendto",
            Self::Accept => "accept",
        }
    }

    const fn writes(self) -> bool {
        matches!(self, Self::SendAll | Self::SendTo)
    }
}

/// One call of a `sock_*` method.
struct SocketCall {
    kind: Kind,
    event_loop: Ref,
    socket: Ref,
    args: [Option<Ref>; 2],
    checked: Cell<bool>,
    /// How many bytes of the data of `sock_sendall` are sent.
    sent: Cell<usize>,
    /// The data of `sock_sendall` while it waits.
    data: LoopCell<Option<Box<BufferGuard>>>,
    waiter: LoopCell<Option<(RawFd, Ref)>>,
}

/// The result of an attempt.
enum Attempt {
    Done(Ref),
    /// It would block. The socket's registration, if no Python has run since it was looked up.
    Wait(Option<RegisteredSocket>),
}

static CLASS: Class = Class::new();

impl Operation for SocketCall {
    fn class() -> &'static Class {
        &CLASS
    }

    #[inline]
    fn step(&self) -> FfiResult<Step> {
        self.stop_waiting()?;
        // SAFETY: the methods that make a `SocketCall` store their receiver, a `LoopCore`, and the operation holds it.
        let core = unsafe { LoopCore::of(self.event_loop.as_ptr()) };
        let socket = self.socket.as_ptr();
        // SAFETY: a step runs attached, and the operation holds a reference to the socket.
        let fd = unsafe { plain_descriptor(socket) };
        self.check(core, fd.is_some())?;
        let tried = match (self.kind, fd) {
            // The methods of a closed socket raise the right error.
            (Kind::Recv | Kind::RecvInto, Some(fd)) if fd >= 0 => self.receive(core, fd)?,
            (Kind::SendAll, Some(fd)) if fd >= 0 => self.send(core, fd)?,
            (Kind::SendAll, _) => self.send_by_method()?,
            _ => self.call_method(core, fd)?,
        };
        match tried {
            Attempt::Done(result) => Ok(Step::Done(result)),
            Attempt::Wait(known) => self.wait(core, fd, known),
        }
    }

    fn abandon(&self) {
        if let Err(ErrSet) = self.stop_waiting() {
            // SAFETY: coroutines run in attached threads.
            let py = unsafe { Python::assume_attached() };
            PyErr::fetch(py).write_unraisable(py, None);
        }
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        let waiter = self
            .waiter
            .with(|waiter| waiter.as_ref().map(|(_, future)| future.as_ptr()));
        for object in [&self.event_loop, &self.socket]
            .into_iter()
            .chain(self.args.iter().flatten())
        {
            let stop = visit(object);
            if stop != 0 {
                return stop;
            }
        }
        match waiter {
            // SAFETY: `waiter` holds the future. The collector needs a reference that is not counted, so it is not dropped.
            Some(future) => visit(&std::mem::ManuallyDrop::new(unsafe {
                Ref::unowned(future)
            })),
            None => 0,
        }
    }
}

impl SocketCall {
    fn argument(&self, at: usize) -> *mut PyObject {
        self.args[at].as_ref().map_or(ptr::null_mut(), Ref::as_ptr)
    }

    /// Makes asyncio's checks of the socket, once, when the call begins to run.
    #[inline]
    fn check(&self, core: &LoopCore, plain: bool) -> FfiResult<()> {
        if self.checked.replace(true) || (plain && !core.is_debug()) {
            return Ok(());
        }
        // SAFETY: coroutines run in attached threads.
        let py = unsafe { Python::assume_attached() };
        py.import("asyncio.base_events")?
            .getattr("_check_ssl_socket")?
            .call1((self.socket.bind(py),))?;
        if core.is_debug() && !self.socket.bind(py).call_method0("gettimeout")?.eq(0)? {
            return Err(PyValueError::new_err("the socket must be non-blocking").into());
        }
        Ok(())
    }

    fn wait(
        &self,
        core: &LoopCore,
        fd: Option<RawFd>,
        known: Option<RegisteredSocket>,
    ) -> FfiResult<Step> {
        let socket = self.socket.as_ptr();
        // SAFETY: the operation holds the socket and the loop, and coroutines run in attached threads.
        unsafe {
            let fd = match fd {
                Some(fd) if fd >= 0 => fd,
                _ => descriptor_of(socket)?,
            };
            let known = known.or_else(|| core.known_socket(socket, fd));
            let future = core.new_waiter(self.event_loop.as_ptr())?;
            core.wait_for(socket, fd, known, self.kind.writes(), future.clone())?;
            drop(self.waiter.replace(Some((fd, future.clone()))));
            Ok(Step::Wait(future))
        }
    }

    fn stop_waiting(&self) -> FfiResult<()> {
        let Some((fd, future)) = self.waiter.take() else {
            return Ok(());
        };
        // SAFETY: the methods that make a `SocketCall` store their receiver, a `LoopCore`, and the operation holds it.
        let core = unsafe { LoopCore::of(self.event_loop.as_ptr()) };
        core.stop_waiting(fd, self.kind.writes(), &future)
    }

    /// Calls the socket's method.
    fn call_method(&self, core: &LoopCore, fd: Option<RawFd>) -> FfiResult<Attempt> {
        // SAFETY: coroutines run in attached threads.
        let py = unsafe { Python::assume_attached() };
        // SAFETY: the operation holds the socket, and coroutines run in attached threads.
        let known = fd.and_then(|fd| unsafe { core.known_socket(self.socket.as_ptr(), fd) });
        // Methods that check a size or buffer are called even if the socket is drained, so that errors are raised at once.
        let reads = matches!(
            self.kind,
            Kind::RecvFrom | Kind::RecvFromInto | Kind::Accept
        );
        if reads && known.is_some_and(|known| known.drained) {
            return Ok(Attempt::Wait(None));
        }
        let args: Vec<_> = self
            .args
            .iter()
            .flatten()
            .map(|object| object.bind(py))
            .collect();
        let args = pyo3::types::PyTuple::new(py, args)?;
        match self.socket.bind(py).call_method1(self.kind.method(), args) {
            Ok(result) => {
                if self.kind == Kind::Accept {
                    result.get_item(0)?.call_method1("setblocking", (false,))?;
                }
                Ok(Attempt::Done(result.into()))
            }
            Err(error) if would_block(py, &error) => {
                if let (true, Some(known)) = (reads, known) {
                    core.mark_drained(known, false);
                }
                Ok(Attempt::Wait(None))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The descriptor of a socket, as in asyncio: the result of `fileno()` is used as a file object.
///
/// # Safety
/// Attached; `socket` is a live object.
unsafe fn descriptor_of(socket: *mut PyObject) -> FfiResult<RawFd> {
    // SAFETY: the caller guarantees an attached thread and a live `socket`.
    unsafe {
        let socket = Bound::from_borrowed_ptr(Python::assume_attached(), socket);
        file_descriptor(socket.call_method0("fileno")?.as_ptr())
    }
}

fn would_block(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<pyo3::exceptions::PyBlockingIOError>(py)
        || error.is_instance_of::<pyo3::exceptions::PyInterruptedError>(py)
}
