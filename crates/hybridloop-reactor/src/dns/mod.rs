//! Name lookups by the system's resolver, on threads of their own.
//!
//! The system's functions block, for seconds if a server does not answer. So they run on a small pool of threads that know
//! nothing of event loops: a finished lookup goes to whoever asked, by a closure. Threads start when there is work, end
//! when there is none, and never keep the process from ending.
//!
//! * [`addresses`] — `getaddrinfo`; [`names`] — `getnameinfo`.
//! * [`pool`] — the threads.

mod addresses;
mod names;
mod pool;

use std::ffi::{c_int, CStr, CString};

pub use self::pool::spawn;

/// What `getaddrinfo` is asked for.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Name or literal address; none for the wildcard or loopback address.
    pub host: Option<CString>,
    /// Name or number of the port.
    pub service: Option<CString>,
    /// `AF_…`, or 0.
    pub family: c_int,
    /// `SOCK_…`, or 0.
    pub kind: c_int,
    /// `IPPROTO_…`, or 0.
    pub protocol: c_int,
    /// `AI_…`.
    pub flags: c_int,
}

/// One address that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// `AF_…`.
    pub family: c_int,
    /// `SOCK_…`.
    pub kind: c_int,
    /// `IPPROTO_…`.
    pub protocol: c_int,
    /// The canonical name, if it was asked for and this is the first address.
    pub canonical_name: Option<CString>,
    /// Where it is.
    pub address: Address,
}

/// An address with its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `AF_INET`.
    V4 {
        /// The host, in numbers.
        host: String,
        /// The port.
        port: u16,
    },
    /// `AF_INET6`.
    V6 {
        /// The host, in numbers and without its zone.
        host: String,
        /// The port.
        port: u16,
        /// The flow label.
        flow: u32,
        /// The zone.
        scope: u32,
    },
    /// Another family: what follows the family in the system's structure.
    Other(Vec<u8>),
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `EAI_…`.
    pub code: c_int,
    /// `errno`, which counts if the code is `EAI_SYSTEM`.
    pub errno: c_int,
    /// The system's words.
    pub message: CString,
}

/// What `getnameinfo` is asked for.
#[derive(Clone, Debug)]
pub struct NameQuery {
    /// The address in numbers, with its zone if it has one.
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
    /// The host's.
    pub host: CString,
    /// The port's.
    pub service: CString,
}

/// What a lookup comes to.
pub type Answer = Result<Vec<Found>, Failure>;

impl Failure {
    fn new(code: c_int) -> Self {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        // SAFETY: the system's text is terminated and stays.
        let message = unsafe { CStr::from_ptr(libc::gai_strerror(code)) }.to_owned();
        Self {
            code,
            errno,
            message,
        }
    }
}
