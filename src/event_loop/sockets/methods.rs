//! The methods `sock_*`: each binds its arguments and makes a coroutine.

use std::cell::Cell;
use std::ptr;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::event_loop::methods::{install, ASYNCIO};
use crate::event_loop::sockets::{descriptor_of, Kind, SocketCall, CLASS};
use crate::event_loop::{check_thread, file_descriptor, LoopCore};
use crate::fastcall;
use crate::python::args::{bind, Parameter};
use crate::python::coroutine;
use crate::python::{Args, ErrSet, FfiResult, LoopCell, Ref};

/// Makes the coroutine of a call.
///
/// # Safety
/// `slf` is a live `LoopCore`, and `args` are the arguments of the current call.
#[inline]
unsafe fn call<const N: usize>(
    slf: *mut PyObject,
    kind: Kind,
    parameters: [Parameter; N],
    args: &Args<'_>,
) -> FfiResult<Ref> {
    // SAFETY: the callers are methods of the loop: `slf` is their receiver, and CPython keeps it and the arguments alive.
    unsafe {
        let bound = bind(kind.name(), parameters, args)?;
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
            data: LoopCell::default(),
            waiter: LoopCell::default(),
        };
        coroutine::new(operation, kind.name())
    }
}

#[cold]
fn no_socket() -> ErrSet {
    PyTypeError::new_err("a socket is required").into()
}

const SOCK: Parameter = Parameter::required(c"sock");
const BUF: Parameter = Parameter::required(c"buf");
const DATA: Parameter = Parameter::required(c"data");

unsafe fn sock_recv(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // asyncio's abstract class and its loops use different names.
    const SIZE: Parameter = Parameter::required(c"n").alias(c"nbytes");
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe { call(slf, Kind::Recv, [SOCK, SIZE], &args) }
}

unsafe fn sock_recv_into(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe { call(slf, Kind::RecvInto, [SOCK, BUF], &args) }
}

unsafe fn sock_recvfrom(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    const SIZE: Parameter = Parameter::required(c"bufsize");
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe { call(slf, Kind::RecvFrom, [SOCK, SIZE], &args) }
}

unsafe fn sock_recvfrom_into(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    const SIZE: Parameter = Parameter::optional(c"nbytes");
    // Without a number, or with 0, the socket's method takes the size of the buffer. SAFETY: `slf` is a live `LoopCore`:
    // CPython passes the method's receiver, whose class the descriptor has checked. It keeps the arguments alive during the
    // call.
    unsafe { call(slf, Kind::RecvFromInto, [SOCK, BUF, SIZE], &args) }
}

unsafe fn sock_sendall(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe { call(slf, Kind::SendAll, [SOCK, DATA], &args) }
}

unsafe fn sock_sendto(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    const ADDRESS: Parameter = Parameter::required(c"address");
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe { call(slf, Kind::SendTo, [SOCK, DATA, ADDRESS], &args) }
}

unsafe fn sock_accept(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe { call(slf, Kind::Accept, [SOCK], &args) }
}

/// `_add_socket_waiter(socket, write, future)`: what `sock_connect` awaits. Returns the descriptor, for
/// `_remove_socket_waiter()`.
unsafe fn add_socket_waiter(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let &[socket, write, future] = args.positional else {
        return Err(PyTypeError::new_err(
            "_add_socket_waiter() takes a socket, a bool and a future",
        )
        .into());
    };
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe {
        let fd = descriptor_of(socket)?;
        let write = write == ffi::Py_True();
        let core = LoopCore::of(slf);
        let known = core.known_socket(socket, fd);
        core.wait_for(socket, fd, known, write, Ref::borrowed(future))?;
        Ref::new(ffi::PyLong_FromLong(fd.into()))
    }
}

/// `_remove_socket_waiter(fd, write, future)`: undoes `_add_socket_waiter()`. The socket may be closed by now.
unsafe fn remove_socket_waiter(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let &[fd, write, future] = args.positional else {
        return Err(PyTypeError::new_err(
            "_remove_socket_waiter() takes a descriptor, a bool and a future",
        )
        .into());
    };
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe {
        let fd = file_descriptor(fd)?;
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
            (fastcall!(c"_add_socket_waiter", add_socket_waiter, check_thread), "(self, sock, write, future, /)", "Resolve a future when a socket is ready; returns its descriptor."),
            (fastcall!(c"_remove_socket_waiter", remove_socket_waiter, check_thread), "(self, fd, write, future, /)", "Take _add_socket_waiter() back."),
        ],
    )
}
