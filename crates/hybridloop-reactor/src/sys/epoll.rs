use std::io;
use std::os::fd::RawFd;

use crate::interest::Interest;

/// Registers `fd` or changes its registration. The token is the data of its events, as in mio.
pub(crate) fn register(
    epoll: RawFd,
    fd: RawFd,
    token: u64,
    interest: Interest,
    edge: bool,
    registered: bool,
) -> io::Result<()> {
    let mut events = if edge { libc::EPOLLET } else { 0 };
    if interest.readable {
        events |= libc::EPOLLIN | libc::EPOLLRDHUP;
        if edge {
            // A read stops before urgent data, and no edge reports that more data follows.
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
    let ops = if registered {
        [libc::EPOLL_CTL_MOD, libc::EPOLL_CTL_ADD]
    } else {
        [libc::EPOLL_CTL_ADD, libc::EPOLL_CTL_MOD]
    };
    match control(epoll, ops[0], fd, &mut event) {
        // The number was closed and reused, or is registered although the caller does not know it. The kernel is right.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EEXIST)) => {
            control(epoll, ops[1], fd, &mut event)
        }
        result => result,
    }
}

/// Removes `fd`. A descriptor that is closed or not registered is no error.
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
    // SAFETY: `event` is valid during the call; the kernel checks both descriptors.
    if unsafe { libc::epoll_ctl(epoll, op, fd, event) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
