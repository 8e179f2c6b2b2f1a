//! Descriptors of sockets that are about to get a transport.

use std::os::fd::RawFd;

/// Closes a descriptor when it is dropped, unless an owner has taken it over.
pub struct FdGuard(Option<RawFd>);

impl FdGuard {
    /// `owned`: no Python socket owns the descriptor.
    pub fn new(fd: RawFd, owned: bool) -> Self {
        Self(owned.then_some(fd))
    }

    /// Leaves the descriptor to its new owner.
    pub fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for FdGuard {
    fn drop(&mut self) {
        if let Some(fd) = self.0 {
            // SAFETY: the guard owns the descriptor: `new` got one that nobody else owns, and `release` was not called.
            unsafe { libc::close(fd) };
        }
    }
}

/// Sets `TCP_NODELAY`. The system refuses it for sockets that are not TCP, which is no error.
pub fn set_nodelay(fd: RawFd) {
    let on: libc::c_int = 1;
    // SAFETY: the option value is a `c_int` of four bytes; the system checks the descriptor.
    unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            4,
        )
    };
}
