//! `getnameinfo`.

use std::ffi::CStr;
use std::ptr;

use crate::dns::{Failure, NameQuery, Names};

impl NameQuery {
    /// Asks the system, and blocks as long as that takes.
    ///
    /// # Errors
    /// As the system says.
    pub fn ask(&self) -> Result<Names, Failure> {
        // NI_MAXHOST and NI_MAXSERV
        let (mut host, mut service) = ([0; 1025], [0; 32]);
        // SAFETY: all-zero is a valid request; texts and buffers are valid for the calls and as long as they say; the
        // list is freed once, and a list without an error is not empty. The system ends texts with a zero byte.
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
                return Err(Failure::new(code));
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
            let failure = (code != 0).then(|| Failure::new(code));
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
