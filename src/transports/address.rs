//! Socket addresses in a few bytes, and as Python shows them.

use std::ffi::CStr;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use socket2::SockAddr;

/// Which end of a connection.
#[derive(Clone, Copy)]
pub enum Side {
    Local,
    Peer,
}

/// An address, or that it is not known (yet).
#[derive(Default)]
pub enum Address {
    #[default]
    Unknown,
    Inet(SocketAddr),
    /// A path, or a name after a zero byte in Linux's abstract space.
    Unix(Box<[u8]>),
}

impl Address {
    pub fn new(address: &SockAddr) -> Self {
        if let Some(inet) = address.as_socket() {
            return Self::Inet(inet);
        }
        if !address.is_unix() {
            return Self::Unknown;
        }
        if let Some(name) = address.as_abstract_namespace() {
            return Self::Unix([&[0], name].concat().into());
        }
        let path = address.as_pathname().map(|path| {
            std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
                .to_vec()
                .into_boxed_slice()
        });
        Self::Unix(path.unwrap_or_default())
    }

    /// Asks the system, unless the address is known.
    pub fn fill(&mut self, fd: RawFd, side: Side) {
        if fd >= 0 && matches!(self, Self::Unknown) {
            if let Ok(address) = ask(fd, side) {
                *self = Self::new(&address);
            }
        }
    }

    /// As Python's `socket` module gives it; `None` if it is not known.
    pub fn to_python(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match self {
            Self::Unknown => py.None(),
            Self::Inet(SocketAddr::V4(v4)) => (v4.ip().to_string(), v4.port())
                .into_pyobject(py)?
                .into_any()
                .unbind(),
            Self::Inet(address @ SocketAddr::V6(v6)) => (
                numeric_host(address),
                v6.port(),
                v6.flowinfo(),
                v6.scope_id(),
            )
                .into_pyobject(py)?
                .into_any()
                .unbind(),
            Self::Unix(name) if name.first() == Some(&0) => {
                PyBytes::new(py, name).into_any().unbind()
            }
            Self::Unix(path) => {
                let path = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path);
                let path: Bound<'_, PyString> = path.into_pyobject(py)?;
                path.into_any().unbind()
            }
        })
    }

    /// Family, type and protocol for a Python socket on a stream of this address.
    pub fn socket_kind(&self) -> Option<(i32, i32, i32)> {
        match self {
            Self::Unknown => None,
            Self::Inet(SocketAddr::V4(_)) => {
                Some((libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP))
            }
            Self::Inet(SocketAddr::V6(_)) => {
                Some((libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP))
            }
            Self::Unix(_) => Some((libc::AF_UNIX, libc::SOCK_STREAM, 0)),
        }
    }
}

fn ask(fd: RawFd, side: Side) -> io::Result<SockAddr> {
    // SAFETY: the system writes an address of at most the given length into the storage.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let status = match side {
                Side::Local => libc::getsockname(fd, storage.cast(), length),
                Side::Peer => libc::getpeername(fd, storage.cast(), length),
            };
            if status == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        })?
    };
    Ok(address)
}

/// The numeric host with its zone, as `getnameinfo` writes it and Python shows it.
fn numeric_host(address: &SocketAddr) -> String {
    let raw = SockAddr::from(*address);
    // NI_MAXHOST of the C library.
    let mut host = [0; 1025];
    // SAFETY: the address is valid, and the host buffer has the length given.
    let status = unsafe {
        libc::getnameinfo(
            raw.as_ptr().cast(),
            raw.len(),
            host.as_mut_ptr(),
            1025,
            std::ptr::null_mut(),
            0,
            libc::NI_NUMERICHOST,
        )
    };
    if status != 0 {
        return address.ip().to_string();
    }
    // SAFETY: on success the buffer holds a terminated string.
    unsafe { CStr::from_ptr(host.as_ptr()) }
        .to_string_lossy()
        .into_owned()
}
