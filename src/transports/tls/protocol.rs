//! `TlsCore`, the native base of `hybridloop.loop.tls.TlsProtocol`.
//!
//! Attributes through which the inherited `asyncio.sslproto.SSLProtocol` and the core talk are descriptors here, so that
//! there is one value and not two.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::types::{PyByteArray, PyTuple, PyType};
use pyo3::PyTraverseError;

use crate::allocator::out_of_memory;
use crate::python::package;
use crate::python::unstable::ssl_object;
use crate::python::{nested_drop, AtomicFlags, Cell, ErrSet, FfiResult, LoopCell, Ref};
use crate::transports::stream::native_protocol;
use crate::transports::tls::bio::{self, Wire};
use crate::transports::tls::openssl::{self, Bio, OpenSsl, Ssl};
use crate::transports::tls::{read, write};

/// The handshake is over, and no shutdown has begun.
pub const WRAPPED: u32 = 1;
/// The application has paused reading.
pub const READING_PAUSED: u32 = 1 << 1;
/// The application's protocol is a `BufferedProtocol`.
pub const BUFFERED: u32 = 1 << 2;
/// The stream has asked to pause writing.
pub const STREAM_PAUSED: u32 = 1 << 3;
/// The application's protocol was asked to pause writing.
pub const APP_PAUSED: u32 = 1 << 4;
/// The application is being called with data: what it writes leaves when it returns.
pub const CORKED: u32 = 1 << 5;

/// State of one TLS connection. It is touched by the thread that runs the loop; the SSL and the wire may be by others, see
/// [`TlsCore::locked`].
#[pyclass(frozen, subclass, module = "hybridloop._core")]
pub struct TlsCore {
    flags: AtomicFlags,
    /// Null until [`TlsCore::attach`], and after the collector has broken a cycle.
    ssl: Cell<*mut Ssl>,
    bio: Cell<*mut Bio>,
    wire: Cell<*mut Wire>,
    /// Owns `ssl`.
    owner: LoopCell<Option<Ref>>,
    state: LoopCell<Option<Ref>>,
    pub transport: LoopCell<Option<Ref>>,
    pub application: LoopCell<Option<Ref>>,
    /// How the application's protocol takes bytes, if it is native.
    native_protocol: Cell<Option<&'static native_protocol::NativeProtocol>>,
    pub high_water: Cell<usize>,
    pub low_water: Cell<usize>,
    /// Bytes that asyncio's code holds back until the handshake is over.
    pub backlog: Cell<usize>,
}

// Python's allocator aligns objects to 16 bytes and no more.
const _: () = assert!(align_of::<TlsCore>() <= 16);

// SAFETY: see the rule of the type.
unsafe impl Send for TlsCore {}
// SAFETY: as for `Send`.
unsafe impl Sync for TlsCore {}

static TLS_TYPE: AtomicPtr<PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// What is needed to move data.
#[derive(Clone, Copy)]
pub struct Session {
    pub openssl: &'static OpenSsl,
    pub ssl: *mut Ssl,
    pub wire: *mut Wire,
}

impl TlsCore {
    /// The core of a protocol object.
    ///
    /// # Safety
    /// `object` is a live instance of a subclass of `TlsCore`.
    #[inline]
    pub unsafe fn of<'a>(object: *mut PyObject) -> &'a Self {
        // SAFETY: the caller's promise; `get` of a frozen class is a fixed offset.
        unsafe {
            Borrowed::from_ptr(Python::assume_attached(), object)
                .cast_unchecked::<Self>()
                .get()
        }
    }

    #[inline]
    pub fn has(&self, flags: u32) -> bool {
        self.flags.get() & flags != 0
    }

    /// Whether of the flags in `mask` exactly those of `flags` are set.
    #[inline]
    pub fn is(&self, mask: u32, flags: u32) -> bool {
        self.flags.get() & mask == flags
    }

    #[inline]
    pub fn set(&self, flags: u32, on: bool) {
        self.flags.set(flags, on);
    }

