//! `send` on plain sockets, and through the method of others.

use std::ffi::c_int;
use std::io;
use std::os::fd::RawFd;

use hybridloop_reactor::syscall::{check_len, retry_on_intr};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyMemoryView, PySlice};

use crate::event_loop::sockets::{would_block, Attempt, SocketCall};
use crate::event_loop::{exceptions, LoopCore};
use crate::python::buffer::BufferGuard;
use crate::python::bytes::contents;
use crate::python::{FfiResult, Ref};

/// Non-blocking, also on blocking sockets, and an error instead of `SIGPIPE`.
#[cfg(target_os = "linux")]
const SEND_FLAGS: c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
#[cfg(not(target_os = "linux"))]
const SEND_FLAGS: c_int = libc::MSG_DONTWAIT;

impl SocketCall {
    pub(super) fn send(&self, core: &LoopCore, fd: RawFd) -> FfiResult<Attempt> {
        let object = self.argument(0);
        let mut view = self.data.take();
        // SAFETY: the operation holds its arguments, and coroutines run in attached threads.
        let is_bytes = unsafe { ffi::PyBytes_CheckExact(object) } != 0;
        if view.is_none() && !is_bytes {
            // SAFETY: the operation holds its arguments, and coroutines run in attached threads.
            view = Some(Box::new(unsafe { BufferGuard::readable(object)? }));
        }
        let data = match &view {
            Some(view) => view.as_slice(),
            // SAFETY: without a view the object is an exact `bytes`, as checked above, and the operation holds it.
            None => unsafe { contents(object) },
        };
        loop {
            let left = &data[self.sent.get()..];
            let sent = retry_on_intr(|| {
                // SAFETY: `left` is a slice that is valid during the call.
                check_len(unsafe { libc::send(fd, left.as_ptr().cast(), left.len(), SEND_FLAGS) })
            });
            let n = match sent {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    drop(self.data.replace(view));
                    return Ok(Attempt::Wait(None));
                }
                Err(error) => return Err(exceptions::os_error(&error).into()),
            };
            core.stats.sent(n);
            if n == left.len() {
                return Ok(Attempt::Done(Ref::none()));
            }
            self.sent.set(self.sent.get() + n);
        }
    }

    /// Like [`SocketCall::send`], by the socket's own method.
    pub(super) fn send_by_method(&self) -> FfiResult<Attempt> {
        // SAFETY: coroutines run in attached threads.
        let py = unsafe { Python::assume_attached() };
        // SAFETY: the operation holds its arguments, and coroutines run in attached threads.
        let data = unsafe { Bound::from_borrowed_ptr(py, self.argument(0)) };
        let view = PyMemoryView::from(&data)?.call_method1("cast", ("B",))?;
        let size = view.len()?;
        loop {
            let rest = PySlice::new(py, self.sent.get().cast_signed(), size.cast_signed(), 1);
            let rest = view.get_item(rest)?;
            match self.socket.bind(py).call_method1("send", (rest,)) {
                Ok(n) => self.sent.set(self.sent.get().saturating_add(n.extract()?)),
                Err(error) if would_block(py, &error) => return Ok(Attempt::Wait(None)),
                Err(error) => return Err(error.into()),
            }
            if self.sent.get() >= size {
                return Ok(Attempt::Done(Ref::none()));
            }
        }
    }
}
