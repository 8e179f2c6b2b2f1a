use std::io;
use std::os::fd::RawFd;
use std::ptr;

use crate::interest::Interest;

/// Registers `fd` or changes its registration. The token is the data of its events, as in mio.
pub(crate) fn register(
    kqueue: RawFd,
    fd: RawFd,
    token: u64,
    interest: Interest,
    edge: bool,
    _registered: bool,
) -> io::Result<()> {
    let add = libc::EV_ADD | if edge { libc::EV_CLEAR } else { 0 };
    for (filter, wanted) in [
        (libc::EVFILT_READ, interest.readable),
        (libc::EVFILT_WRITE, interest.writable),
    ] {
        let result = control(
            kqueue,
            fd,
            filter,
            if wanted { add } else { libc::EV_DELETE },
            token,
        );
        match result {
            // The filter was never added, so there is nothing to delete.
            Err(error) if !wanted && error.raw_os_error() == Some(libc::ENOENT) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Removes `fd`. A descriptor that is closed or not registered is no error.
pub(crate) fn deregister(kqueue: RawFd, fd: RawFd) -> io::Result<()> {
    for filter in [libc::EVFILT_READ, libc::EVFILT_WRITE] {
        match control(kqueue, fd, filter, libc::EV_DELETE, 0) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EBADF)) => {}
            result => result?,
        }
    }
    Ok(())
}

fn control(kqueue: RawFd, fd: RawFd, filter: i16, flags: u16, token: u64) -> io::Result<()> {
    let change = libc::kevent {
        ident: fd.cast_unsigned() as libc::uintptr_t,
        filter,
        flags,
        fflags: 0,
        data: 0,
        udata: token as *mut libc::c_void,
    };
    // SAFETY: the call reads one change, which is a variable here, and writes no events.
    if unsafe {
        libc::kevent(
            kqueue,
            &raw const change,
            1,
            ptr::null_mut(),
            0,
            ptr::null(),
        )
    } == -1
    {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