    #[inline]
    pub fn session(&self) -> Option<Session> {
        let (openssl, ssl) = (OpenSsl::get()?, self.ssl.get());
        (!ssl.is_null()).then_some(Session {
            openssl,
            ssl,
            wire: self.wire.get(),
        })
    }

    /// How the application's protocol takes bytes, if it is native.
    #[inline]
    pub fn native_protocol(&self) -> Option<&'static native_protocol::NativeProtocol> {
        self.native_protocol.get()
    }

    /// Looks into or changes the wire, for as long as no OpenSSL and no Python runs.
    #[inline]
    pub fn with_wire<T: Default>(&self, body: impl FnOnce(&mut Wire) -> T) -> T {
        // SAFETY: the BIO, of which this object holds a reference, keeps the wire.
        self.locked(|| match unsafe { self.wire.get().as_mut() } {
            Some(wire) => body(wire),
            None => T::default(),
        })
    }

    /// Runs `body`, which runs no Python, while no other thread uses the SSL and the wire. `_ssl` locks the same object.
    #[inline]
    #[allow(clippy::unused_self)]
    pub fn locked<T>(&self, body: impl FnOnce() -> T) -> T {
        #[cfg(Py_GIL_DISABLED)]
        if let Some(owner) = self.owner.get() {
            // SAFETY: attached.
            let py = unsafe { Python::assume_attached() };
            return pyo3::sync::critical_section::with_critical_section(owner.bind(py), body);
        }
        body()
    }

    fn attach(&self, object: &Bound<'_, PyAny>) -> PyResult<bool> {
        if !openssl::probe(object.py()) {
            return Ok(false);
        }
        let Some(openssl) = OpenSsl::get().filter(|_| self.ssl.get().is_null()) else {
            return Ok(false);
        };
        let Some((ssl, owner)) = ssl_object::inside(openssl.SSL_get_SSL_CTX, object)? else {
            return Ok(false);
        };
        // SAFETY: `owner` keeps the SSL; its handshake begins later.
        let Some((bio, wire)) = (unsafe { bio::connect(openssl, ssl) }) else {
            return Ok(false);
        };
        drop(self.owner.replace(Some(owner)));
        self.bio.set(bio);
        self.wire.set(wire);
        self.ssl.set(ssl);
        Ok(true)
    }

    /// Lets go of OpenSSL's objects.
    fn detach(&self) {
        self.ssl.set(ptr::null_mut());
        self.wire.set(ptr::null_mut());
        let bio = self.bio.replace(ptr::null_mut());
        if let Some(openssl) = OpenSsl::get().filter(|_| !bio.is_null()) {
            // SAFETY: this reference was taken by `connect`.
            unsafe { (openssl.BIO_free)(bio) };
        }
        drop(self.owner.take());
    }

    fn slots(&self) -> [&LoopCell<Option<Ref>>; 4] {
        [&self.owner, &self.state, &self.transport, &self.application]
    }
}

impl Drop for TlsCore {
    fn drop(&mut self) {
        self.detach();
        nested_drop::drop_content(self.slots().map(LoopCell::take));
    }
}

fn some(value: &Bound<'_, PyAny>) -> Option<Ref> {
    (!value.is_none()).then(|| value.into())
}

fn object<'py>(py: Python<'py>, slot: &LoopCell<Option<Ref>>) -> Bound<'py, PyAny> {
    slot.get().unwrap_or_else(Ref::none).bind(py).clone()
}

