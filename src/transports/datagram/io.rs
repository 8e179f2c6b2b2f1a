//! Datagrams between the socket and the protocol.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use pyo3::exceptions::PyOSError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use socket2::SockAddr;

use crate::allocator::out_of_memory;
use crate::event_loop::io::receive::fill_up;
use crate::event_loop::{exceptions, LoopContext, LoopCore};
use crate::python::stdlib::Stdlib;
use crate::python::{ErrSet, FfiResult, Ref};
use crate::transports::address::{self, Address};
use crate::transports::base::{Transport, BLOCKED, CLOSING};
use crate::transports::datagram::queue::{Queue, Queued, SeenAddress, Target};
use crate::transports::datagram::{Datagram, BUSY, CONNECTED, PAIRED};

/// The largest datagram that is received whole, as in asyncio. All transports of a loop share one such buffer.
const MAX_SIZE: usize = 256 * 1024;
/// Datagrams received for one event, so that one busy socket does not keep the others waiting.
const READS_PER_EVENT: usize = 16;
/// Events that follow each other so quickly, in nanoseconds, may be of datagrams that were there at once …
pub const QUICK: u64 = 10_000;
/// … and after so many of them a second datagram is looked for. As long as there is one, it is with every event.
const QUICK_EVENTS: u8 = 2;
/// Datagrams sent for one event.
const SENDS_PER_EVENT: usize = 64;

#[cfg(target_os = "linux")]
const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL;
#[cfg(not(target_os = "linux"))]
const SEND_FLAGS: libc::c_int = 0;

const READ_FAILED: &str = "Fatal read error on datagram transport";
const WRITE_FAILED: &str = "Fatal write error on datagram transport";

/// Receives what has come in. The selector reports what is left with the next poll.
pub fn receive(cx: LoopContext<'_>, me: &Ref, it: &Datagram) -> FfiResult<()> {
    let now = cx.core.last_poll();
    let quick = now.wrapping_sub(it.last_event.replace(now)) < it.quick_ticks;
    let events = if quick { it.quick_events.get() + 1 } else { 0 };
    let look_for_more = it.has(BUSY) || events == QUICK_EVENTS;
    it.quick_events.set(events % QUICK_EVENTS);
    let limit = if look_for_more { READS_PER_EVENT } else { 1 };
    let mut count = 0;
    while count < limit && it.wants_to_read() {
        if !receive_one(cx, me, it)? {
            break;
        }
        count += 1;
    }
    if look_for_more {
        it.set(BUSY, count > 1);
    }
    Ok(())
}

