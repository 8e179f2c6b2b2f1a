//! *The descriptor of a `socket.socket`*, read without a call.
//!
//! * Reads: the `int` behind the head of a `_socket.socket`.
//! * Pythons: 3.11 to 3.15.
//! * Probe: at import descriptor, family, type and protocol of two sockets are found behind the head, and −1 once they are
//!   closed.
//! * Otherwise: `fileno()` is called. The descriptor is used in the same way.

use std::os::fd::RawFd;
use std::sync::OnceLock;

use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;

use crate::python::refs::Ref;
use crate::python::unstable::type_version::SeenVersion;

/// The methods that system calls replace. The result is the same while the class inherits these from `_socket`.
const METHODS: [&str; 4] = ["recv", "recv_into", "send", "fileno"];
/// The offset of the descriptor in `_socket.socket`, behind the object head; family, type and protocol follow.
const FD: usize = size_of::<PyObject>();

struct Plain {
    /// Whether the descriptor is read from memory.
    reads_memory: bool,
    class: Ref,
    base: Ref,
    /// The version of the class that was found to have the methods of `_socket`.
    version: SeenVersion,
}

/// Not set on systems without sockets.
static PLAIN: OnceLock<Plain> = OnceLock::new();

pub const NAME: &str = "socket_fd";

pub fn init(py: Python<'_>) {
    if PLAIN.get().is_none() {
        if let Ok(plain) = find(py) {
            // If another import has set it by now, the value is the same.
            let _ = PLAIN.set(plain);
        }
    }
}

pub fn is_on() -> bool {
    PLAIN.get().is_some_and(|plain| plain.reads_memory)
}

fn find(py: Python<'_>) -> PyResult<Plain> {
    let class = py.import("socket")?.getattr("socket")?;
    let base = py.import("_socket")?.getattr("socket")?;
    Ok(Plain {
        reads_memory: super::is_allowed(py, NAME) && probe(&class).unwrap_or(false),
        class: class.into(),
        base: base.into(),
        version: SeenVersion::default(),
    })
}

/// Whether the memory of sockets has the numbers that their methods return.
fn probe(class: &Bound<'_, PyAny>) -> PyResult<bool> {
    let pair = class.py().import("socket")?.call_method0("socketpair")?;
    let mut as_expected = true;
    for index in 0..2 {
        let sock = pair.get_item(index)?;
        let expected: [i32; 4] = [
            sock.call_method0("fileno")?.extract()?,
            sock.getattr("family")?.extract()?,
            sock.getattr("type")?.extract()?,
            sock.getattr("proto")?.extract()?,
        ];
        as_expected &= sock.get_type().is(class) && words(&sock) == expected;
        sock.call_method0("close")?;
        as_expected &= words(&sock)[0] == -1;
    }
    Ok(as_expected)
}

/// The four numbers behind the head of the object.
fn words(sock: &Bound<'_, PyAny>) -> [i32; 4] {
    // SAFETY: a `_socket.socket` is longer than these four numbers on every supported Python, and all bit patterns are valid.
    unsafe {
        sock.as_ptr()
            .cast::<u8>()
            .add(FD)
            .cast::<[i32; 4]>()
            .read_unaligned()
    }
}

/// The descriptor of an exact `socket.socket` without replaced methods; −1 once it is closed. `None` for every other object,
/// whose methods must be called.
///
/// # Safety
/// Attached; `sock` is a live object.
#[inline]
pub unsafe fn plain_descriptor(sock: *mut PyObject) -> Option<RawFd> {
    let plain = PLAIN.get()?;
    // SAFETY: the caller guarantees a live object, which keeps its type alive. The probe has found the descriptor in this
    // class.
    unsafe {
        let ty = ffi::Py_TYPE(sock);
        if !std::ptr::eq(ty.cast(), plain.class.as_ptr()) {
            return None;
        }
        if !plain.version.is_current(ty) && !plain.check(ty) {
            return None;
        }
        if plain.reads_memory {
            Some(sock.cast::<u8>().add(FD).cast::<RawFd>().read_unaligned())
        } else {
            ask_plain(sock)
        }
    }
}

/// The descriptor of a `socket.socket` by its `fileno()`, which is that of `_socket` and runs no Python.
///
/// # Safety
/// Attached; `sock` is a live object.
#[cold]
unsafe fn ask_plain(sock: *mut PyObject) -> Option<RawFd> {
    // SAFETY: the caller guarantees an attached thread and a live object.
    let sock = unsafe { Bound::from_borrowed_ptr(Python::assume_attached(), sock) };
    sock.call_method0("fileno").ok()?.extract().ok()
}

/// `fd` while `file`, which had this descriptor, still has it; −1 once it was closed or detached. The number may belong to
/// another file by then, while every system call refuses −1 with the error that a method of a closed socket raises.
///
/// For other objects than sockets it calls `fileno()`, which may run any Python code.
///
/// # Safety
/// Attached; `file` is a live object.
pub unsafe fn still_open(file: *mut PyObject, fd: RawFd) -> RawFd {
    // SAFETY: the caller guarantees a live object.
    if unsafe { socket_descriptor(file) } == Some(fd) {
        return fd;
    }
    // SAFETY: the caller guarantees an attached thread and a live object.
    unsafe { ask_descriptor(file, fd) }
}

/// The descriptor of an instance of `_socket.socket`; −1 once it is closed. `None` for other objects, and if the optimisation is
/// off.
///
/// # Safety
/// `sock` is a live object.
#[inline]
unsafe fn socket_descriptor(sock: *mut PyObject) -> Option<RawFd> {
    let plain = PLAIN.get().filter(|plain| plain.reads_memory)?;
    // SAFETY: the caller guarantees a live object, which keeps its type alive. Instances of a subclass begin with the base's
    // fields.
    unsafe {
        let ty = ffi::Py_TYPE(sock);
        let is_socket = std::ptr::eq(ty.cast(), plain.class.as_ptr())
            || ffi::PyType_IsSubtype(ty, plain.base.as_ptr().cast()) != 0;
        is_socket.then(|| sock.cast::<u8>().add(FD).cast::<RawFd>().read_unaligned())
    }
}

/// Like [`still_open`], by `fileno()`. An object whose `fileno()` raises has no descriptor.
///
/// # Safety
/// The thread is attached, and `file` is live.
#[cold]
unsafe fn ask_descriptor(file: *mut PyObject, fd: RawFd) -> RawFd {
    // SAFETY: the caller guarantees an attached thread and a live object.
    let file = unsafe { Bound::from_borrowed_ptr(Python::assume_attached(), file) };
    let now = file
        .call_method0("fileno")
        .and_then(|now| now.extract::<RawFd>());
    if now.is_ok_and(|now| now == fd) {
        fd
    } else {
        -1
    }
}

impl Plain {
    /// Whether no method of the class was replaced. The version of a class changes with its attributes.
    ///
    /// # Safety
    /// The thread is attached, and `ty` is live.
    #[cold]
    unsafe fn check(&self, ty: *mut PyTypeObject) -> bool {
        // SAFETY: the callers are attached: they hold a live object.
        let py = unsafe { Python::assume_attached() };
        let same = METHODS.iter().all(|name| {
            let found = self.class.bind(py).getattr(*name);
            let own = self.base.bind(py).getattr(*name);
            matches!((found, own), (Ok(found), Ok(own)) if found.is(&own))
        });
        if same {
            // SAFETY: the caller guarantees that `ty` is live.
            unsafe { self.version.remember(ty) };
        }
        same
    }
}