#[pymethods]
impl TlsCore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyAny>>) -> Self {
        Self {
            flags: AtomicFlags::default(),
            ssl: Cell::new(ptr::null_mut()),
            bio: Cell::new(ptr::null_mut()),
            wire: Cell::new(ptr::null_mut()),
            owner: LoopCell::default(),
            state: LoopCell::default(),
            transport: LoopCell::default(),
            application: LoopCell::default(),
            native_protocol: Cell::new(None),
            high_water: Cell::new(0),
            low_water: Cell::new(0),
            backlog: Cell::new(0),
        }
    }

    /// Whether TLS can be native in this Python.
    #[staticmethod]
    fn _is_available(py: Python<'_>) -> bool {
        openssl::probe(py)
    }

    /// Gives the class of transports its native `write()`: a subclass of asyncio's with one slot, `_ssl_protocol`.
    #[staticmethod]
    fn _install_transport(cls: &Bound<'_, PyType>) -> PyResult<()> {
        write::install_transport(cls)
    }

    /// Takes the SSL of an `ssl.SSLObject` whose handshake has not begun. False if it is not one that can be taken.
    fn _attach(&self, sslobj: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.attach(sslobj)
    }

    /// Takes ciphertext that came in before the transport was this protocol's.
    fn _receive(&self, data: &Bound<'_, PyByteArray>) -> PyResult<()> {
        let data = data.to_vec();
        match self.with_wire(|wire| Some(wire.store(&data))) {
            Some(Err(refused)) => Err(out_of_memory(refused).into()),
            _ => Ok(()),
        }
    }

    /// Drops what was received and what was to be sent.
    fn _discard(&self) {
        self.with_wire(Wire::clear);
    }

    /// Hands decrypted data to the application; called by the inherited `_do_read()`.
    #[pyo3(name = "_do_read__copied")]
    fn do_read_copied(slf: &Bound<'_, Self>) -> PyResult<()> {
        Ok(read::read_copied(&slf.into(), slf.get(), None)?)
    }

    /// The same for a `BufferedProtocol`.
    #[pyo3(name = "_do_read__buffered")]
    fn do_read_buffered(slf: &Bound<'_, Self>) -> PyResult<()> {
        Ok(read::read_buffered(slf.py(), &slf.into(), slf.get())?)
    }

    /// Hands what OpenSSL has written to the stream.
    fn _process_outgoing(slf: &Bound<'_, Self>) -> PyResult<()> {
        Ok(write::process(&slf.into(), slf.get())?)
    }

    /// Has everything sent that was written so far, as far as the socket takes it.
    fn _send_gathered(slf: &Bound<'_, Self>) -> PyResult<()> {
        Ok(write::send_gathered(slf.get())?)
    }

    /// Whether what is written waits for the end of what the application does with what was read.
    #[getter(_corked)]
    fn corked(&self) -> bool {
        self.has(CORKED)
    }

    /// Encrypts several pieces; before and after the connection is up, asyncio's code has them.
    fn _write_appdata(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        Ok(write::write_pieces(&slf.into(), slf.get(), list_of_data)?)
    }

    /// Received bytes that are not decrypted yet.
    fn _get_read_buffer_size(&self) -> usize {
        self.with_wire(|wire| wire.pending())
    }

    /// Bytes that the stream has not got yet.
    fn _get_write_buffer_size(&self) -> usize {
        self.with_wire(|wire| wire.out.len()) + self.backlog.get()
    }

    #[getter(_state)]
    fn get_state<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        object(py, &self.state)
    }

    #[setter(_state)]
    fn set_state(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let name: String = value.getattr("name")?.extract()?;
        self.set(WRAPPED, name == "WRAPPED");
        drop(self.state.replace(some(value)));
        Ok(())
    }

    #[getter(_transport)]
    fn get_transport<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        object(py, &self.transport)
    }

    #[setter(_transport)]
    fn set_transport(&self, value: &Bound<'_, PyAny>) {
        drop(self.transport.replace(some(value)));
    }

    #[getter(_app_protocol)]
    fn get_app_protocol<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        object(py, &self.application)
    }

    #[setter(_app_protocol)]
    fn set_app_protocol(&self, value: &Bound<'_, PyAny>) {
        self.native_protocol
            .set(native_protocol::find(&value.into()));
        drop(self.application.replace(some(value)));
    }

    #[getter(_app_protocol_is_buffer)]
    fn get_app_protocol_is_buffer(&self) -> bool {
        self.has(BUFFERED)
    }

    #[setter(_app_protocol_is_buffer)]
    fn set_app_protocol_is_buffer(&self, value: bool) {
        self.set(BUFFERED, value);
    }

    #[getter(_app_reading_paused)]
    fn get_app_reading_paused(&self) -> bool {
        self.has(READING_PAUSED)
    }

    #[setter(_app_reading_paused)]
    fn set_app_reading_paused(&self, value: bool) {
        self.set(READING_PAUSED, value);
    }

    #[getter(_ssl_writing_paused)]
    fn get_ssl_writing_paused(&self) -> bool {
        self.has(STREAM_PAUSED)
    }

    #[setter(_ssl_writing_paused)]
    fn set_ssl_writing_paused(&self, value: bool) {
        self.set(STREAM_PAUSED, value);
    }

    #[getter(_app_writing_paused)]
    fn get_app_writing_paused(&self) -> bool {
        self.has(APP_PAUSED)
    }

    #[setter(_app_writing_paused)]
    fn set_app_writing_paused(&self, value: bool) {
        self.set(APP_PAUSED, value);
    }

    #[getter(_outgoing_high_water)]
    fn get_outgoing_high_water(&self) -> usize {
        self.high_water.get()
    }

    #[setter(_outgoing_high_water)]
    fn set_outgoing_high_water(&self, value: usize) {
        self.high_water.set(value);
    }

    #[getter(_outgoing_low_water)]
    fn get_outgoing_low_water(&self) -> usize {
        self.low_water.get()
    }

    #[setter(_outgoing_low_water)]
    fn set_outgoing_low_water(&self, value: usize) {
        self.low_water.set(value);
    }

    #[getter(_write_buffer_size)]
    fn get_write_buffer_size(&self) -> usize {
        self.backlog.get()
    }

    #[setter(_write_buffer_size)]
    fn set_write_buffer_size(&self, value: usize) {
        self.backlog.set(value);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for slot in self.slots() {
            if let Some(object) = slot.with(|slot| slot.as_ref().map(std::ptr::from_ref)) {
                // SAFETY: nothing changes the slot while the collector looks.
                unsafe { &*object }.visit(&visit)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.detach();
        for slot in self.slots() {
            drop(slot.take());
        }
    }
}

/// Whether an object is a TLS protocol of ours.
#[inline]
pub fn is_tls(object: *mut PyObject) -> bool {
    let class = TLS_TYPE.load(Ordering::Relaxed);
    // SAFETY: the object is live; the class was made at import.
    unsafe { ffi::PyObject_TypeCheck(object, class) != 0 }
}

/// The exception for the last error of OpenSSL, set.
#[cold]
pub fn raise(session: Session) -> ErrSet {
    let error = openssl::take_error(session.openssl, session.ssl);
    // SAFETY: attached.
    let py = unsafe { Python::assume_attached() };
    let made = package::make_tls_error(py).and_then(|make| make.call1(error));
    match made {
        Ok(error) => PyErr::from_value(error).into(),
        Err(error) => error.into(),
    }
}

/// Calls a method of the protocol, which runs Python.
pub fn call<const N: usize>(me: &Ref, name: &str, args: [&Ref; N]) -> FfiResult<Ref> {
    // SAFETY: attached.
    let py = unsafe { Python::assume_attached() };
    let args = PyTuple::new(py, args.map(|arg| arg.bind(py)))?;
    Ok(me.bind(py).call_method1(name, args)?.into())
}

static NATIVE_PROTOCOL: native_protocol::NativeProtocol = native_protocol::NativeProtocol {
    data_received: read::ciphertext_received,
    error_message: "Fatal error: protocol.buffer_updated() call failed.",
};

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<TlsCore>()?;
    let class = module.py().get_type::<TlsCore>();
    TLS_TYPE.store(class.as_type_ptr(), Ordering::Relaxed);
    native_protocol::register(|protocol| is_tls(protocol.as_ptr()).then_some(&NATIVE_PROTOCOL));
    Ok(())
}
