//! Socket addresses: in the system's form, in a compact form, and as the `socket` module shows them.

use std::ffi::CStr;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::RawFd;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use socket2::SockAddr;

/// One end of a connection.
#[derive(Clone, Copy)]
pub enum Side {
    Local,
    Peer,
}

/// The address of one end of a connection.
#[derive(Default)]
pub enum Address {
    /// Not queried yet, or of a family that only Python knows.
    #[default]
    Unknown,
    Inet(SocketAddr),
    /// A path, or a zero byte and a name in Linux's abstract namespace.
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

    /// Queries the address of a socket, unless it is known.
    pub fn query(&mut self, fd: RawFd, side: Side) {
        if fd >= 0 && matches!(self, Self::Unknown) {
            if let Ok(address) = query(fd, side) {
                *self = Self::new(&address);
            }
        }
    }

    /// What `getsockname()` returns in Python; `None` for an unknown address.
    pub fn to_python(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match self {
            Self::Unknown => py.None(),
            Self::Inet(SocketAddr::V4(v4)) => (v4.ip().to_string(), v4.port())
                .into_pyobject(py)?
                .into_any()
                .unbind(),
            Self::Inet(SocketAddr::V6(v6)) => (
                numeric_host(v6.ip()),
                v6.port(),
                // Rust keeps the flow label in network byte order, as the system does.
                u32::from_be(v6.flowinfo()),
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

    /// Family, type and protocol of a stream socket with this address.
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

/// A copy of an address in the system's form.
pub fn from_bytes(raw: &[u8]) -> Option<SockAddr> {
    if raw.len() > size_of::<libc::sockaddr_storage>() {
        return None;
    }
    // SAFETY: `raw` is not longer than the storage, as was just checked.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            std::ptr::copy_nonoverlapping(raw.as_ptr(), storage.cast::<u8>(), raw.len());
            *length = libc::socklen_t::try_from(raw.len()).unwrap_or_default();
            Ok(())
        })
        .ok()?
    };
    Some(address)
}

fn query(fd: RawFd, side: Side) -> io::Result<SockAddr> {
    // SAFETY: the system writes at most `*length` bytes, and `try_init` sets that to the size of the storage.
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

/// The address as the C library, and so Python, writes it; without the scope, which is an item of its own.
fn numeric_host(address: &Ipv6Addr) -> String {
    let raw = SockAddr::from(SocketAddrV6::new(*address, 0, 0, 0));
    // NI_MAXHOST of the C library.
    let mut host = [0; 1025];
    // SAFETY: `raw` is an address of the length given, and `host` has 1025 bytes.
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
        return address.to_string();
    }
    // SAFETY: `getnameinfo` has succeeded, so `host` holds a string with a zero byte at its end.
    unsafe { CStr::from_ptr(host.as_ptr()) }
        .to_string_lossy()
        .into_owned()
}

/// The system's form of an address for a socket of `family`, if the address is valid and numeric. The `socket` module resolves
/// the others, or raises its errors.
///
/// # Safety
/// `address` is a live object.
pub unsafe fn from_python(family: i32, address: *mut PyObject) -> Option<SockAddr> {
    // SAFETY: the caller guarantees a live object, and `name` is used while it is live.
    unsafe {
        match family {
            libc::AF_INET | libc::AF_INET6 => inet_from_python(family, address),
            libc::AF_UNIX if ffi::PyBytes_CheckExact(address) != 0 => {
                let name = ffi::PyBytes_AS_STRING(address).cast();
                let size = ffi::Py_SIZE(address).unsigned_abs();
                unix_address(std::slice::from_raw_parts(name, size))
            }
            libc::AF_UNIX => unix_address(ascii(address)?.as_bytes()),
            _ => None,
        }
    }
}

/// The characters of an exact `str` of ASCII characters. Others depend on the file system's encoding.
///
/// # Safety
/// `object` is live as long as the result is used.
unsafe fn ascii<'a>(object: *mut PyObject) -> Option<&'a str> {
    // SAFETY: the caller guarantees a live object. It is an exact `str`, which keeps its UTF-8 form as long as it lives.
    unsafe {
        if ffi::PyUnicode_CheckExact(object) == 0 {
            return None;
        }
        let mut size = 0;
        let data = ffi::PyUnicode_AsUTF8AndSize(object, &raw mut size);
        if data.is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        let bytes = std::slice::from_raw_parts(data.cast::<u8>(), size.unsigned_abs());
        std::str::from_utf8(bytes)
            .ok()
            .filter(|text| text.is_ascii())
    }
}

/// An exact `int` from 0 to `max`.
///
/// # Safety
/// `object` is live.
unsafe fn integer(object: *mut PyObject, max: u32) -> Option<u32> {
    // SAFETY: the caller guarantees a live object, which is an exact `int` where it is read.
    unsafe {
        if ffi::PyLong_CheckExact(object) == 0 {
            return None;
        }
        let mut overflow = 0;
        let value = ffi::PyLong_AsLongLongAndOverflow(object, &raw mut overflow);
        u32::try_from(value)
            .ok()
            .filter(|&value| overflow == 0 && value <= max)
    }
}

/// # Safety
/// `address` is live.
unsafe fn inet_from_python(family: i32, address: *mut PyObject) -> Option<SockAddr> {
    // SAFETY: the caller guarantees a live object. It is an exact tuple with at least as many items as are read, which it keeps
    // alive.
    unsafe {
        if ffi::PyTuple_CheckExact(address) == 0 {
            return None;
        }
        let count = ffi::PyTuple_GET_SIZE(address);
        if count < 2 || count > if family == libc::AF_INET { 2 } else { 4 } {
            return None;
        }
        let item = |index| ffi::PyTuple_GET_ITEM(address, index);
        let host = ascii(item(0))?;
        let port = u16::try_from(integer(item(1), u16::MAX.into())?).ok()?;
        if family == libc::AF_INET {
            return Some(SocketAddrV4::new(host.parse().ok()?, port).into());
        }
        let optional = |index, max| {
            if index < count {
                integer(item(index), max)
            } else {
                Some(0)
            }
        };
        let (flowinfo, scope) = (optional(2, 0xF_FFFF)?, optional(3, u32::MAX)?);
        Some(SocketAddrV6::new(host.parse().ok()?, port, flowinfo.to_be(), scope).into())
    }
}

/// The address of a path or, after a zero byte, of a name in Linux's abstract namespace.
fn unix_address(name: &[u8]) -> Option<SockAddr> {
    let is_path = *name.first()? != 0;
    if is_path && name.contains(&0) || !is_path && cfg!(not(target_os = "linux")) {
        return None;
    }
    let start = std::mem::offset_of!(libc::sockaddr_un, sun_path);
    if start + name.len() + usize::from(is_path) > size_of::<libc::sockaddr_un>() {
        return None;
    }
    // SAFETY: the name fits behind the family, with a zero byte behind a path, as was just checked; the storage is zeroed.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let storage = storage.cast::<libc::sockaddr_un>();
            (*storage).sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or_default();
            let path = storage.cast::<u8>().add(start);
            std::ptr::copy_nonoverlapping(name.as_ptr(), path, name.len());
            let size = start + name.len() + usize::from(is_path);
            *length = libc::socklen_t::try_from(size).unwrap_or_default();
            Ok(())
        })
        .ok()?
    };
    Some(address)
}
