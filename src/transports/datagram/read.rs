//! From the socket to the protocol.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use hybridloop_reactor::syscall::{check_len, retry_on_intr};
use pyo3::prelude::*;

use crate::event_loop::io::receive::fill_up;
use crate::event_loop::{exceptions, LoopContext};
use crate::python::stdlib::Stdlib;
use crate::python::{normalized, ErrSet, FfiResult, Ref};
use crate::transports::address::{self, Address};
use crate::transports::datagram::address_cache::AddressCache;
use crate::transports::datagram::state::{DatagramTransport, IN_BURST};
use crate::transports::lifecycle::fatal_error;

/// The largest datagram that is received whole, as in asyncio. All transports of a loop share one buffer of this size.
const MAX_SIZE: usize = 256 * 1024;
/// The most datagrams received for one event, so that one busy socket does not starve the others.
const READS_PER_EVENT: usize = 16;
/// After so many events in quick succession, the next one tries to receive several datagrams. So do later ones while it
/// succeeds.
const BURST_EVENTS: u8 = 2;

const READ_FAILED: &str = "Fatal read error on datagram transport";

/// Receives datagrams. The selector reports what is left with the next poll.
pub fn read(cx: LoopContext<'_>, slf: &Ref, transport: &DatagramTransport) -> FfiResult<()> {
    let now = cx.core.last_poll();
    let quick = now.wrapping_sub(transport.last_event.replace(now)) < transport.burst_ticks;
    let events = if quick {
        transport.burst_events.get() + 1
    } else {
        0
    };
    let look_for_more = transport.has(IN_BURST) || events == BURST_EVENTS;
    transport.burst_events.set(events % BURST_EVENTS);
    let limit = if look_for_more { READS_PER_EVENT } else { 1 };
    let mut count = 0;
    while count < limit && transport.wants_to_read() {
        if !receive_one(cx, slf, transport)? {
            break;
        }
        count += 1;
    }
    if look_for_more {
        transport.set(IN_BURST, count > 1);
    }
    Ok(())
}

/// Receives one datagram, or the error of one that was sent before; `false` if there is neither.
#[inline]
fn receive_one(cx: LoopContext<'_>, slf: &Ref, transport: &DatagramTransport) -> FfiResult<bool> {
    let (py, core) = (cx.py, cx.core);
    let fd = transport.open_fd();
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
                return fatal_error(py, slf, READ_FAILED).map(|()| false);
            };
            // SAFETY: `recvfrom` has written an address of that length.
            let sender = unsafe { sender(py, transport, &from, length)? };
            let name = &Stdlib::get().names.datagram_received;
            let called = transport.call_protocol(name, [data.as_ptr(), sender.as_ptr()]);
            if called.is_ok() {
                core.spare_bytes.keep(data);
            }
            (called, "datagram_received")
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
        Err(error) if error.raw_os_error().is_none() => {
            // No error of the socket: there is no memory for the buffer.
            let _ = ErrSet::from(exceptions::os_error(&error));
            return fatal_error(py, slf, READ_FAILED).map(|()| false);
        }
        Err(error) => {
            let error: Ref = normalized(exceptions::os_error(&error))
                .into_value(py)
                .into_bound(py)
                .into_any()
                .into();
            let name = &Stdlib::get().names.error_received;
            let called = transport.call_protocol(name, [error.as_ptr()]);
            (called, "error_received")
        }
    };
    if called.is_err() {
        transport.callback_failed(cx, slf, name)?;
    }
    Ok(true)
}

/// Receives one datagram: its size, and the length of its sender's address.
fn recvfrom(
    fd: RawFd,
    into: &mut [u8],
    from: &mut MaybeUninit<libc::sockaddr_storage>,
) -> io::Result<(usize, libc::socklen_t)> {
    #[allow(clippy::cast_possible_truncation)] // 128
    const ADDRESS_SIZE: libc::socklen_t = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    retry_on_intr(|| {
        let mut length = ADDRESS_SIZE;
        // SAFETY: both buffers are as long as the system is told.
        let n = check_len(unsafe {
            libc::recvfrom(
                fd,
                into.as_mut_ptr().cast(),
                into.len(),
                0,
                from.as_mut_ptr().cast(),
                &raw mut length,
            )
        })?;
        Ok((n, length.min(ADDRESS_SIZE)))
    })
}

/// The address of a datagram's sender; `None` for one without a name.
///
/// # Safety
/// `from` holds an address of `length` bytes.
#[inline]
unsafe fn sender(
    py: Python<'_>,
    transport: &DatagramTransport,
    from: &MaybeUninit<libc::sockaddr_storage>,
    length: libc::socklen_t,
) -> FfiResult<Ref> {
    if length == 0 {
        return Ok(Ref::none());
    }
    // SAFETY: the caller guarantees that so many bytes are initialized.
    let raw = unsafe { std::slice::from_raw_parts(from.as_ptr().cast::<u8>(), length as usize) };
    let cached = transport.last_sender.with(|cache| cache.to_python(raw));
    if let Some(cached) = cached {
        return Ok(cached);
    }
    let Some(system) = address::from_bytes(raw) else {
        return Ok(Ref::none());
    };
    let python = Ref::from(Address::new(&system).to_python(py)?.into_bound(py));
    let cache = AddressCache::new(system, python.clone());
    drop(transport.last_sender.replace(cache));
    Ok(python)
}
