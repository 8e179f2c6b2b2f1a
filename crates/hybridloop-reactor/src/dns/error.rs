//! Errors of the system's resolver.

use std::ffi::{c_int, CStr, CString};

/// Why a lookup failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupError {
    /// `EAI_…`.
    pub code: c_int,
    /// `errno`, which is meaningful if the code is `EAI_SYSTEM`.
    pub errno: c_int,
    /// The message of the system.
    pub message: CString,
}

impl LookupError {
    pub(super) fn new(code: c_int) -> Self {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        // SAFETY: `gai_strerror` returns a C string that is never freed, for any code.
        let message = unsafe { CStr::from_ptr(libc::gai_strerror(code)) }.to_owned();
        Self {
            code,
            errno,
            message,
        }
    }
}
