//! What is known of the sockets that `sock_*` calls work on, so that a read which would only fail is left out.
//!
//! The first wait registers a socket for edges, and the registration stays. From then on an edge follows whatever arrives
//! after the socket was found empty: by a read that would have blocked or, on TCP, by one that came back short.

use std::os::fd::RawFd;
use std::ptr;

use hybridloop_reactor::Token;
use pyo3::ffi::PyObject;

use crate::allocator::out_of_memory;
use crate::event_loop::io::watcher::Mode;
use crate::event_loop::LoopCore;
use crate::python::refs::WeakRef;
use crate::python::{FfiResult, Ref};

/// A socket that is registered for edges.
#[derive(Clone, Copy)]
pub struct RegisteredSocket {
    token: Token,
    /// There is nothing to read until the next edge.
    pub drained: bool,
}

impl LoopCore {
    /// What is known of `socket`, if `fd` is registered for it and for nothing else.
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

    /// Takes note that `known` had nothing left to read, as a read that would block says, or one that came back short.
    #[inline]
    pub fn mark_drained(&self, known: RegisteredSocket, short: bool) {
        self.descriptors.with(|all| {
            if let Some(watch) = all.watch_of(known.token) {
                watch.drained = !short || watch.short_read_drains;
            }
        });
    }

    /// Lets `future` be resolved when `socket` is ready for reading, or for writing.
    ///
    /// The registration stays for the socket's later calls. A number that the system has given to another socket since
    /// is noticed by the socket object, and registered anew.
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
        // SAFETY: the caller's promise.
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
        // SAFETY: the caller's promise.
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
            // What was registered for another socket says nothing about this one.
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

    /// Takes back [`LoopCore::wait_for`], if the future still waits.
    ///
    /// With the last one the registration goes. A wait in vain may be one for an event that cannot come, because
    /// `os.dup2()` has put another file where the socket was: the next wait finds that out.
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

/// Whether `fd` is a TCP socket. Of other sockets a read may end early: at the end of a message, or where a Unix socket
/// passes a descriptor.
#[cfg(target_os = "linux")]
fn is_tcp(fd: RawFd) -> bool {
    let option = |name| {
        let mut value: libc::c_int = -1;
        let mut size = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
        // SAFETY: the value has the size given; the kernel checks the descriptor.
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
