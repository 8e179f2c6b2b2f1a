use std::io;
use std::os::fd::RawFd;

use crate::poller::Interest;

/// Registers `fd`, or changes its registration, with the token as event data, as mio does.
pub(crate) fn register(
    epoll: RawFd,
    fd: RawFd,
    token: u64,
    interest: Interest,
    edge: bool,
    known: bool,
) -> io::Result<()> {
    let mut events = if edge { libc::EPOLLET } else { 0 };
    if interest.readable {
        events |= libc::EPOLLIN | libc::EPOLLRDHUP;
        if edge {
            // Reads stop short at urgent data, and no edge tells that there is more behind it.
            events |= libc::EPOLLPRI;
        }
    }
    if interest.writable {
        events |= libc::EPOLLOUT;
    }
    let mut event = libc::epoll_event {
        events: events.cast_unsigned(),
        u64: token,
    };
    let ops = if known {
        [libc::EPOLL_CTL_MOD, libc::EPOLL_CTL_ADD]
    } else {
        [libc::EPOLL_CTL_ADD, libc::EPOLL_CTL_MOD]
    };
    match control(epoll, ops[0], fd, &mut event) {
        // The number was closed and used again, or is registered through an entry that was forgotten: the kernel is
        // right about what it holds.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EEXIST)) => {
            control(epoll, ops[1], fd, &mut event)
        }
        result => result,
    }
}

/// Takes `fd` out. One that is already closed or gone is no error.
pub(crate) fn deregister(epoll: RawFd, fd: RawFd) -> io::Result<()> {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    match control(epoll, libc::EPOLL_CTL_DEL, fd, &mut event) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EBADF)) => Ok(()),
        result => result,
    }
}

fn control(
    epoll: RawFd,
    op: libc::c_int,
    fd: RawFd,
    event: &mut libc::epoll_event,
) -> io::Result<()> {
    // SAFETY: `event` is valid for the call; the kernel checks both descriptors.
    if unsafe { libc::epoll_ctl(epoll, op, fd, event) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