/// Receives one datagram, or an error of an earlier one that was sent; `false` if there is nothing.
#[inline]
fn receive_one(cx: LoopContext<'_>, me: &Ref, it: &Datagram) -> FfiResult<bool> {
    let LoopContext {
        py,
        core,
        event_loop,
    } = cx;
    let fd = it.open_fd();
    let mut from = MaybeUninit::<libc::sockaddr_storage>::uninit();
    let received = core
        .scratch
        .with(|scratch| -> io::Result<(libc::socklen_t, FfiResult<Ref>)> {
            fill_up(scratch, MAX_SIZE)?;
            let (n, length) = recvfrom(fd, &mut scratch[..MAX_SIZE], &mut from)?;
            core.stats.received(n);
            Ok((length, core.spare_bytes.make(&scratch[..n])))
        });
    let (called, name) = match received {
        Ok((length, data)) => {
            let Ok(data) = data else {
                return Datagram::fatal_error(me, READ_FAILED).map(|()| false);
            };
            // SAFETY: the system has written an address of that length.
            let from = unsafe { peer(py, it, &from, length)? };
            let name = &Stdlib::get().names.datagram_received;
            let called = it.call_protocol(name, [data.as_ptr(), from.as_ptr()]);
            if called.is_ok() {
                core.spare_bytes.keep(data);
            }
            (called, "datagram_received")
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
        Err(error) if error.raw_os_error().is_none() => {
            // No error of the socket: there is no room to receive into.
            let _ = ErrSet::from(exceptions::os_error(&error));
            return Datagram::fatal_error(me, READ_FAILED).map(|()| false);
        }
        Err(error) => {
            let error: Ref = exceptions::os_error(&error)
                .into_value(py)
                .into_bound(py)
                .into_any()
                .into();
            let name = &Stdlib::get().names.error_received;
            (it.call_protocol(name, [error.as_ptr()]), "error_received")
        }
    };
    if called.is_err() {
        callback_failed(event_loop, me, it, name)?;
    }
    Ok(true)
}

/// Like asyncio, an exception of the protocol is reported and leaves the transport as it is.
#[cold]
fn callback_failed(
    event_loop: *mut PyObject,
    me: &Ref,
    it: &Datagram,
    name: &str,
) -> FfiResult<()> {
    let protocol = it.protocol.get().unwrap_or_else(Ref::none);
    exceptions::report(
        event_loop,
        &format!("Exception in callback protocol.{name}()"),
        &[("transport", me), ("protocol", &protocol)],
    )
}

fn recvfrom(
    fd: RawFd,
    into: &mut [u8],
    from: &mut MaybeUninit<libc::sockaddr_storage>,
) -> io::Result<(usize, libc::socklen_t)> {
    #[allow(clippy::cast_possible_truncation)] // 128
    const ADDRESS_SIZE: libc::socklen_t = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    loop {
        let mut length = ADDRESS_SIZE;
        // SAFETY: both buffers have the lengths given.
        let n = unsafe {
            libc::recvfrom(
                fd,
                into.as_mut_ptr().cast(),
                into.len(),
                0,
                from.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if let Ok(n) = usize::try_from(n) {
            return Ok((n, length.min(ADDRESS_SIZE)));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// The sender of a datagram as Python shows it; `None` for one without a name.
///
/// # Safety
/// `from` holds an address of `length` bytes.
#[inline]
unsafe fn peer(
    py: Python<'_>,
    it: &Datagram,
    from: &MaybeUninit<libc::sockaddr_storage>,
    length: libc::socklen_t,
) -> FfiResult<Ref> {
    if length == 0 {
        return Ok(Ref::none());
    }
    // SAFETY: the caller's promise.
    let raw = unsafe { std::slice::from_raw_parts(from.as_ptr().cast::<u8>(), length as usize) };
    if let Some(seen) = it.from.with(|seen| seen.python(raw)) {
        return Ok(seen);
    }
    let Some(system) = address::from_bytes(raw) else {
        return Ok(Ref::none());
    };
    let python = Ref::from(Address::new(&system).to_python(py)?.into_bound(py));
    let seen = SeenAddress::new(system, python.clone());
    drop(it.from.replace(seen));
    Ok(python)
}

/// What became of a datagram that was given to the system.
pub enum Sent {
    Done,
    Blocked,
    /// The protocol is to know.
    Failed(PyErr),
    /// A mistake of the program that ends the transport.
    Fatal(PyErr),
}

/// Where `address` is.
///
/// # Safety
/// `address` is a live object.
#[inline]
pub unsafe fn target(it: &Datagram, address: *mut PyObject) -> Target {
    // SAFETY: the caller's promise.
    unsafe {
        if it.has(CONNECTED) || it.has(PAIRED) && address == ffi::Py_None() {
            return Target::Peer;
        }
        for seen in [&it.from, &it.to] {
            if let Some(system) = seen.with(|seen| seen.system(address).cloned()) {
                return Target::Address(system);
            }
        }
        match address::from_python(it.family, address) {
            Some(system) => {
                let seen = SeenAddress::new(system.clone(), Ref::borrowed(address));
                drop(it.to.replace(seen));
                Target::Address(system)
            }
            None => Target::Python(Ref::borrowed(address)),
        }
    }
}

/// Gives a datagram to the system.
///
/// # Safety
/// `object` is the live object that `data` belongs to.
#[inline]
pub unsafe fn send(it: &Datagram, object: *mut PyObject, data: &[u8], target: &Target) -> Sent {
    let address = match target {
        Target::Peer => None,
        Target::Address(address) => Some(address),
        // SAFETY: the caller's promise.
        Target::Python(address) => return unsafe { send_by_python(it, object, address) },
    };
    match send_to(it.open_fd(), data, address) {
        Ok(()) => {
            it.event_loop.with(|event_loop| {
                if let Some(event_loop) = event_loop {
                    event_loop.core().stats.sent(data.len());
                }
            });
            Sent::Done
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Blocked,
        Err(error) => Sent::Failed(exceptions::os_error(&error)),
    }
}

fn send_to(fd: RawFd, data: &[u8], address: Option<&SockAddr>) -> io::Result<()> {
    let (name, length) = address.map_or((std::ptr::null(), 0), |address| {
        (address.as_ptr(), address.len())
    });
    loop {
        // SAFETY: data and address are valid for the call.
        let n = unsafe {
            libc::sendto(
                fd,
                data.as_ptr().cast(),
                data.len(),
                SEND_FLAGS,
                name.cast(),
                length,
            )
        };
        if n >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Has the Python socket send, which resolves names (and waits for that, as in asyncio) and knows every error.
#[cold]
unsafe fn send_by_python(it: &Datagram, data: *mut PyObject, address: &Ref) -> Sent {
    // SAFETY: attached; the data is live.
    let (py, data) = unsafe {
        let py = Python::assume_attached();
        (py, Bound::from_borrowed_ptr(py, data))
    };
    let Some(socket) = it.socket.get() else {
        return Sent::Done;
    };
    let sent = socket
        .bind(py)
        .call_method1("sendto", (data, address.bind(py)));
    match sent {
        Ok(_) => Sent::Done,
        Err(error) if error.is_instance_of::<pyo3::exceptions::PyBlockingIOError>(py) => {
            Sent::Blocked
        }
        Err(error) if error.is_instance_of::<PyOSError>(py) => Sent::Failed(error),
        Err(error) => Sent::Fatal(error),
    }
}

/// Tells the protocol, in the current context, that a datagram could not be sent.
#[cold]
pub fn tell_error(it: &Datagram, error: PyErr) -> FfiResult<()> {
    // SAFETY: attached.
    let py = unsafe { Python::assume_attached() };
    let error: Ref = error.into_value(py).into_bound(py).into_any().into();
    let name = &Stdlib::get().names.error_received;
    it.call_protocol_here(name, [error.as_ptr()]).map(drop)
}

/// Ends the transport for an exception that is no `OSError`.
#[cold]
pub fn fatal(me: &Ref, error: PyErr) -> FfiResult<()> {
    let _ = ErrSet::from(error);
    Datagram::fatal_error(me, WRITE_FAILED)
}

/// Queues a datagram until the socket takes it.
pub fn enqueue(
    core: &LoopCore,
    event_loop: *mut PyObject,
    me: &Ref,
    it: &Datagram,
    datagram: Queued,
) -> FfiResult<()> {
    let (left, size) = it.queue.with(|queue| (queue.push(datagram), queue.size()));
    if let Some(left) = left {
        return Err(out_of_memory(left));
    }
    it.set(BLOCKED, true);
    it.update_hold(me.as_ptr());
    it.rearm(core)?;
    it.pause_protocol(event_loop, me, size)
}

/// Sends what is queued, as far as the socket takes it.
#[cold]
pub fn flush(core: &LoopCore, event_loop: *mut PyObject, me: &Ref, it: &Datagram) -> FfiResult<()> {
    for _ in 0..SENDS_PER_EVENT {
        let Some(next) = it.queue.with(Queue::pop) else {
            break;
        };
        // SAFETY: an exact `bytes` object, held here.
        let sent = unsafe { send(it, next.data.as_ptr(), bytes_of(&next.data), &next.target) };
        match sent {
            Sent::Done => {}
            Sent::Blocked => {
                it.queue.with(|queue| queue.unpop(next));
                break;
            }
            Sent::Failed(error) => {
                if it.in_context(|| tell_error(it, error)).is_err() {
                    callback_failed(event_loop, me, it, "error_received")?;
                }
            }
            Sent::Fatal(error) => return fatal(me, error),
        }
    }
    // May send more.
    it.resume_protocol(event_loop, me, it.queue.with(|queue| queue.size()))?;
    if it.queue.with(|queue| queue.is_empty()) {
        it.set(BLOCKED, false);
        if it.has(CLOSING) && it.lost_writes.get() == 0 {
            it.lost_writes.set(1);
            it.schedule_connection_lost(me.as_ptr(), &Ref::none())?;
        }
        it.update_hold(me.as_ptr());
    }
    it.rearm(core)
}

/// The contents of an exact `bytes` object.
fn bytes_of(data: &Ref) -> &[u8] {
    // SAFETY: the queue holds exact `bytes` objects, which never change.
    unsafe {
        let start = ffi::PyBytes_AS_STRING(data.as_ptr()).cast::<u8>();
        std::slice::from_raw_parts(start, ffi::Py_SIZE(data.as_ptr()).unsigned_abs())
    }
}
