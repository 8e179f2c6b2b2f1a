//! `recv`, into the loop's buffer or straight into the object that the data is handed over in.

use std::ffi::c_int;
use std::io;
use std::os::fd::RawFd;

use hybridloop_reactor::syscall::{check_len, retry_on_intr};

use crate::event_loop::LoopCore;
use crate::python::bytes::Room;
use crate::python::{FfiResult, Ref};

/// What one `recv` takes at most, as in asyncio. All streams and sockets of a loop share one such buffer: a fresh one of
/// this size would be mapped and unmapped by the allocator for each read.
pub const READ_SIZE: usize = 256 * 1024;

/// Receives up to `size` bytes.
pub fn receive(fd: RawFd, into: *mut u8, size: usize, flags: c_int) -> io::Result<usize> {
    // SAFETY: the caller's buffer has `size` bytes.
    retry_on_intr(|| check_len(unsafe { libc::recv(fd, into.cast(), size, flags) }))
}

/// Receives up to `most` bytes, [`READ_SIZE`] at most, and tells their number. Without a room, `make` makes the object of
/// what has come into the loop's buffer.
#[inline]
pub fn receive_bytes(
    core: &LoopCore,
    fd: RawFd,
    most: usize,
    flags: c_int,
    room: Option<Room>,
    make: impl FnOnce(&[u8]) -> FfiResult<Ref>,
) -> io::Result<(usize, FfiResult<Ref>)> {
    let most = most.min(READ_SIZE);
    let received = match room {
        Some(room) if room.len() <= most => receive_large(core, fd, most, flags, room)?,
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
    room: Room,
) -> io::Result<(usize, FfiResult<Ref>)> {
    // Objects are dropped while it is out of its cell.
    let mut scratch = core.scratch.take();
    let received = fill_up(&mut scratch, READ_SIZE).and_then(|()| {
        let behind = &mut scratch[..most - room.len()];
        let n = receive_both(fd, &room, behind, flags)?;
        Ok((n, room.filled(n, behind)))
    });
    drop(core.scratch.replace(scratch));
    received
}

/// Makes a buffer `size` bytes long, if it is shorter.
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

/// Receives into the room, and behind it.
fn receive_both(fd: RawFd, room: &Room, behind: &mut [u8], flags: c_int) -> io::Result<usize> {
    let mut parts = [
        libc::iovec {
            iov_base: room.start().cast(),
            iov_len: room.len(),
        },
        libc::iovec {
            iov_base: behind.as_mut_ptr().cast(),
            iov_len: behind.len(),
        },
    ];
    // SAFETY: all zeros are a message without anything; what differs between systems is the type of the count.
    let mut message = unsafe { std::mem::zeroed::<libc::msghdr>() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len() as _;
    // SAFETY: both parts can be written to, and nobody else has the room.
    retry_on_intr(|| check_len(unsafe { libc::recvmsg(fd, &raw mut message, flags) }))
}
