//! `sock_recv`, `sock_sendall` and their kin: coroutines over the user's own sockets.
//!
//! Each tries the system call first and waits only when it would block. Sockets that are exactly `socket.socket` are read
//! and written here; for other objects, and for addresses, their methods are called, as asyncio does.

use std::cell::Cell;
use std::ffi::{c_int, CStr};
use std::io;
use std::os::fd::RawFd;
use std::ptr;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyMemoryView, PySlice, PyType};

use super::readiness::Known;
use super::schedule::{install, ASYNCIO};
use super::{confined, errors, file_descriptor, LoopCore};
use crate::fastcall;
use crate::ffi::arguments::{bind, Parameter};
use crate::ffi::buffer::Buffer;
use crate::ffi::coroutine::{self, Class, Operation, Step, Visit};
use crate::ffi::socket::plain_descriptor;
use crate::ffi::{Args, Local, Raised, Ref, Res};

/// What is read at most into the buffer that all sockets of a loop share; more is read into an object of its own.
const SHARED_READ: usize = 256 * 1024;
/// Non-blocking, whatever the socket is set to; and an error instead of `SIGPIPE`.
#[cfg(target_os = "linux")]
const SEND_FLAGS: c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
#[cfg(not(target_os = "linux"))]
const SEND_FLAGS: c_int = libc::MSG_DONTWAIT;

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
    /// What is sent of the data of `sock_sendall`.
    sent: Cell<usize>,
    /// The data of `sock_sendall` while it waits.
    data: Local<Option<Box<Buffer>>>,
    waiter: Local<Option<(RawFd, Ref)>>,
}

/// What a try came to.
enum Tried {
    Done(Ref),
    /// It would block. What is known of the socket, if no Python has run since that was looked up.
    Wait(Option<Known>),
}

static CLASS: Class = Class::new();

