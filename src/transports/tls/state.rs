//! The state of a TLS connection.

use std::collections::TryReserveError;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::PyException;
use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::python::unstable::ssl_object::{self, Ssl};
use crate::python::{nested_drop, normalized, AtomicFlags, Cell, FfiResult, Ref, SlotCell};
use crate::transports::stream::fast_path;
use crate::transports::stream::native_protocol::{self, NativeProtocol, Received};
use crate::transports::stream::state::StreamTransport;
use crate::transports::tls::bio::{self, MemoryBio};
use crate::transports::tls::openssl::{Bio, OpenSsl};
use crate::transports::tls::session::{is_available, Session};

/// The state of asyncio's protocol is `WRAPPED`: the handshake is over, and no shutdown has begun.
pub const WRAPPED: u32 = 1;
/// asyncio's `_app_reading_paused`: the application has paused reading.
pub const APP_READING_PAUSED: u32 = 1 << 1;
/// asyncio's `_app_protocol_is_buffer`: the application's protocol is a `BufferedProtocol`.
pub const APP_BUFFERED: u32 = 1 << 2;
/// asyncio's `_ssl_writing_paused`: the stream transport has called `pause_writing()`.
pub const SSL_WRITING_PAUSED: u32 = 1 << 3;
/// asyncio's `_app_writing_paused`: `pause_writing()` of the application's protocol was called.
pub const APP_WRITING_PAUSED: u32 = 1 << 4;
/// The application is being called with data: what it writes is sent when it returns.
pub const CORKED: u32 = 1 << 5;

/// The Python class `TlsCore`; null until the module is imported.
pub static TLS_TYPE: AtomicPtr<PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// State of one TLS connection: the native base of `hybridloop.loop.tls.TlsProtocol`.
#[pyclass(frozen, subclass, module = "hybridloop._core")]
pub struct TlsCore {
    flags: AtomicFlags,
    /// Null until [`TlsCore::attach`], and after [`TlsCore::detach`].
    ssl: Cell<*mut Ssl>,
    /// A reference to the BIO of `ssl`, which keeps `memory_bio`; both are null when `ssl` is.
    bio: Cell<*mut Bio>,
    memory_bio: Cell<*mut MemoryBio>,
    /// The `_ssl._SSLSocket` that owns `ssl`.
    owner: SlotCell<Ref>,
    /// The member of `asyncio.sslproto.SSLProtocolState`.
    pub state: SlotCell<Ref>,
    /// The transport below, mostly a stream transport.
    pub transport: SlotCell<Ref>,
    pub app_protocol: SlotCell<Ref>,
    /// How the application's protocol takes bytes, if it is native.
    native_protocol: Cell<Option<&'static NativeProtocol>>,
    pub high_water: Cell<usize>,
    pub low_water: Cell<usize>,
    /// How many bytes are in asyncio's `_write_backlog`, which is for writes before the end of the handshake.
    pub backlog_size: Cell<usize>,
}

// Python's allocator aligns objects to 16 bytes and no more.
const _: () = assert!(align_of::<TlsCore>() <= 16);

// SAFETY: `LoopCell` lets one thread in at a time. A `Cell` is used with the interpreter lock held, and locks by itself on
// free-threaded builds. OpenSSL's objects may be used in any thread, by one at a time, which `locked` sees to.
unsafe impl Send for TlsCore {}
// SAFETY: shared use follows the same rules.
unsafe impl Sync for TlsCore {}

impl TlsCore {
    pub fn new() -> Self {
        Self {
            flags: AtomicFlags::default(),
            ssl: Cell::new(ptr::null_mut()),
            bio: Cell::new(ptr::null_mut()),
            memory_bio: Cell::new(ptr::null_mut()),
            owner: SlotCell::default(),
            state: SlotCell::default(),
            transport: SlotCell::default(),
            app_protocol: SlotCell::default(),
            native_protocol: Cell::new(None),
            high_water: Cell::new(0),
            low_water: Cell::new(0),
            backlog_size: Cell::new(0),
        }
    }

    /// The state of a protocol object.
    ///
    /// # Safety
    /// The thread is attached, and `object` is a live instance of `TlsCore` or of a subclass.
    #[inline]
    pub unsafe fn of<'a>(object: *mut PyObject) -> &'a Self {
        // SAFETY: the caller guarantees the class. `get` of a frozen class adds a fixed offset.
        unsafe {
            Borrowed::from_ptr(Python::assume_attached(), object)
                .cast_unchecked::<Self>()
                .get()
        }
    }

