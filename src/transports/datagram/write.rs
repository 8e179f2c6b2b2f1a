//! From the protocol to the socket.

use std::io;
use std::os::fd::RawFd;

use hybridloop_reactor::syscall::{check_len, retry_on_intr};
use pyo3::exceptions::{PyBlockingIOError, PyOSError, PyValueError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use socket2::SockAddr;

use crate::allocator::out_of_memory;
use crate::event_loop::{exceptions, LoopContext};
use crate::python::bytes::{contents, with_bytes};
use crate::python::stdlib::Stdlib;
use crate::python::{ErrSet, FfiResult, Ref};
use crate::transports::address;
use crate::transports::args::{exact_bytes, is_bytes_like, not_bytes};
use crate::transports::base::{BLOCKED, CLOSING, LOST};
use crate::transports::datagram::address_cache::AddressCache;
use crate::transports::datagram::queue::{QueuedDatagram, Target, WriteQueue};
use crate::transports::datagram::state::{DatagramTransport, CONNECTED, CONNECTED_TO_UNNAMED};
use crate::transports::lifecycle::{fatal_error, Transport};

/// Up to Python 3.12 asyncio does not send empty datagrams.
const SENDS_EMPTY: bool = cfg!(Py_3_13);

/// The most datagrams sent for one event.
const SENDS_PER_EVENT: usize = 64;

#[cfg(target_os = "linux")]
const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL;
#[cfg(not(target_os = "linux"))]
const SEND_FLAGS: libc::c_int = 0;

const WRITE_FAILED: &str = "Fatal write error on datagram transport";

/// What became of a datagram.
enum SendOutcome {
    Sent,
    WouldBlock,
    /// The socket refused it, which the protocol's `error_received()` gets.
    Failed(PyErr),
    /// Not an `OSError`, so it ends the transport.
    Fatal(PyErr),
}

/// `transport.sendto(data, address)`
///
/// # Safety
/// `data` and `address` are live objects.
pub unsafe fn send_object(
    py: Python<'_>,
    slf: &Ref,
    transport: &DatagramTransport,
    data: *mut PyObject,
    address: *mut PyObject,
) -> FfiResult<()> {
    // SAFETY: the caller guarantees that `data` is live.
    unsafe {
        if !is_bytes_like(data) {
            return Err(not_bytes(py, &Stdlib::get().datagram_sendto, data));
        }
        if !SENDS_EMPTY && ffi::PyObject_IsTrue(data) == 0 {
            return Ok(());
        }
    }
    let mut address = address;
    let remote = transport.remote_address.get();
    if let Some(remote) = &remote {
        // SAFETY: the caller guarantees that `address` is live.
        check_address(py, remote, unsafe { Ref::from_ptr_ref(&address) })?;
        address = remote.as_ptr();
    }
    if transport.lost_writes.get() > 0 && (remote.is_some() || transport.has(LOST)) {
        return transport.count_lost_write(py).map(drop);
    }
    let Some(event_loop) = transport.event_loop.get() else {
        return Ok(());
    };
    let cx = event_loop.cx(py);
    // SAFETY: `address` is live: it is the caller's, or `remote` holds it.
    let target = unsafe { target(transport, address) };
    if transport.queue.with(|queue| queue.is_empty()) {
        // The view keeps the bytes where they are.
        let sent = with_bytes(data, |bytes| {
            // SAFETY: the caller guarantees that `data` is live.
            Ok(unsafe { send(cx, transport, data, bytes, &target) })
        });
        match sent.unwrap_or_else(|ErrSet| SendOutcome::Fatal(PyErr::fetch(py))) {
            SendOutcome::Sent => return Ok(()),
            SendOutcome::WouldBlock => {}
            SendOutcome::Failed(error) => return error_received(py, transport, error),
            SendOutcome::Fatal(error) => return send_failed(py, slf, error),
        }
    }
    if transport.lost_writes.get() > 0 || transport.has(LOST) {
        // Nothing will send what is queued.
        return Ok(());
    }
    // SAFETY: the caller guarantees that `data` is live.
    let data = unsafe { exact_bytes(data)? };
    enqueue(cx, slf, transport, QueuedDatagram { data, target })
}

/// Refuses another address than the remote address of the transport.
fn check_address(py: Python<'_>, remote: &Ref, address: &Ref) -> FfiResult<()> {
    let (remote, address) = (remote.bind(py), address.bind(py));
    if address.is_none() || address.is(remote) || remote.eq(address)? {
        return Ok(());
    }
    let remote = remote.str()?;
    Err(PyValueError::new_err(format!("Invalid address: must be None or {remote}")).into())
}

/// Where a datagram for `address` is sent to.
///
/// # Safety
/// `address` is a live object.
#[inline]
unsafe fn target(transport: &DatagramTransport, address: *mut PyObject) -> Target {
    // SAFETY: `None` is always live.
    let is_none = address == unsafe { ffi::Py_None() };
    if transport.has(CONNECTED) || transport.has(CONNECTED_TO_UNNAMED) && is_none {
        return Target::Peer;
    }
    for cache in [&transport.last_sender, &transport.last_target] {
        let known = cache.with(|cache| cache.to_system(address).cloned().map(Target::Address));
        if let Some(target) = known {
            return target;
        }
    }
    // SAFETY: the caller guarantees that `address` is live.
    let (system, address) = unsafe {
        let system = address::from_python(transport.family, address);
        (system, Ref::borrowed(address))
    };
    let Some(system) = system else {
        return Target::Unresolved(address);
    };
    let cache = AddressCache::new(system.clone(), address);
    drop(transport.last_target.replace(cache));
    Target::Address(system)
}

/// Gives a datagram to the system.
///
/// # Safety
/// `object` is live, and `data` are its contents.
#[inline]
unsafe fn send(
    cx: LoopContext<'_>,
    transport: &DatagramTransport,
    object: *mut PyObject,
    data: &[u8],
    target: &Target,
) -> SendOutcome {
    let address = match target {
        Target::Peer => None,
        Target::Address(address) => Some(address),
        Target::Unresolved(address) => {
            // SAFETY: the caller guarantees that `object` is live.
            return send_by_python(
                cx.py,
                transport,
                unsafe { Ref::from_ptr_ref(&object) },
                address,
            );
        }
    };
    match sendto(transport.open_fd(), data, address) {
        Ok(()) => {
            cx.core.stats.sent(data.len());
            SendOutcome::Sent
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => SendOutcome::WouldBlock,
        Err(error) => SendOutcome::Failed(exceptions::os_error(&error)),
    }
}

fn sendto(fd: RawFd, data: &[u8], address: Option<&SockAddr>) -> io::Result<()> {
    let (name, length) = address.map_or((std::ptr::null(), 0), |address| {
        (address.as_ptr(), address.len())
    });
    retry_on_intr(|| {
        // SAFETY: data and address are valid during the call, and as long as the system is told.
        check_len(unsafe {
            libc::sendto(
                fd,
                data.as_ptr().cast(),
                data.len(),
                SEND_FLAGS,
                name.cast(),
                length,
            )
        })
        .map(drop)
    })
}

/// `socket.sendto(data, address)`: the socket resolves names, which blocks as it does in asyncio, and raises every error.
#[cold]
fn send_by_python(
    py: Python<'_>,
    transport: &DatagramTransport,
    data: &Ref,
    address: &Ref,
) -> SendOutcome {
    let Some(socket) = transport.socket.get() else {
        return SendOutcome::Sent;
    };
    let args = (data.bind(py), address.bind(py));
    match socket.bind(py).call_method1("sendto", args) {
        Ok(_) => SendOutcome::Sent,
        Err(error) if error.is_instance_of::<PyBlockingIOError>(py) => SendOutcome::WouldBlock,
        Err(error) if error.is_instance_of::<PyOSError>(py) => SendOutcome::Failed(error),
        Err(error) => SendOutcome::Fatal(error),
    }
}

/// `protocol.error_received(error)`, in the context of the caller.
#[cold]
fn error_received(py: Python<'_>, transport: &DatagramTransport, error: PyErr) -> FfiResult<()> {
    let error: Ref = error.into_value(py).into_bound(py).into_any().into();
    let name = &Stdlib::get().names.error_received;
    transport
        .call_protocol_in_current_context(name, [error.as_ptr()])
        .map(drop)
}

/// Ends the transport for an exception that is not an `OSError`.
#[cold]
fn send_failed(py: Python<'_>, slf: &Ref, error: PyErr) -> FfiResult<()> {
    let _ = ErrSet::from(error);
    fatal_error(py, slf, WRITE_FAILED)
}

/// Queues a datagram until the socket takes it.
fn enqueue(
    cx: LoopContext<'_>,
    slf: &Ref,
    transport: &DatagramTransport,
    datagram: QueuedDatagram,
) -> FfiResult<()> {
    let (refused, size) = transport
        .queue
        .with(|queue| (queue.push(datagram), queue.size()));
    if let Some(refused) = refused {
        return Err(out_of_memory(refused));
    }
    transport.set(BLOCKED, true);
    transport.update_hold(slf);
    transport.rearm(cx.core)?;
    transport.pause_protocol(cx, slf, size)
}

/// Sends what is queued, as far as the socket takes it.
#[cold]
pub fn flush(cx: LoopContext<'_>, slf: &Ref, transport: &DatagramTransport) -> FfiResult<()> {
    for _ in 0..SENDS_PER_EVENT {
        let Some(next) = transport.queue.with(WriteQueue::pop) else {
            break;
        };
        let object = next.data.as_ptr();
        // SAFETY: `next` holds an exact `bytes` object, which does not change.
        let sent = unsafe { send(cx, transport, object, contents(object), &next.target) };
        match sent {
            SendOutcome::Sent => {}
            SendOutcome::WouldBlock => {
                transport.queue.with(|queue| queue.push_front(next));
                break;
            }
            SendOutcome::Failed(error) => {
                let called = transport.run_in_context(|| error_received(cx.py, transport, error));
                if called.is_err() {
                    transport.callback_failed(cx, slf, "error_received")?;
                }
            }
            SendOutcome::Fatal(error) => return send_failed(cx.py, slf, error),
        }
    }
    // The protocol may send more.
    transport.resume_protocol(cx, slf, transport.queue.with(|queue| queue.size()))?;
    if transport.queue.with(|queue| queue.is_empty()) {
        transport.set(BLOCKED, false);
        if transport.has(CLOSING) && transport.lost_writes.get() == 0 {
            transport.lost_writes.set(1);
            transport.schedule_connection_lost(cx.py, slf, &Ref::none())?;
        }
        transport.update_hold(slf);
    }
    transport.rearm(cx.core)
}
