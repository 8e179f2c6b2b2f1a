//! `recv` on plain sockets.

use std::io;
use std::os::fd::RawFd;
use std::ptr;

use pyo3::ffi;

use crate::event_loop::io::receive::{receive, receive_bytes, READ_SIZE};
use crate::event_loop::sockets::{Attempt, Kind, SocketCall};
use crate::event_loop::{exceptions, LoopCore};
use crate::python::buffer::BufferGuard;
use crate::python::bytes::{_PyBytes_Resize, to_bytes};
use crate::python::{ErrSet, FfiResult, Ref};

struct Received {
    result: Ref,
    size: usize,
    asked: usize,
}

impl SocketCall {
    pub(super) fn receive(&self, core: &LoopCore, fd: RawFd) -> FfiResult<Attempt> {
        // SAFETY: the operation holds the socket, and coroutines run in attached threads.
        let known = unsafe { core.known_socket(self.socket.as_ptr(), fd) };
        let drained = known.is_some_and(|known| known.drained);
        let received = match self.kind {
            Kind::RecvInto => self.receive_into(fd, drained)?,
            _ => self.receive_bytes(core, fd, drained)?,
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
                    core.mark_drained(known, true);
                }
                Ok(Attempt::Done(result))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Some(known) = known {
                    core.mark_drained(known, false);
                }
                Ok(Attempt::Wait(known))
            }
            Err(error) => Err(exceptions::os_error(&error).into()),
        }
    }

    /// `None` for a size that the socket's own method must check.
    fn receive_bytes(
        &self,
        core: &LoopCore,
        fd: RawFd,
        drained: bool,
    ) -> FfiResult<Option<io::Result<Received>>> {
        let size = self.argument(0);
        // SAFETY: the operation holds its arguments, and coroutines run in attached threads.
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
        if drained && asked > 0 {
            return Ok(Some(Err(io::ErrorKind::WouldBlock.into())));
        }
        if asked == 0 || asked > READ_SIZE {
            return receive_exact_size(fd, asked);
        }
        let buffer = core.spare_bytes.receive_buffer(asked)?;
        let received = receive_bytes(core, fd, asked, libc::MSG_DONTWAIT, buffer, to_bytes);
        Ok(Some(match received {
            Ok((size, result)) => Ok(Received {
                result: result?,
                size,
                asked,
            }),
            Err(error) => Err(error),
        }))
    }

    fn receive_into(&self, fd: RawFd, drained: bool) -> FfiResult<Option<io::Result<Received>>> {
        // SAFETY: the operation holds its arguments, and coroutines run in attached threads.
        let Ok(buffer) = (unsafe { BufferGuard::writable(self.argument(0)) }) else {
            // The socket's method raises its own error.
            // SAFETY: coroutines run in attached threads.
            unsafe { ffi::PyErr_Clear() };
            return Ok(None);
        };
        let asked = buffer.len();
        let received = if asked == 0 {
            Ok(0)
        } else if drained {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            receive(fd, buffer.as_mut_ptr(), asked, libc::MSG_DONTWAIT)
        };
        drop(buffer);
        Ok(Some(match received {
            Ok(size) => Ok(Received {
                // SAFETY: coroutines run in attached threads. The result is a new reference, or null with an exception set.
                result: unsafe { Ref::new(ffi::PyLong_FromSize_t(size))? },
                size,
                asked,
            }),
            Err(error) => Err(error),
        }))
    }
}

/// Reads into a `bytes` object of the requested size, and shrinks it. A size of 0 reads nothing.
#[cold]
fn receive_exact_size(fd: RawFd, asked: usize) -> FfiResult<Option<io::Result<Received>>> {
    // SAFETY: coroutines run in attached threads. Only this function has the new object until it is complete.
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
        let size = match receive(fd, into, asked, libc::MSG_DONTWAIT) {
            Ok(size) => size,
            Err(error) => return Ok(Some(Err(error))),
        };
        let mut result = result.into_ptr();
        if size < asked && _PyBytes_Resize(&raw mut result, size.cast_signed()) != 0 {
            return Err(ErrSet);
        }
        Ok(Some(Ok(Received {
            result: Ref::new(result)?,
            size,
            asked,
        })))
    }
}