    /// Whether any of `flags` is set.
    #[inline]
    pub fn has(&self, flags: u32) -> bool {
        self.flags.get() & flags != 0
    }

    /// Whether exactly `flags` are set, of those in `mask`.
    #[inline]
    pub fn is(&self, mask: u32, flags: u32) -> bool {
        self.flags.get() & mask == flags
    }

    #[inline]
    pub fn set(&self, flags: u32, on: bool) {
        self.flags.set(flags, on);
    }

    /// Whether data is encrypted at once. Otherwise it is asyncio's, which keeps it until the end of the handshake.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.has(WRAPPED) && self.backlog_size.get() == 0
    }

    /// What is needed to work on the `SSL`, if there is one.
    #[inline]
    pub fn session(&self) -> Option<Session<'_>> {
        let (openssl, ssl) = (OpenSsl::get()?, self.ssl.get());
        // SAFETY: `attach` sets `ssl` together with its owner and its BIO, which keep it and `memory_bio` alive. Only `detach`
        // drops these: when the object is deallocated, or is garbage for the collector. Both cannot be while it is borrowed.
        (!ssl.is_null()).then(|| unsafe { Session::new(openssl, ssl, self.memory_bio.get()) })
    }

    /// How the application's protocol takes bytes, if it is native.
    #[inline]
    pub fn native_protocol(&self) -> Option<&'static NativeProtocol> {
        self.native_protocol.get()
    }

    pub fn set_app_protocol(&self, protocol: Option<Ref>) {
        let native = protocol.as_ref().and_then(native_protocol::find);
        self.native_protocol.set(native);
        drop(self.app_protocol.replace(protocol));
    }

    /// Looks into the BIO or changes it; the default value if there is none. `body` runs neither OpenSSL nor Python.
    #[inline]
    pub fn with_bio<T: Default>(
        &self,
        py: Python<'_>,
        body: impl FnOnce(&mut MemoryBio) -> T,
    ) -> T {
        // SAFETY: the reference to the BIO keeps the memory alive. OpenSSL changes it while it works on the `SSL`, which is
        // locked here and idle as long as `body` runs.
        self.locked(py, || match unsafe { self.memory_bio.get().as_mut() } {
            Some(bio) => body(bio),
            None => T::default(),
        })
    }

    /// Runs `body`, which runs no Python, while no other thread uses the `SSL` and its BIO. `_ssl` locks the same object.
    #[inline]
    #[allow(clippy::unused_self)]
    pub fn locked<T>(&self, py: Python<'_>, body: impl FnOnce() -> T) -> T {
        #[cfg(Py_GIL_DISABLED)]
        if let Some(owner) = self.owner.get() {
            return pyo3::sync::critical_section::with_critical_section(owner.bind(py), body);
        }
        let _ = py;
        body()
    }

    /// Lets OpenSSL read received `data` in place until the result is ended or dropped.
    #[inline]
    pub fn borrow_input<'a>(&'a self, py: Python<'a>, data: Received<'a>) -> InputBorrow<'a> {
        // SAFETY: the result has `data`, and ends the borrow before it drops that. `detach` is not called before, because
        // `self` is borrowed.
        self.with_bio(py, |bio| unsafe { bio.borrow(&data) });
        InputBorrow {
            py,
            tls: self,
            data: Some(data),
        }
    }

    /// Has what the application writes be deferred until the result is dropped.
    #[inline]
    pub fn cork(&self) -> Cork<'_> {
        self.set(CORKED, true);
        Cork(self)
    }

    /// Runs `body` with the transport below, if that is a stream transport with native methods.
    #[inline]
    pub fn with_stream<T>(&self, body: impl FnOnce(&Ref, &StreamTransport) -> T) -> Option<T> {
        let transport = self.transport.get()?;
        let stream = fast_path::stream(&transport)?;
        Some(body(&transport, stream))
    }

    /// Takes the `SSL` of an `ssl.SSLObject` that has not begun its handshake; false if that is not possible.
    pub fn attach(&self, object: &Bound<'_, PyAny>) -> PyResult<bool> {
        if !is_available(object.py()) {
            return Ok(false);
        }
        let Some(openssl) = OpenSsl::get().filter(|_| self.ssl.get().is_null()) else {
            return Ok(false);
        };
        let Some((ssl, owner)) = ssl_object::inside(openssl.SSL_get_SSL_CTX, object)? else {
            return Ok(false);
        };
        // SAFETY: `owner` keeps the `SSL` alive. `TlsProtocol` attaches it when it is made, before the handshake begins.
        // `is_available` has initialized the BIO's functions.
        let Some((bio, memory_bio)) = (unsafe { bio::connect(openssl, ssl) }) else {
            return Ok(false);
        };
        drop(self.owner.replace(Some(owner)));
        self.bio.set(bio);
        self.memory_bio.set(memory_bio);
        self.ssl.set(ssl);
        Ok(true)
    }

    /// Drops the references to OpenSSL's objects.
    pub fn detach(&self) {
        self.ssl.set(ptr::null_mut());
        self.memory_bio.set(ptr::null_mut());
        let bio = self.bio.replace(ptr::null_mut());
        if let Some(openssl) = OpenSsl::get().filter(|_| !bio.is_null()) {
            // SAFETY: `attach` has got this reference from `connect`, and it was in the cell, so nobody has given it back.
            unsafe { (openssl.BIO_free)(bio) };
        }
        drop(self.owner.take());
    }

    /// The slots with references, for the collector.
    pub fn slots(&self) -> [&SlotCell<Ref>; 4] {
        [
            &self.owner,
            &self.state,
            &self.transport,
            &self.app_protocol,
        ]
    }
}

