//! The Python class `TlsCore`: its methods, and the attributes that the inherited `asyncio.sslproto.SSLProtocol` shares with
//! it. Each of these attributes exists once, as a descriptor of this class.

use std::sync::atomic::Ordering;

use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::types::{PyByteArray, PyTuple, PyType};
use pyo3::PyTraverseError;

use crate::allocator::out_of_memory;
use crate::python::{Ref, SlotCell};
use crate::transports::stream::native_protocol::{self, NativeProtocol};
use crate::transports::tls::bio::MemoryBio;
use crate::transports::tls::state::{
    is_tls, TlsCore, APP_BUFFERED, APP_READING_PAUSED, APP_WRITING_PAUSED, CORKED,
    SSL_WRITING_PAUSED, TLS_TYPE, WRAPPED,
};
use crate::transports::tls::{read, session, transport, write};

fn unless_none(value: &Bound<'_, PyAny>) -> Option<Ref> {
    (!value.is_none()).then(|| value.into())
}

/// The object in a slot, or `None`.
fn object<'py>(py: Python<'py>, slot: &SlotCell<Ref>) -> Bound<'py, PyAny> {
    slot.get().unwrap_or_else(Ref::none).bind(py).clone()
}

#[pymethods]
impl TlsCore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn __new__(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyAny>>) -> Self {
        Self::new()
    }

    /// Whether TLS can be native in this Python.
    #[staticmethod]
    fn _is_available(py: Python<'_>) -> bool {
        session::is_available(py)
    }

    /// Adds the native `write()` to `SSLTransport`.
    #[staticmethod]
    fn _install_transport(cls: &Bound<'_, PyType>) -> PyResult<()> {
        transport::install_write(cls)
    }

    /// Takes the `SSL` of an `ssl.SSLObject` that has not begun its handshake; false if that is not possible.
    fn _attach(&self, sslobj: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.attach(sslobj)
    }

    /// Adds ciphertext that was received before the transport had this protocol.
    fn _store_incoming(&self, data: &Bound<'_, PyByteArray>) -> PyResult<()> {
        let bytes = data.to_vec();
        match self.with_bio(data.py(), |bio| Some(bio.store(&bytes))) {
            Some(Err(error)) => Err(out_of_memory(error).into()),
            _ => Ok(()),
        }
    }

    /// Drops what was received and what was to be sent.
    fn _clear_bio(&self, py: Python<'_>) {
        self.with_bio(py, MemoryBio::clear);
    }

    /// Decrypts, and calls the application's protocol; the inherited `_do_read()` calls this.
    #[pyo3(name = "_do_read__copied")]
    fn do_read_copied(slf: &Bound<'_, Self>) -> PyResult<()> {
        Ok(read::read_copied(slf.py(), &slf.into(), slf.get(), None)?)
    }

    /// The same for a `BufferedProtocol` of the application.
    #[pyo3(name = "_do_read__buffered")]
    fn do_read_buffered(slf: &Bound<'_, Self>) -> PyResult<()> {
        Ok(read::read_buffered(slf.py(), &slf.into(), slf.get(), None)?)
    }

    /// Sends what OpenSSL has written.
    fn _process_outgoing(slf: &Bound<'_, Self>) -> PyResult<()> {
        Ok(write::process_outgoing(slf.py(), &slf.into(), slf.get())?)
    }

    /// Gives the stream transport what was written so far, before that is closed.
    fn _flush(&self, py: Python<'_>) -> PyResult<()> {
        Ok(write::flush_to_stream(py, self)?)
    }

    /// Whether the application is being called with data, so that what it writes is deferred.
    #[getter(_corked)]
    fn corked(&self) -> bool {
        self.has(CORKED)
    }

    /// Encrypts and sends several pieces.
    fn _write_appdata(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        Ok(write::write_pieces(&slf.into(), slf.get(), list_of_data)?)
    }

    /// How many received bytes are not decrypted.
    fn _get_read_buffer_size(&self, py: Python<'_>) -> usize {
        self.with_bio(py, |bio| bio.pending())
    }

    /// How many bytes the stream transport has not got.
    fn _get_write_buffer_size(&self, py: Python<'_>) -> usize {
        self.with_bio(py, |bio| bio.outgoing.len()) + self.backlog_size.get()
    }

    #[getter(_state)]
    fn get_state<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        object(py, &self.state)
    }

    #[setter(_state)]
    fn set_state(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let name: String = value.getattr("name")?.extract()?;
        self.set(WRAPPED, name == "WRAPPED");
        drop(self.state.replace(unless_none(value)));
        Ok(())
    }

    #[getter(_transport)]
    fn get_transport<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        object(py, &self.transport)
    }

    #[setter(_transport)]
    fn set_transport(&self, value: &Bound<'_, PyAny>) {
        drop(self.transport.replace(unless_none(value)));
    }

    #[getter(_app_protocol)]
    fn get_app_protocol<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        object(py, &self.app_protocol)
    }

    #[setter(_app_protocol)]
    fn assign_app_protocol(&self, value: &Bound<'_, PyAny>) {
        self.set_app_protocol(unless_none(value));
    }

    #[getter(_app_protocol_is_buffer)]
    fn get_app_protocol_is_buffer(&self) -> bool {
        self.has(APP_BUFFERED)
    }

    #[setter(_app_protocol_is_buffer)]
    fn set_app_protocol_is_buffer(&self, value: bool) {
        self.set(APP_BUFFERED, value);
    }

    #[getter(_app_reading_paused)]
    fn get_app_reading_paused(&self) -> bool {
        self.has(APP_READING_PAUSED)
    }

    #[setter(_app_reading_paused)]
    fn set_app_reading_paused(&self, value: bool) {
        self.set(APP_READING_PAUSED, value);
    }

    #[getter(_ssl_writing_paused)]
    fn get_ssl_writing_paused(&self) -> bool {
        self.has(SSL_WRITING_PAUSED)
    }

    #[setter(_ssl_writing_paused)]
    fn set_ssl_writing_paused(&self, value: bool) {
        self.set(SSL_WRITING_PAUSED, value);
    }

    #[getter(_app_writing_paused)]
    fn get_app_writing_paused(&self) -> bool {
        self.has(APP_WRITING_PAUSED)
    }

    #[setter(_app_writing_paused)]
    fn set_app_writing_paused(&self, value: bool) {
        self.set(APP_WRITING_PAUSED, value);
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
        self.backlog_size.get()
    }

    #[setter(_write_buffer_size)]
    fn set_write_buffer_size(&self, value: usize) {
        self.backlog_size.set(value);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for slot in self.slots() {
            slot.visit(&visit)?;
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

/// How stream transports and other TLS protocols give a `TlsCore` the bytes that they have received.
static NATIVE_PROTOCOL: NativeProtocol = NativeProtocol {
    data_received: read::ciphertext_received,
    uncork: write::uncork,
    error_message: "Fatal error: protocol.buffer_updated() call failed.",
};

/// Adds the class to the module, and the lookup of TLS protocols to stream transports.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<TlsCore>()?;
    let class = module.py().get_type::<TlsCore>();
    TLS_TYPE.store(class.as_type_ptr(), Ordering::Relaxed);
    native_protocol::register(|protocol| is_tls(protocol).then_some(&NATIVE_PROTOCOL));
    Ok(())
}
