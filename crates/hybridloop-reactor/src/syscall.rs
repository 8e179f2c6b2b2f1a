//! Results of system calls.

use std::io;

/// The length that a system call has returned, or the error in `errno` if it is negative.
///
/// # Errors
/// The error in `errno`.
#[inline]
pub fn check_len(returned: isize) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

/// Makes a system call again as long as a signal interrupts it.
///
/// # Errors
/// Those of the call, except [`io::ErrorKind::Interrupted`].
#[inline]
pub fn retry_on_intr<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::{check_len, retry_on_intr};

    #[test]
    fn an_interrupted_call_is_made_again() {
        let mut left = 3;
        let result = retry_on_intr(|| {
            left -= 1;
            if left > 0 {
                return Err(Error::from(ErrorKind::Interrupted));
            }
            Ok(left)
        });
        assert_eq!(result.unwrap(), 0);
        let failed = retry_on_intr(|| Err::<(), _>(Error::from(ErrorKind::WouldBlock)));
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn a_negative_length_is_an_error() {
        assert_eq!(check_len(5).unwrap(), 5);
        // SAFETY: `close` takes a number; this one is no descriptor.
        let returned = unsafe { libc::close(-1) } as isize;
        let error = check_len(returned).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }
}