impl Drop for TlsCore {
    fn drop(&mut self) {
        self.detach();
        nested_drop::drop_content(self.slots().map(SlotCell::take));
    }
}

/// Received data that OpenSSL reads in place.
pub struct InputBorrow<'a> {
    py: Python<'a>,
    tls: &'a TlsCore,
    data: Option<Received<'a>>,
}

impl InputBorrow<'_> {
    /// Stores a copy of what was not read, and gives the buffer back. The result says whether there was memory for that.
    #[inline]
    pub fn end(mut self) -> Result<(), TryReserveError> {
        self.release()
    }

    #[inline]
    fn release(&mut self) -> Result<(), TryReserveError> {
        let Some(data) = self.data.take() else {
            return Ok(());
        };
        let stored = self.tls.with_bio(self.py, |bio| Some(bio.end_borrow()));
        drop(data);
        stored.unwrap_or(Ok(()))
    }
}

impl Drop for InputBorrow<'_> {
    fn drop(&mut self) {
        // Without memory for what was not read, the connection breaks, as it does by the error or panic that has led here.
        let _ = self.release();
    }
}

/// What the application writes is deferred as long as this exists.
pub struct Cork<'a>(&'a TlsCore);

impl Drop for Cork<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.set(CORKED, false);
    }
}

/// Whether an object is a `TlsCore`.
#[inline]
pub fn is_tls(object: &Ref) -> bool {
    let class = TLS_TYPE.load(Ordering::Relaxed);
    // SAFETY: the reference keeps the object alive. The class was made at import, before there was code that has protocols.
    unsafe { ffi::PyObject_TypeCheck(object.as_ptr(), class) != 0 }
}

/// Calls a Python method of a protocol or transport.
pub fn call_method<const N: usize>(
    py: Python<'_>,
    object: &Ref,
    name: &str,
    args: [&Ref; N],
) -> FfiResult<Ref> {
    let args = PyTuple::new(py, args.map(|arg| arg.bind(py)))?;
    Ok(object.bind(py).call_method1(name, args)?.into())
}

/// Ends the connection for an exception, as asyncio does where it reads and where it writes. `SystemExit`, `KeyboardInterrupt`
/// and the like are raised.
#[cold]
pub fn fatal_error(py: Python<'_>, slf: &Ref, error: PyErr) -> FfiResult<()> {
    let error = normalized(error);
    if !error.is_instance_of::<PyException>(py) {
        return Err(error.into());
    }
    let message = "Fatal error on SSL protocol";
    slf.bind(py)
        .call_method1("_fatal_error", (error.into_value(py), message))?;
    Ok(())
}
