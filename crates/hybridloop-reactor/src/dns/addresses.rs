//! `getaddrinfo`: what it is asked, and its list as values.

use std::ffi::{c_int, CStr, CString};
use std::net::Ipv4Addr;
use std::ptr;

use crate::dns::{Address, Answer, Failure, Found, Query};

impl Query {
    /// Asks the system, and blocks as long as that takes.
    ///
    /// # Errors
    /// As the system says.
    pub fn ask(&self) -> Answer {
        self.ask_with(self.flags)
    }

    /// The answer if it takes no lookup: the host is a literal address or none, and the port a number or none.
    ///
    /// The system itself answers, told not to look anything up. `None` when it can't.
    #[must_use]
    pub fn literal(&self) -> Option<Vec<Found>> {
        let host = self.host.as_deref().map(CStr::to_bytes);
        let service = self.service.as_deref().map(CStr::to_bytes);
        if !host.is_none_or(may_be_literal) || !service.is_none_or(is_number) {
            return None;
        }
        // What other flags ask for may take a look at more than the host.
        if self.flags & !(libc::AI_PASSIVE | libc::AI_NUMERICHOST | libc::AI_NUMERICSERV) != 0 {
            return None;
        }
        self.ask_with(self.flags | libc::AI_NUMERICHOST | libc::AI_NUMERICSERV)
            .ok()
    }

    fn ask_with(&self, flags: c_int) -> Answer {
        let text = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |it| it.as_ptr());
        // SAFETY: all-zero is a valid request.
        let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
        hints.ai_family = self.family;
        hints.ai_socktype = self.kind;
        hints.ai_protocol = self.protocol;
        hints.ai_flags = flags;
        let mut list = ptr::null_mut();
        // SAFETY: both texts and the request are valid for the call.
        let code = unsafe {
            libc::getaddrinfo(
                text(&self.host),
                text(&self.service),
                &raw const hints,
                &raw mut list,
            )
        };
        if code != 0 {
            return Err(Failure::new(code));
        }
        let mut found = Vec::new();
        let mut next = list;
        // SAFETY: the system's list ends with a null pointer and is valid until it is freed.
        unsafe {
            while let Some(entry) = next.as_ref() {
                // Whoever answers decides how many there are.
                if found.try_reserve(1).is_err() {
                    break;
                }
                found.push(Found::read(entry));
                next = entry.ai_next;
            }
            libc::freeaddrinfo(list);
        }
        if next.is_null() {
            Ok(found)
        } else {
            Err(Failure::new(libc::EAI_MEMORY))
        }
    }
}

/// Whether a host may be an address in numbers: what the system's functions take for one has no other characters, and
/// behind a `%` there is the name of an interface.
fn may_be_literal(host: &[u8]) -> bool {
    /// No label of a name is longer, so that whoever checks those has nothing to check.
    const LONGEST: usize = 63;
    let end = host.iter().position(|&byte| byte == b'%');
    let (address, zone) = host.split_at(end.unwrap_or(host.len()));
    !address.is_empty()
        && host.len() <= LONGEST
        && address
            .iter()
            .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':' | b'x' | b'X'))
        && address
            .iter()
            .any(|byte| matches!(byte, b'.' | b':' | b'0'..=b'9'))
        && zone.iter().all(u8::is_ascii_graphic)
}

fn is_number(service: &[u8]) -> bool {
    !service.is_empty() && service.iter().all(u8::is_ascii_digit)
}

impl Found {
    /// # Safety
    /// The entry is one of the system's list.
    unsafe fn read(entry: &libc::addrinfo) -> Self {
        // SAFETY: an entry's texts are terminated or null, and its address has the type that its family says.
        unsafe {
            let canonical_name = (!entry.ai_canonname.is_null())
                .then(|| CStr::from_ptr(entry.ai_canonname).to_owned());
            Self {
                family: entry.ai_family,
                kind: entry.ai_socktype,
                protocol: entry.ai_protocol,
                canonical_name,
                address: Address::read(entry.ai_addr, entry.ai_addrlen as usize),
            }
        }
    }
}

impl Address {
    unsafe fn read(address: *const libc::sockaddr, length: usize) -> Self {
        // SAFETY: the caller's address is as long as it says, and of the type that its family says.
        unsafe {
            match c_int::from((*address).sa_family) {
                libc::AF_INET => {
                    let inet = address.cast::<libc::sockaddr_in>().read_unaligned();
                    Self::V4 {
                        host: Ipv4Addr::from_bits(u32::from_be(inet.sin_addr.s_addr)).to_string(),
                        port: u16::from_be(inet.sin_port),
                    }
                }
                libc::AF_INET6 => {
                    let inet = address.cast::<libc::sockaddr_in6>().read_unaligned();
                    Self::V6 {
                        host: numbers(&inet.sin6_addr),
                        port: u16::from_be(inet.sin6_port),
                        flow: u32::from_be(inet.sin6_flowinfo),
                        scope: inet.sin6_scope_id,
                    }
                }
                _ => {
                    let start = std::mem::offset_of!(libc::sockaddr, sa_data);
                    let data = address.cast::<u8>().add(start);
                    Self::Other(
                        std::slice::from_raw_parts(data, length.saturating_sub(start)).to_vec(),
                    )
                }
            }
        }
    }
}

/// The address as the system writes it, which is not how Rust does: `::1.2.3.4`.
fn numbers(address: &libc::in6_addr) -> String {
    // INET6_ADDRSTRLEN
    let mut text = [0; 46];
    // SAFETY: the buffer is as long as the length given, and long enough for every address, so that it is terminated.
    unsafe {
        inet_ntop(
            libc::AF_INET6,
            ptr::from_ref(address).cast(),
            text.as_mut_ptr(),
            46,
        );
        CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()
    }
}

extern "C" {
    fn inet_ntop(
        family: c_int,
        address: *const libc::c_void,
        into: *mut libc::c_char,
        size: libc::socklen_t,
    ) -> *const libc::c_char;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn query(host: Option<&str>, service: Option<&str>) -> Query {
        let text = |text: Option<&str>| text.map(|text| CString::new(text).unwrap());
        Query {
            host: text(host),
            service: text(service),
            ..Query::default()
        }
    }

    #[test]
    fn literals_need_no_lookup_and_come_out_the_same() {
        let hosts = [
            Some("127.0.0.1"),
            Some("1"),
            Some("0x7f.1"),
            Some("::1"),
            Some("::ffff:1.2.3.4"),
            Some("fe80::1%lo"),
            None,
        ];
        for host in hosts {
            let query = query(host, Some("80"));
            assert_eq!(query.literal(), Some(query.ask().unwrap()), "{host:?}");
        }
    }

    #[test]
    fn names_need_a_lookup() {
        for host in [
            "localhost",
            "abc",
            "a.b",
            "1.2.3.4.5",
            "::g",
            "",
            "fe80::1%no such",
        ] {
            assert_eq!(query(Some(host), Some("80")).literal(), None, "{host}");
        }
        for service in ["http", "", "8o", "-1"] {
            assert_eq!(
                query(Some("::1"), Some(service)).literal(),
                None,
                "{service}"
            );
        }
        assert_eq!(query(None, None).literal(), None);
    }

    #[test]
    fn failures_say_what_the_system_says() {
        let failure = query(None, None).ask().unwrap_err();
        assert_eq!(failure.code, libc::EAI_NONAME);
        assert!(!failure.message.is_empty());
    }
}