impl Operation for SocketCall {
    fn class() -> &'static Class {
        &CLASS
    }

    #[inline]
    fn step(&self) -> Res<Step> {
        self.stop_waiting()?;
        // SAFETY: the loop of a call is a LoopCore.
        let core = unsafe { LoopCore::of(self.event_loop.as_ptr()) };
        let socket = self.socket.as_ptr();
        // SAFETY: the operation holds the socket.
        let fd = unsafe { plain_descriptor(socket) };
        self.check(core, fd.is_some())?;
        let tried = match (self.kind, fd) {
            // A closed socket raises what its methods do.
            (Kind::Recv | Kind::RecvInto, Some(fd)) if fd >= 0 => self.receive(core, fd)?,
            (Kind::SendAll, Some(fd)) if fd >= 0 => self.send(core, fd)?,
            (Kind::SendAll, _) => self.send_by_method()?,
            _ => self.call_method(core, fd)?,
        };
        match tried {
            Tried::Done(result) => Ok(Step::Done(result)),
            Tried::Wait(known) => self.wait(core, fd, known),
        }
    }

    fn abandon(&self) {
        if let Err(Raised) = self.stop_waiting() {
            // SAFETY: attached.
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
            // SAFETY: the future is held; this reference is not counted, as the collector needs it.
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

    /// Refuses what asyncio refuses, once, when the call begins to run.
    #[inline]
    fn check(&self, core: &LoopCore, plain: bool) -> Res<()> {
        if self.checked.replace(true) || (plain && !core.is_debug()) {
            return Ok(());
        }
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        py.import("asyncio.base_events")?
            .getattr("_check_ssl_socket")?
            .call1((self.socket.bind(py),))?;
        if core.is_debug() && !self.socket.bind(py).call_method0("gettimeout")?.eq(0)? {
            return Err(PyValueError::new_err("the socket must be non-blocking").into());
        }
        Ok(())
    }

    fn wait(&self, core: &LoopCore, fd: Option<RawFd>, known: Option<Known>) -> Res<Step> {
        let socket = self.socket.as_ptr();
        // SAFETY: the operation holds the socket and the loop.
        unsafe {
            let fd = match fd {
                Some(fd) if fd >= 0 => fd,
                _ => file_descriptor(socket)?,
            };
            let known = known.or_else(|| core.known_socket(socket, fd));
            let future = core.new_waiter(self.event_loop.as_ptr())?;
            core.wait_for(socket, fd, known, self.kind.writes(), future.clone())?;
            drop(self.waiter.replace(Some((fd, future.clone()))));
            Ok(Step::Wait(future))
        }
    }

    fn stop_waiting(&self) -> Res<()> {
        let Some((fd, future)) = self.waiter.take() else {
            return Ok(());
        };
        // SAFETY: the loop of a call is a LoopCore.
        let core = unsafe { LoopCore::of(self.event_loop.as_ptr()) };
        core.stop_waiting(fd, self.kind.writes(), &future)
    }

    fn receive(&self, core: &LoopCore, fd: RawFd) -> Res<Tried> {
        // SAFETY: the operation holds the socket.
        let known = unsafe { core.known_socket(self.socket.as_ptr(), fd) };
        let dry = known.is_some_and(|known| known.dry);
        let received = match self.kind {
            Kind::RecvInto => self.receive_into(fd, dry)?,
            _ => self.receive_bytes(core, fd, dry)?,
        };
        let Some(received) = received else {
            return self.call_method(core, Some(fd));
        };
        match received {
            Ok(Received {
                result,
                size,
                asked,
            }) => {
                core.stats.received(size);
                if let (Some(known), true) = (known, 0 < size && size < asked) {
                    core.found_dry(known, true);
                }
                Ok(Tried::Done(result))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Some(known) = known {
                    core.found_dry(known, false);
                }
                Ok(Tried::Wait(known))
            }
            Err(error) => Err(errors::os_error(&error).into()),
        }
    }

    /// `None` for a size that the socket's own method has to judge.
    fn receive_bytes(
        &self,
        core: &LoopCore,
        fd: RawFd,
        dry: bool,
    ) -> Res<Option<io::Result<Received>>> {
        let size = self.argument(0);
        // SAFETY: the argument is live.
        let asked = unsafe {
            if ffi::PyLong_CheckExact(size) == 0 {
                return Ok(None);
            }
            let asked = ffi::PyLong_AsSsize_t(size);
            if asked == -1 && !ffi::PyErr_Occurred().is_null() {
                ffi::PyErr_Clear();
                return Ok(None);
            }
            asked
        };
        let Ok(asked) = usize::try_from(asked) else {
            return Ok(None);
        };
        if dry && asked > 0 {
            return Ok(Some(Err(io::ErrorKind::WouldBlock.into())));
        }
        if asked == 0 || asked > SHARED_READ {
            return receive_much(fd, asked);
        }
        let received = core
            .scratch
            .with(|scratch| -> io::Result<(usize, Res<Ref>)> {
                if scratch.len() < SHARED_READ {
                    scratch.resize(SHARED_READ, 0);
                }
                let n = receive(fd, scratch.as_mut_ptr(), asked)?;
                Ok((n, core.spare_bytes.lend(&scratch[..n])))
            });
        Ok(Some(match received {
            Ok((size, result)) => Ok(Received {
                result: result?,
                size,
                asked,
            }),
            Err(error) => Err(error),
        }))
    }

    fn receive_into(&self, fd: RawFd, dry: bool) -> Res<Option<io::Result<Received>>> {
        // SAFETY: the argument is live.
        let Ok(buffer) = (unsafe { Buffer::writable(self.argument(0)) }) else {
            // The socket's method refuses it in its own words.
            // SAFETY: attached.
            unsafe { ffi::PyErr_Clear() };
            return Ok(None);
        };
        let asked = buffer.len();
        let received = if asked == 0 {
            Ok(0)
        } else if dry {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            receive(fd, buffer.as_mut_ptr(), asked)
        };
        drop(buffer);
        Ok(Some(match received {
            Ok(size) => Ok(Received {
                // SAFETY: attached; a new reference or an error.
                result: unsafe { Ref::new(ffi::PyLong_FromSize_t(size))? },
                size,
                asked,
            }),
            Err(error) => Err(error),
        }))
    }

    fn send(&self, core: &LoopCore, fd: RawFd) -> Res<Tried> {
        let object = self.argument(0);
        let mut view = self.data.take();
        // SAFETY: the operation holds the argument.
        let is_bytes = unsafe { ffi::PyBytes_CheckExact(object) } != 0;
        if view.is_none() && !is_bytes {
            // SAFETY: as above.
            view = Some(Box::new(unsafe { Buffer::readable(object)? }));
        }
        let data = match &view {
            Some(view) => view.as_slice(),
            // SAFETY: an exact `bytes`, which does not change.
            None => unsafe { bytes_of(object) },
        };
        loop {
            let left = &data[self.sent.get()..];
            // SAFETY: the slice is valid for the call.
            let n = unsafe { libc::send(fd, left.as_ptr().cast(), left.len(), SEND_FLAGS) };
            let Ok(n) = usize::try_from(n) else {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::WouldBlock => {
                        drop(self.data.replace(view));
                        return Ok(Tried::Wait(None));
                    }
                    _ => return Err(errors::os_error(&error).into()),
                }
            };
            core.stats.sent(n);
            if n == left.len() {
                return Ok(Tried::Done(Ref::none()));
            }
            self.sent.set(self.sent.get() + n);
        }
    }

    /// As [`SocketCall::send`], through the socket's own method.
    fn send_by_method(&self) -> Res<Tried> {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        // SAFETY: the operation holds the argument.
        let data = unsafe { Bound::from_borrowed_ptr(py, self.argument(0)) };
        let view = PyMemoryView::from(&data)?.call_method1("cast", ("B",))?;
        let size = view.len()?;
        loop {
            let rest = PySlice::new(py, self.sent.get().cast_signed(), size.cast_signed(), 1);
            let rest = view.get_item(rest)?;
            match self.socket.bind(py).call_method1("send", (rest,)) {
                Ok(n) => self.sent.set(self.sent.get().saturating_add(n.extract()?)),
                Err(error) if would_block(py, &error) => return Ok(Tried::Wait(None)),
                Err(error) => return Err(error.into()),
            }
            if self.sent.get() >= size {
                return Ok(Tried::Done(Ref::none()));
            }
        }
    }

    /// Has the socket's method do the work.
    fn call_method(&self, core: &LoopCore, fd: Option<RawFd>) -> Res<Tried> {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        // SAFETY: the operation holds the socket.
        let known = fd.and_then(|fd| unsafe { core.known_socket(self.socket.as_ptr(), fd) });
        // A size or buffer that is refused is refused at once.
        let reads = matches!(
            self.kind,
            Kind::RecvFrom | Kind::RecvFromInto | Kind::Accept
        );
        if reads && known.is_some_and(|known| known.dry) {
            return Ok(Tried::Wait(None));
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
                Ok(Tried::Done(result.into()))
            }
            Err(error) if would_block(py, &error) => {
                if let (true, Some(known)) = (reads, known) {
                    core.found_dry(known, false);
                }
                Ok(Tried::Wait(None))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The contents of an exact `bytes` object.
unsafe fn bytes_of<'a>(object: *mut PyObject) -> &'a [u8] {
    // SAFETY: the caller's object is live while the slice is used.
    unsafe {
        let data = ffi::PyBytes_AS_STRING(object).cast();
        std::slice::from_raw_parts(data, ffi::Py_SIZE(object).unsigned_abs())
    }
}

fn would_block(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<pyo3::exceptions::PyBlockingIOError>(py)
        || error.is_instance_of::<pyo3::exceptions::PyInterruptedError>(py)
}

struct Received {
    result: Ref,
    size: usize,
    asked: usize,
}

fn receive(fd: RawFd, into: *mut u8, size: usize) -> io::Result<usize> {
    loop {
        // SAFETY: the caller's buffer has `size` bytes.
        let n = unsafe { libc::recv(fd, into.cast(), size, libc::MSG_DONTWAIT) };
        if let Ok(n) = usize::try_from(n) {
            return Ok(n);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Reads into an object of the size asked for, which is then cut; nothing at all if nothing is asked for.
#[cold]
fn receive_much(fd: RawFd, asked: usize) -> Res<Option<io::Result<Received>>> {
    // SAFETY: attached; the object is new, and nobody else sees it before it is complete.
    unsafe {
        let result = Ref::new(ffi::PyBytes_FromStringAndSize(
            ptr::null(),
            asked.cast_signed(),
        ))?;
        if asked == 0 {
            return Ok(Some(Ok(Received {
                result,
                size: 0,
                asked,
            })));
        }
        let into = ffi::PyBytes_AS_STRING(result.as_ptr()).cast_mut().cast();
        let size = match receive(fd, into, asked) {
            Ok(size) => size,
            Err(error) => return Ok(Some(Err(error))),
        };
        let mut result = result.into_ptr();
        if size < asked && _PyBytes_Resize(&raw mut result, size.cast_signed()) != 0 {
            return Err(Raised);
        }
        Ok(Some(Ok(Received {
            result: Ref::new(result)?,
            size,
            asked,
        })))
    }
}

extern "C" {
    /// Documented, and kept from users by `pyo3-ffi`.
    fn _PyBytes_Resize(bytes: *mut *mut PyObject, size: ffi::Py_ssize_t) -> c_int;
}

/// Makes the coroutine of a call.
#[inline]
unsafe fn call<const N: usize>(
    slf: *mut PyObject,
    kind: Kind,
    parameters: [Parameter; N],
    args: &Args<'_>,
) -> Res<Ref> {
    let name = kind.name().to_bytes();
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe {
        let bound = bind(&name[b"Loop.".len()..], parameters, args)?;
        let object = |at: usize| {
            let object = bound.get(at).copied().unwrap_or(ptr::null_mut());
            (!object.is_null()).then(|| Ref::borrowed(object))
        };
        let operation = SocketCall {
            kind,
            event_loop: Ref::borrowed(slf),
            socket: object(0).ok_or_else(no_socket)?,
            args: [object(1), object(2)],
            checked: Cell::new(false),
            sent: Cell::new(0),
            data: Local::default(),
            waiter: Local::default(),
        };
        coroutine::new(operation, kind.name())
    }
}

#[cold]
fn no_socket() -> Raised {
    PyTypeError::new_err("a socket is required").into()
}

const SOCK: Parameter = Parameter::needed(c"sock");
const BUF: Parameter = Parameter::needed(c"buf");
const DATA: Parameter = Parameter::needed(c"data");

unsafe fn sock_recv(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    // asyncio's abstract class and its loops have different names for it.
    const SIZE: Parameter = Parameter::needed(c"n").or(c"nbytes");
    // SAFETY: as for `call`.
    unsafe { call(slf, Kind::Recv, [SOCK, SIZE], &args) }
}

unsafe fn sock_recv_into(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    // SAFETY: as for `call`.
    unsafe { call(slf, Kind::RecvInto, [SOCK, BUF], &args) }
}

unsafe fn sock_recvfrom(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    const SIZE: Parameter = Parameter::needed(c"bufsize");
    // SAFETY: as for `call`.
    unsafe { call(slf, Kind::RecvFrom, [SOCK, SIZE], &args) }
}

unsafe fn sock_recvfrom_into(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    const SIZE: Parameter = Parameter::optional(c"nbytes");
    // Without a number, or with 0, the socket's method takes the size of the buffer.
    // SAFETY: as for `call`.
    unsafe { call(slf, Kind::RecvFromInto, [SOCK, BUF, SIZE], &args) }
}

unsafe fn sock_sendall(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    // SAFETY: as for `call`.
    unsafe { call(slf, Kind::SendAll, [SOCK, DATA], &args) }
}

unsafe fn sock_sendto(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    const ADDRESS: Parameter = Parameter::needed(c"address");
    // SAFETY: as for `call`.
    unsafe { call(slf, Kind::SendTo, [SOCK, DATA, ADDRESS], &args) }
}

unsafe fn sock_accept(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    // SAFETY: as for `call`.
    unsafe { call(slf, Kind::Accept, [SOCK], &args) }
}

/// `_wait_socket(socket, write, future)`: what `sock_connect` awaits.
unsafe fn wait_socket(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    let &[socket, write, future] = args.positional else {
        return Err(
            PyTypeError::new_err("_wait_socket() takes a socket, a bool and a future").into(),
        );
    };
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe {
        let fd = file_descriptor(socket)?;
        let write = write == ffi::Py_True();
        let core = LoopCore::of(slf);
        let known = core.known_socket(socket, fd);
        core.wait_for(socket, fd, known, write, Ref::borrowed(future))?;
    }
    Ok(Ref::none())
}

/// `_leave_socket(socket, write, future)`: takes `_wait_socket()` back.
unsafe fn leave_socket(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    let &[socket, write, future] = args.positional else {
        return Err(
            PyTypeError::new_err("_leave_socket() takes a socket, a bool and a future").into(),
        );
    };
    // SAFETY: as for `wait_socket`. A socket that is closed has no number to look under.
    unsafe {
        let py = Python::assume_attached();
        let fd = Bound::from_borrowed_ptr(py, socket)
            .call_method0("fileno")?
            .extract()?;
        let write = write == ffi::Py_True();
        LoopCore::of(slf).stop_waiting(fd, write, &Ref::borrowed(future))?;
    }
    Ok(Ref::none())
}

/// Makes the class of the coroutines and adds the methods to the loop.
pub fn register(class: &Bound<'_, PyType>) -> PyResult<()> {
    CLASS.init::<SocketCall>(class.py(), c"hybridloop._core.SocketCall")?;
    install(
        class,
        [
            (fastcall!(c"sock_recv", sock_recv), "(self, sock, n)", "Receive up to `n` bytes; empty at the end of the stream."),
            (fastcall!(c"sock_recv_into", sock_recv_into), ASYNCIO, "Receive into a writable buffer; returns the number of bytes."),
            (fastcall!(c"sock_recvfrom", sock_recvfrom), ASYNCIO, "Receive a datagram of up to `bufsize` bytes; returns data and sender's address."),
            (fastcall!(c"sock_recvfrom_into", sock_recvfrom_into), ASYNCIO, "Receive a datagram into a writable buffer; returns its size and the sender's address."),
            (fastcall!(c"sock_sendall", sock_sendall), ASYNCIO, "Send all of `data`. After an error it is not known how much has been sent."),
            (fastcall!(c"sock_sendto", sock_sendto), ASYNCIO, "Send a datagram to `address`; returns the number of bytes."),
            (fastcall!(c"sock_accept", sock_accept), ASYNCIO, "Accept a connection; returns the new, non-blocking socket and the peer's address."),
            (fastcall!(c"_wait_socket", wait_socket, confined), "(self, sock, write, future, /)", "Resolve a future when a socket is ready."),
            (fastcall!(c"_leave_socket", leave_socket, confined), "(self, sock, write, future, /)", "Take _wait_socket() back."),
        ],
    )
}
