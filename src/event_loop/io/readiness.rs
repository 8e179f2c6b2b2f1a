//! The readiness of sockets that `sock_*` methods use, so that a read which would block is skipped.
//!
//! The first wait registers a socket as edge-triggered, and the registration stays. A socket is drained after a read that would
//! have blocked or, on TCP, after a short read. Data that arrives later causes an edge.

use std::os::fd::RawFd;
use std::ptr;

use hybridloop_reactor::Token;
use pyo3::ffi::PyObject;

use crate::allocator::out_of_memory;
use crate::event_loop::io::watcher::Mode;
use crate::event_loop::LoopCore;
use crate::python::refs::WeakRef;
use crate::python::{FfiResult, Ref};

/// A socket with an edge-triggered registration.
#[derive(Clone, Copy)]
pub struct RegisteredSocket {
    token: Token,
    /// No data can be read until the next edge.
    pub drained: bool,
}

impl LoopCore {
    /// The registration of `socket`, if `fd` is registered for this socket and nothing else.
    ///
    /// # Safety
    /// `socket` is a live object.
    #[inline]
    pub unsafe fn known_socket(
        &self,
        socket: *mut PyObject,
        fd: RawFd,
    ) -> Option<RegisteredSocket> {
        let (known, target) = self.descriptors.with(|all| {
            let token = all.token(fd)?;
            let watch = all.watch_of(token)?;
            if !watch.is_edge() {
                return None;
            }
            let drained = watch.drained;
            let target = watch.socket.as_ref()?.upgrade();
            Some((RegisteredSocket { token, drained }, target?))
        })?;
        ptr::eq(target.as_ptr(), socket).then_some(known)
    }

    /// Marks a socket as drained after a read that would have blocked, or after a short read.
    #[inline]
    pub fn mark_drained(&self, known: RegisteredSocket, short: bool) {
        self.descriptors.with(|all| {
            if let Some(watch) = all.watch_of(known.token) {
                watch.drained = !short || watch.short_read_drains;
            }
        });
    }

    /// Registers `future`, which is resolved when `socket` is ready for reading, or for writing.
    ///
    /// The registration stays for later calls with the same socket. If the system has given the number to another socket, the
    /// socket object differs, and the number is registered again.
    ///
    /// # Safety
    /// `socket` is a live object whose descriptor is `fd`, and `known`, if it is given, has just been looked up.
    pub unsafe fn wait_for(
        &self,
        socket: *mut PyObject,
        fd: RawFd,
        known: Option<RegisteredSocket>,
        write: bool,
        future: Ref,
    ) -> FfiResult<()> {
        self.check_open()?;
        // SAFETY: the caller guarantees a live socket object; methods call this attached.
        unsafe {
            if let Some(known) = known {
                return self
                    .descriptors
                    .with(|all| match all.watch_of(known.token) {
                        Some(watch) => watch.direction(write).waiters.push(future).map(|()| None),
                        None => Ok(Some(future)),
                    })
                    .map(drop)
                    .map_err(out_of_memory);
            }
            self.refuse_transport(fd, socket)?;
            self.register_socket(socket, fd, write, future)
        }
    }

    #[cold]
    unsafe fn register_socket(
        &self,
        socket: *mut PyObject,
        fd: RawFd,
        write: bool,
        future: Ref,
    ) -> FfiResult<()> {
        // SAFETY: the caller, `wait_for`, guarantees a live socket object in an attached thread.
        let (weak, same) = unsafe {
            let old = self.descriptors.with(|all| all.watch(fd)?.socket.clone());
            let old = old.and_then(|weak| weak.upgrade());
            let same = old.is_some_and(|old| ptr::eq(old.as_ptr(), socket));
            (WeakRef::try_new(socket)?, same)
        };
        let short_read_drains = is_tcp(fd);
        let (before, replaced, _old, pushed) = self.descriptors.with(|all| {
            let replaced = all.ensure_watch(fd);
            let Some(watch) = all.watch(fd) else {
                return (None, replaced, None, Ok(()));
            };
            // A registration of another socket is not valid for this one.
            let before = if same {
                watch.mode()
            } else {
                Mode::Unregistered
            };
            watch.drained = false;
            watch.short_read_drains = short_read_drains;
            let old = std::mem::replace(&mut watch.socket, weak);
            let pushed = watch.direction(write).waiters.push(future);
            (Some(before), replaced, old, pushed)
        });
        if let Some(replaced) = replaced {
            replaced.forget();
        }
        pushed.map_err(out_of_memory)?;
        before.map_or(Ok(()), |before| self.rearm_as(fd, fd, before))
    }

    /// Undoes [`LoopCore::wait_for`], if the future is still pending.
    ///
    /// The registration ends with the last future. After `os.dup2()` the number may refer to another file, for which no event
    /// comes: the next wait registers it again.
    pub fn stop_waiting(&self, fd: RawFd, write: bool, future: &Ref) -> FfiResult<()> {
        let found = self.descriptors.with(|all| {
            let watch = all.watch(fd)?;
            let before = watch.mode();
            let removed = watch.direction(write).waiters.remove(future)?;
            let socket = if watch.has_waiters() {
                None
            } else {
                watch.socket.take()
            };
            Some((before, removed, socket))
        });
        found.map_or(Ok(()), |(before, ..)| self.rearm(fd, before))
    }
}

/// Whether `fd` is a TCP socket. With other sockets a short read does not mean drained: it may end at the end of a message, or
/// where a Unix socket passes a descriptor.
#[cfg(target_os = "linux")]
fn is_tcp(fd: RawFd) -> bool {
    let option = |name| {
        let mut value: libc::c_int = -1;
        let mut size = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
        // SAFETY: `value` is writable for `size` bytes. The kernel checks the descriptor.
        let status = unsafe {
            libc::getsockopt(
                fd,
                libc::SOL_SOCKET,
                name,
                (&raw mut value).cast(),
                &raw mut size,
            )
        };
        (status == 0).then_some(value)
    };
    option(libc::SO_TYPE) == Some(libc::SOCK_STREAM)
        && option(libc::SO_PROTOCOL) == Some(libc::IPPROTO_TCP)
}

#[cfg(not(target_os = "linux"))]
fn is_tcp(_fd: RawFd) -> bool {
    false
}
