//! *The `SSL*` of an `ssl.SSLObject`*, for OpenSSL's functions. `_ssl` does not export it.
//!
//! * Reads: the pointers of `_ssl._SSLSocket` to its socket, `SSL` and context, and that of `_ssl._SSLContext` to its
//!   `SSL_CTX`.
//! * Pythons: 3.11 to 3.15, with OpenSSL 3.
//! * Probe: at the first TLS connection an object is made as asyncio does. For it and for each connection class and size, the
//!   `SSL_CTX` of the Python context and the `SSL_CTX` that OpenSSL reports for the `SSL` must be the same.
//! * Otherwise: asyncio's TLS runs on a native transport.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::ffi::PyObject;
use pyo3::prelude::*;

use crate::python::refs::Ref;

pub const NAME: &str = "ssl_object";

static IS_ALLOWED: AtomicBool = AtomicBool::new(false);
static IS_ON: AtomicBool = AtomicBool::new(false);

/// OpenSSL's `SSL`.
#[repr(C)]
pub struct Ssl {
    _private: [u8; 0],
}

/// OpenSSL's `SSL_CTX`.
#[repr(C)]
pub struct SslCtx {
    _private: [u8; 0],
}

/// `SSL_get_SSL_CTX`
type SslGetCtx = unsafe extern "C" fn(*const Ssl) -> *mut SslCtx;

pub fn init(py: Python<'_>) {
    IS_ALLOWED.store(super::is_allowed(py, NAME), Ordering::Relaxed);
}

/// Whether [`probe`] may be called.
pub fn is_allowed(py: Python<'_>) -> PyResult<bool> {
    let version: (u32, u32, u32, u32, u32) = py
        .import("_ssl")?
        .getattr("OPENSSL_VERSION_INFO")?
        .extract()?;
    Ok(IS_ALLOWED.load(Ordering::Relaxed) && version.0 == 3)
}

/// Whether the probe has found the pointer.
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Whether the pointer is at the expected offset.
pub fn probe(py: Python<'_>, ssl_get_ctx: SslGetCtx) -> PyResult<bool> {
    let found = is_allowed(py)? && finds_pointer(py, ssl_get_ctx)?;
    IS_ON.store(found, Ordering::Relaxed);
    Ok(found)
}

/// Makes an `SSLObject` as asyncio does, and checks that [`inside`] finds its `SSL*`.
fn finds_pointer(py: Python<'_>, ssl_get_ctx: SslGetCtx) -> PyResult<bool> {
    let ssl = py.import("ssl")?;
    let context = ssl
        .getattr("SSLContext")?
        .call1((ssl.getattr("PROTOCOL_TLS_SERVER")?,))?;
    let bio = || ssl.getattr("MemoryBIO")?.call0();
    let object = context.call_method1("wrap_bio", (bio()?, bio()?, true))?;
    Ok(inside(ssl_get_ctx, &object)?.is_some())
}

/// The layout of `_ssl._SSLSocket` since CPython 3.6.
#[repr(C)]
struct SslSocketObject {
    ob_base: PyObject,
    socket: *mut PyObject,
    ssl: *mut Ssl,
    context: *mut PyObject,
}

#[repr(C)]
struct SslContextObject {
    ob_base: PyObject,
    ctx: *mut SslCtx,
}

/// The `SSL*` of an `ssl.SSLObject`, with the object that owns it; `None` if the object is not one that CPython has made.
pub fn inside(
    ssl_get_ctx: SslGetCtx,
    object: &Bound<'_, PyAny>,
) -> PyResult<Option<(*mut Ssl, Ref)>> {
    let py = object.py();
    let module = py.import("_ssl")?;
    let class_of_ssl = py.import("ssl")?.getattr("SSLObject")?;
    let owner = object.getattr("_sslobj")?;
    let context = owner.getattr("context")?;
    let fits = |ty: &Bound<'_, PyAny>, size: usize| -> PyResult<bool> {
        Ok(ty.getattr("__basicsize__")?.extract::<usize>()? >= size)
    };
    let class = object.get_type();
    // A subclass may override any method except those that are no longer called.
    let same = |name: &str| -> PyResult<bool> {
        Ok(class
            .getattr(name)?
            .is(class_of_ssl.getattr(name)?.as_any()))
    };
    if !object.is_instance(&class_of_ssl)?
        || !same("read")?
        || !same("write")?
        || !owner.get_type().is(module.getattr("_SSLSocket")?.as_any())
        || !fits(owner.get_type().as_any(), size_of::<SslSocketObject>())?
        || !context.is_instance(&module.getattr("_SSLContext")?)?
        || !fits(&module.getattr("_SSLContext")?, size_of::<SslContextObject>())?
        // Exceptions of this callback are stored where only `_ssl` reads them.
        || !context.getattr("_msg_callback")?.is_none()
    {
        return Ok(None);
    }
    // SAFETY: `owner` and `context` hold the objects, whose classes and sizes were checked above.
    unsafe {
        let words = owner.as_ptr().cast::<SslSocketObject>();
        let ctx = (*context.as_ptr().cast::<SslContextObject>()).ctx;
        if (*words).context != context.as_ptr()
            || !(*words).socket.is_null()
            || (*words).ssl.is_null()
            || ctx.is_null()
            || ssl_get_ctx((*words).ssl) != ctx
        {
            return Ok(None);
        }
        Ok(Some(((*words).ssl, owner.into())))
    }
}
