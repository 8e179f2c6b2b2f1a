//! `recv`, into the loop's scratch buffer or directly into the `bytes` object for the protocol.

use std::ffi::c_int;
use std::io;
use std::os::fd::RawFd;

use hybridloop_reactor::syscall::{check_len, retry_on_intr};

use crate::event_loop::LoopCore;
use crate::python::bytes::ReceiveBuffer;
use crate::python::{FfiResult, Ref};

/// The size of one `recv`, as in asyncio. All streams and sockets of a loop share one buffer of this size: a new one of
/// this size would be mapped and unmapped by the allocator for each read.
pub const READ_SIZE: usize = 256 * 1024;

/// Receives up to `size` bytes.
pub fn receive(fd: RawFd, into: *mut u8, size: usize, flags: c_int) -> io::Result<usize> {
    // SAFETY: the caller guarantees that `size` bytes at `into` are writable.
    retry_on_intr(|| check_len(unsafe { libc::recv(fd, into.cast(), size, flags) }))
}

/// Receives up to `most` bytes, [`READ_SIZE`] at most, and returns their number. Without `buffer`, the data goes to the loop's
/// scratch buffer, and `make` makes the object.
#[inline]
pub fn receive_bytes(
    core: &LoopCore,
    fd: RawFd,
    most: usize,
    flags: c_int,
    buffer: Option<ReceiveBuffer>,
    make: impl FnOnce(&[u8]) -> FfiResult<Ref>,
) -> io::Result<(usize, FfiResult<Ref>)> {
    let most = most.min(READ_SIZE);
    let received = match buffer {
        Some(buffer) if buffer.len() <= most => receive_large(core, fd, most, flags, buffer)?,
        _ => core.scratch.with(|scratch| -> io::Result<_> {
            fill_up(scratch, READ_SIZE)?;
            let n = receive(fd, scratch.as_mut_ptr(), most, flags)?;
            Ok((n, make(&scratch[..n])))
        })?,
    };
    core.spare_bytes.note(received.0);
    Ok(received)
}

fn receive_large(
    core: &LoopCore,
    fd: RawFd,
    most: usize,
    flags: c_int,
    buffer: ReceiveBuffer,
) -> io::Result<(usize, FfiResult<Ref>)> {
    // Objects may be dropped below, so the buffer is taken out of its cell first.
    let mut scratch = core.scratch.take();
    let received = fill_up(&mut scratch, READ_SIZE).and_then(|()| {
        let rest = &mut scratch[..most - buffer.len()];
        let n = receive_both(fd, &buffer, rest, flags)?;
        Ok((n, buffer.into_bytes(n, rest)))
    });
    drop(core.scratch.replace(scratch));
    received
}

/// Extends a buffer to `size` bytes, if it is shorter.
///
/// # Errors
/// [`io::ErrorKind::OutOfMemory`]
#[inline]
pub fn fill_up(scratch: &mut Vec<u8>, size: usize) -> io::Result<()> {
    if scratch.len() < size {
        scratch.try_reserve_exact(size - scratch.len())?;
        scratch.resize(size, 0);
    }
    Ok(())
}

/// Receives into the buffer, and behind it.
fn receive_both(
    fd: RawFd,
    buffer: &ReceiveBuffer,
    rest: &mut [u8],
    flags: c_int,
) -> io::Result<usize> {
    let mut parts = [
        libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        },
        libc::iovec {
            iov_base: rest.as_mut_ptr().cast(),
            iov_len: rest.len(),
        },
    ];
    // SAFETY: a zeroed `msghdr` is valid: it has null pointers and no parts. Only the type of the count differs between
    // systems.
    let mut message = unsafe { std::mem::zeroed::<libc::msghdr>() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len() as _;
    // SAFETY: both parts are writable for their length: `buffer` is the only reference to its object, `rest` is a `&mut` slice.
    retry_on_intr(|| check_len(unsafe { libc::recvmsg(fd, &raw mut message, flags) }))
}
