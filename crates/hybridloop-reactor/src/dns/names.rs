//! `getnameinfo`: a query and its result.

use std::ffi::{c_int, CStr, CString};
use std::ptr;

use crate::dns::error::LookupError;

/// A query for `getnameinfo`.
#[derive(Clone, Debug)]
pub struct NameQuery {
    /// A literal address, with its zone if it has one.
    pub host: CString,
    /// The port, a number.
    pub service: CString,
    /// The flow label of an IPv6 address.
    pub flow: u32,
    /// The zone of an IPv6 address.
    pub scope: u32,
    /// `NI_…`.
    pub flags: c_int,
}

/// Names of a host and of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The name of the host.
    pub host: CString,
    /// The name of the service.
    pub service: CString,
}

impl NameQuery {
    /// Asks the system, and blocks until it answers.
    ///
    /// # Errors
    /// The error of the system.
    pub fn resolve(&self) -> Result<Names, LookupError> {
        // NI_MAXHOST and NI_MAXSERV
        let (mut host, mut service) = ([0; 1025], [0; 32]);
        // SAFETY: all-zero is a valid `addrinfo`. The texts are C strings of `self`; the buffers are as long as the calls are
        // told. Without an error, `getaddrinfo` returns a list of at least one entry, which is freed once, after the last use.
        // Without an error, `getnameinfo` terminates both names.
        unsafe {
            let mut hints: libc::addrinfo = std::mem::zeroed();
            hints.ai_socktype = libc::SOCK_DGRAM;
            hints.ai_flags = libc::AI_NUMERICHOST | libc::AI_NUMERICSERV;
            let mut list = ptr::null_mut();
            let code = libc::getaddrinfo(
                self.host.as_ptr(),
                self.service.as_ptr(),
                &raw const hints,
                &raw mut list,
            );
            if code != 0 {
                return Err(LookupError::new(code));
            }
            let (address, length) = ((*list).ai_addr, (*list).ai_addrlen);
            if (*list).ai_family == libc::AF_INET6 {
                let bytes = address.cast::<u8>();
                let put = |at: usize, value: u32| {
                    ptr::copy_nonoverlapping(value.to_ne_bytes().as_ptr(), bytes.add(at), 4);
                };
                let flow = std::mem::offset_of!(libc::sockaddr_in6, sin6_flowinfo);
                put(flow, self.flow.to_be());
                let scope = std::mem::offset_of!(libc::sockaddr_in6, sin6_scope_id);
                put(scope, self.scope);
            }
            let code = libc::getnameinfo(
                address,
                length,
                host.as_mut_ptr(),
                1025,
                service.as_mut_ptr(),
                32,
                self.flags,
            );
            let failure = (code != 0).then(|| LookupError::new(code));
            libc::freeaddrinfo(list);
            failure.map_or_else(
                || {
                    Ok(Names {
                        host: CStr::from_ptr(host.as_ptr()).to_owned(),
                        service: CStr::from_ptr(service.as_ptr()).to_owned(),
                    })
                },
                Err,
            )
        }
    }
}
