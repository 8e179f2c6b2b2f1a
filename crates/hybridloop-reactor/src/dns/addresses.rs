//! `getaddrinfo`: a query, and the list of the system as values.

use std::ffi::{c_int, CStr, CString};
use std::net::Ipv4Addr;
use std::ptr;

use crate::dns::error::LookupError;

/// A query for `getaddrinfo`.
#[derive(Clone, Debug, Default)]
pub struct AddressQuery {
    /// A name or a literal address; none for the wildcard or loopback address.
    pub host: Option<CString>,
    /// The name or number of a port.
    pub service: Option<CString>,
    /// `AF_…`, or 0.
    pub family: c_int,
    /// `SOCK_…`, or 0.
    pub socktype: c_int,
    /// `IPPROTO_…`, or 0.
    pub protocol: c_int,
    /// `AI_…`.
    pub flags: c_int,
}

/// One address of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressInfo {
    /// `AF_…`.
    pub family: c_int,
    /// `SOCK_…`.
    pub socktype: c_int,
    /// `IPPROTO_…`.
    pub protocol: c_int,
    /// The canonical name, in the first address if the query asks for it.
    pub canonical_name: Option<CString>,
    /// The address.
    pub address: Address,
}

/// An address with its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `AF_INET`.
    V4 {
        /// The host as a literal.
        host: String,
        /// The port.
        port: u16,
    },
    /// `AF_INET6`.
    V6 {
        /// The host as a literal, without its zone.
        host: String,
        /// The port.
        port: u16,
        /// The flow label.
        flow: u32,
        /// The zone.
        scope: u32,
    },
    /// Another family: the bytes after the family in the structure of the system.
    Other(Vec<u8>),
}

impl AddressQuery {
    /// Asks the system, and blocks until it answers.
    ///
    /// # Errors
    /// The error of the system.
    pub fn resolve(&self) -> Result<Vec<AddressInfo>, LookupError> {
        self.resolve_with(self.flags)
    }

    /// The result if no lookup is needed: the host is a literal address or none, and the port a number or none.
    ///
    /// The system itself answers, with flags that forbid a lookup. `None` if it cannot.
    #[must_use]
    pub fn resolve_literal(&self) -> Option<Vec<AddressInfo>> {
        let host = self.host.as_deref().map(CStr::to_bytes);
        let service = self.service.as_deref().map(CStr::to_bytes);
        if !host.is_none_or(may_be_literal) || !service.is_none_or(is_number) {
            return None;
        }
        // Other flags may need a lookup, of the canonical name or of the interfaces.
        if self.flags & !(libc::AI_PASSIVE | libc::AI_NUMERICHOST | libc::AI_NUMERICSERV) != 0 {
            return None;
        }
        self.resolve_with(self.flags | libc::AI_NUMERICHOST | libc::AI_NUMERICSERV)
            .ok()
    }

    fn resolve_with(&self, flags: c_int) -> Result<Vec<AddressInfo>, LookupError> {
        let text = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |it| it.as_ptr());
        // SAFETY: all-zero is a valid `addrinfo`.
        let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
        hints.ai_family = self.family;
        hints.ai_socktype = self.socktype;
        hints.ai_protocol = self.protocol;
        hints.ai_flags = flags;
        let mut list = ptr::null_mut();
        // SAFETY: the texts are null or C strings of `self`; hints and list are variables of this function.
        let code = unsafe {
            libc::getaddrinfo(
                text(&self.host),
                text(&self.service),
                &raw const hints,
                &raw mut list,
            )
        };
        if code != 0 {
            return Err(LookupError::new(code));
        }
        let mut found = Vec::new();
        let mut next = list;
        // SAFETY: `getaddrinfo` has returned a list that ends with a null pointer. It is freed once, after the last use.
        unsafe {
            while let Some(entry) = next.as_ref() {
                // A server decides how many entries there are.
                if found.try_reserve(1).is_err() {
                    break;
                }
                found.push(AddressInfo::read(entry));
                next = entry.ai_next;
            }
            libc::freeaddrinfo(list);
        }
        if next.is_null() {
            Ok(found)
        } else {
            Err(LookupError::new(libc::EAI_MEMORY))
        }
    }
}

/// Whether a host may be a literal address: those that the system accepts have no other characters, and after a `%` the name of
/// an interface.
fn may_be_literal(host: &[u8]) -> bool {
    /// The greatest length of a label of a name, so that checks of labels have nothing to refuse.
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

impl AddressInfo {
    /// # Safety
    /// The entry is in a list of `getaddrinfo` that was not freed.
    unsafe fn read(entry: &libc::addrinfo) -> Self {
        // SAFETY: the canonical name of an entry is null or a C string, and its address is of its family and length.
        unsafe {
            let canonical_name = (!entry.ai_canonname.is_null())
                .then(|| CStr::from_ptr(entry.ai_canonname).to_owned());
            Self {
                family: entry.ai_family,
                socktype: entry.ai_socktype,
                protocol: entry.ai_protocol,
                canonical_name,
                address: Address::read(entry.ai_addr, entry.ai_addrlen as usize),
            }
        }
    }
}

impl Address {
    /// # Safety
    /// At `address` is an address of `length` bytes, of the type for its family.
    unsafe fn read(address: *const libc::sockaddr, length: usize) -> Self {
        // SAFETY: the caller passes an address of `length` bytes, of the type for its family.
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
                        host: ipv6_literal(&inet.sin6_addr),
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

/// The address as the system writes it. Rust writes some differently, such as `::1.2.3.4`.
fn ipv6_literal(address: &libc::in6_addr) -> String {
    // INET6_ADDRSTRLEN
    let mut text = [0; 46];
    // SAFETY: the buffer has the length that is passed, which is enough for every address and its terminator.
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

    fn query(host: Option<&str>, service: Option<&str>) -> AddressQuery {
        let text = |text: Option<&str>| text.map(|text| CString::new(text).unwrap());
        AddressQuery {
            host: text(host),
            service: text(service),
            ..AddressQuery::default()
        }
    }

    #[test]
    fn literals_need_no_lookup_and_give_the_same_result() {
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
            assert_eq!(
                query.resolve_literal(),
                Some(query.resolve().unwrap()),
                "{host:?}"
            );
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
            assert_eq!(
                query(Some(host), Some("80")).resolve_literal(),
                None,
                "{host}"
            );
        }
        for service in ["http", "", "8o", "-1"] {
            assert_eq!(
                query(Some("::1"), Some(service)).resolve_literal(),
                None,
                "{service}"
            );
        }
        assert_eq!(query(None, None).resolve_literal(), None);
    }

    #[test]
    fn failures_say_what_the_system_says() {
        let failure = query(None, None).resolve().unwrap_err();
        assert_eq!(failure.code, libc::EAI_NONAME);
        assert!(!failure.message.is_empty());
    }
}
