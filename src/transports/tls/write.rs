//! From the application to the stream: `SSL_write`, and ciphertext out.

use std::cell::RefCell;
use std::mem;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple, PyType};

use crate::allocator::out_of_memory;
use crate::event_loop::install;
use crate::fastcall;
use crate::python::bytes::to_bytes;
use crate::python::unstable::slot_offset::Slot;
use crate::python::{Args, ErrSet, FfiResult, Ref};
use crate::transports::args::one_argument;
use crate::transports::stream::state::{StreamTransport, CORKED as STREAM_CORKED};
use crate::transports::stream::{fast_path, write};
use crate::transports::tls::protocol::{
    call, is_tls, raise, TlsCore, APP_PAUSED, CORKED, STREAM_PAUSED, WRAPPED,
};
use crate::transports::tls::read::{failed, forget_errors, why, End};

/// What one `SSL_write` gets, and how much ciphertext is gathered at most before it goes to the stream.
const GATHER: usize = 64 * 1024;
/// Pieces that are encrypted together if they fit one record.
const RECORD: usize = 16 * 1024;
/// The largest buffer that is kept for the next connection.
const KEEP: usize = 2 * GATHER;

thread_local! {
    /// A buffer for the connection that writes next, so that idle ones need none.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends the connection a buffer to write to.
#[inline]
pub fn prepare(it: &TlsCore) {
    it.with_wire(|wire| {
        if wire.out.capacity() == 0 {
            wire.out = SPARE.take();
        }
    });
}

fn recycle(mut buffer: Vec<u8>) {
    buffer.clear();
    if buffer.capacity() <= KEEP {
        SPARE.set(buffer);
    }
}

/// Runs `body` with the stream below, if it is one of ours whose methods nobody has replaced.
#[inline]
pub fn with_stream<T>(it: &TlsCore, body: impl FnOnce(&Ref, &StreamTransport) -> T) -> Option<T> {
    let transport = it.transport.get()?;
    let stream = fast_path::stream(&transport)?;
    Some(body(&transport, stream))
}

/// Hands ciphertext to the stream, unless more may come to be sent with it, and tells the application when too much waits.
pub fn process(me: &Ref, it: &TlsCore) -> FfiResult<()> {
    let gathering = it.has(CORKED) && it.with_wire(|wire| wire.out.len()) < GATHER;
    if !(gathering && gathers(it)) {
        hand_over(it)?;
    }
    control(me, it)
}

/// Whether the stream holds back what it is given.
fn gathers(it: &TlsCore) -> bool {
    let gathers = with_stream(it, |_, stream| {
        stream
            .event_loop
            .get()
            .is_some_and(|event_loop| stream.defers_writes(event_loop.core()))
    });
    gathers == Some(true)
}

/// `pause_writing()` and `resume_writing()`, by asyncio's own code if there is a reason to look.
#[inline]
fn control(me: &Ref, it: &TlsCore) -> FfiResult<()> {
    let size = it.with_wire(|wire| wire.out.len()) + it.backlog.get();
    let due = if it.has(APP_PAUSED) {
        size <= it.low_water.get()
    } else {
        size >= it.high_water.get()
    };
    if due {
        call(me, "_control_app_writing", [])?;
    }
    Ok(())
}

fn hand_over(it: &TlsCore) -> FfiResult<()> {
    if it.has(STREAM_PAUSED) {
        return Ok(());
    }
    let data = it.with_wire(|wire| mem::take(&mut wire.out));
    if data.is_empty() {
        recycle(data);
        return Ok(());
    }
    let sent = with_stream(it, |transport, stream| send(transport, stream, &data));
    let result = match sent {
        Some(Ok(true)) => Ok(()),
        Some(Err(raised)) => Err(raised),
        Some(Ok(false)) | None => match it.transport.get() {
            Some(transport) => {
                to_bytes(&data).and_then(|data| call(&transport, "write", [&data]).map(drop))
            }
            None => Ok(()),
        },
    };
    recycle(data);
    result
}

/// Gives ciphertext to a stream. What would leave at once anyway is sent from where it is. False if the stream takes no
/// writes now, or wants to say something about them.
fn send(transport: &Ref, stream: &StreamTransport, data: &[u8]) -> FfiResult<bool> {
    let Some(event_loop) = stream.event_loop.get() else {
        return Ok(false);
    };
    if !write::accepts_writes(stream) {
        return Ok(false);
    }
    // SAFETY: attached.
    let cx = event_loop.cx(unsafe { Python::assume_attached() });
    let core = cx.core;
    let now = stream.has(STREAM_CORKED)
        || data.len() > stream.high_water.get()
        || !stream.defers_writes(core);
    if now && write::send_now(cx, transport, stream, data)? {
        return Ok(true);
    }
    let data = to_bytes(data)?;
    write::write(cx, transport, stream, data)?;
    Ok(true)
}

/// Gives everything that was written so far to the stream, which sends it when it is made to close.
pub fn send_gathered(it: &TlsCore) -> FfiResult<()> {
    if it.has(STREAM_PAUSED) {
        return Ok(());
    }
    let data = it.with_wire(|wire| mem::take(&mut wire.out));
    let (Some(transport), false) = (it.transport.get(), data.is_empty()) else {
        recycle(data);
        return Ok(());
    };
    let piece = to_bytes(&data)?;
    recycle(data);
    match fast_path::stream(&transport) {
        Some(stream) if write::accepts_writes(stream) => {
            let queued = stream.queue.with(|queue| queue.push(piece));
            queued.map_err(out_of_memory)
        }
        Some(_) => Ok(()),
        None => call(&transport, "write", [&piece]).map(drop),
    }
}

/// Encrypts `data`. What cannot be encrypted now, because OpenSSL has to read first, is left to asyncio's backlog.
fn encrypt(me: &Ref, it: &TlsCore, data: &[u8]) -> FfiResult<()> {
    let mut rest = data;
    while !rest.is_empty() {
        // Python may have run since the last piece.
        let Some(session) = it.session().filter(|_| it.has(WRAPPED)) else {
            return leave_to_asyncio(me, it, rest);
        };
        prepare(it);
        forget_errors(session);
        let mut n = 0;
        // SAFETY: the piece is valid for the call.
        let end = it.locked(|| unsafe {
            let piece = &rest[..rest.len().min(GATHER)];
            let written = (session.openssl.SSL_write_ex)(
                session.ssl,
                piece.as_ptr().cast(),
                piece.len(),
                &raw mut n,
            );
            (written != 1).then(|| why(session))
        });
        match end {
            None => {}
            Some(End::Wait) => return leave_to_asyncio(me, it, rest),
            Some(End::Closed | End::Failed) => return Err(raise(session)),
        }
        rest = &rest[n..];
        if it.with_wire(|wire| wire.out.len()) >= GATHER {
            hand_over(it)?;
        }
    }
    Ok(())
}

#[cold]
fn leave_to_asyncio(me: &Ref, it: &TlsCore, rest: &[u8]) -> FfiResult<()> {
    // SAFETY: attached.
    let py = unsafe { Python::assume_attached() };
    if it.has(WRAPPED) {
        let backlog = me.bind(py).getattr("_write_backlog")?;
        backlog.call_method1("append", (to_bytes(rest)?.bind(py),))?;
        it.backlog.set(it.backlog.get() + rest.len());
        return Ok(());
    }
    let pieces = PyTuple::new(py, [to_bytes(rest)?.bind(py)])?;
    inherited_write(me, pieces.as_any())
}

/// asyncio's own `_write_appdata()`: before the handshake is over, when the connection is closing, and for odd data.
#[cold]
fn inherited_write(me: &Ref, pieces: &Bound<'_, PyAny>) -> FfiResult<()> {
    let py = pieces.py();
    py.import("asyncio.sslproto")?
        .getattr("SSLProtocol")?
        .getattr("_write_appdata")?
        .call1((me.bind(py), pieces))?;
    Ok(())
}

/// Encrypts and sends `data`, or ends the connection for an exception, as asyncio does.
fn write_and_send(me: &Ref, it: &TlsCore, data: &[u8]) -> FfiResult<()> {
    match encrypt(me, it, data).and_then(|()| process(me, it)) {
        Ok(()) => Ok(()),
        Err(ErrSet) => {
            // SAFETY: attached.
            let py = unsafe { Python::assume_attached() };
            failed(py, me, PyErr::fetch(py))
        }
    }
}

#[inline]
fn is_ready(it: &TlsCore) -> bool {
    it.has(WRAPPED) && it.backlog.get() == 0
}

/// `_write_appdata(list_of_data)`: small pieces share a record.
pub fn write_pieces(me: &Ref, it: &TlsCore, pieces: &Bound<'_, PyAny>) -> FfiResult<()> {
    let listed =
        pieces.is_exact_instance_of::<PyList>() || pieces.is_exact_instance_of::<PyTuple>();
    if !listed || !is_ready(it) {
        return inherited_write(me, pieces);
    }
    let mut data = Vec::new();
    for piece in pieces.try_iter()? {
        let piece = piece?;
        // SAFETY: the object is live, and exact `bytes` if the check says so.
        unsafe {
            if ffi::PyBytes_CheckExact(piece.as_ptr()) == 0 {
                return inherited_write(me, pieces);
            }
            data.try_reserve(1).map_err(out_of_memory)?;
            data.push(Ref::from(piece));
        }
    }
    let mut record = Vec::new();
    for piece in &data {
        let piece = contents(piece);
        if record.len() + piece.len() > RECORD {
            write_and_send(me, it, &mem::take(&mut record))?;
        }
        if piece.len() > RECORD {
            write_and_send(me, it, piece)?;
        } else {
            record.try_reserve(piece.len()).map_err(out_of_memory)?;
            record.extend_from_slice(piece);
        }
    }
    write_and_send(me, it, &record)
}

/// The contents of an exact `bytes` object.
#[inline]
fn contents(bytes: &Ref) -> &[u8] {
    // SAFETY: the caller says that it is exact `bytes`, which never change.
    unsafe {
        let data = ffi::PyBytes_AS_STRING(bytes.as_ptr()).cast::<u8>();
        std::slice::from_raw_parts(data, ffi::Py_SIZE(bytes.as_ptr()).unsigned_abs())
    }
}

/// Where `hybridloop.loop.tls.SSLTransport` keeps its protocol.
static PROTOCOL: Slot = Slot::new("_ssl_protocol");

/// The TLS protocol of a transport; `None` once asyncio has taken it away.
unsafe fn protocol_of(transport: *mut PyObject) -> Option<Ref> {
    // SAFETY: attached, with a live `SSLTransport`: the caller upholds it.
    unsafe { PROTOCOL.get(transport) }.filter(|protocol| is_tls(protocol.as_ptr()))
}

/// `SSLTransport.write(data)`
unsafe fn write(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe {
        let py = Python::assume_attached();
        let data = one_argument(&args, "write", "data")?;
        let Some(me) = protocol_of(slf) else {
            return inherited_transport_write(py, slf, data);
        };
        let it = TlsCore::of(me.as_ptr());
        with_stream(it, |_, stream| stream.check_thread()).transpose()?;
        if ffi::PyBytes_CheckExact(data) != 0 {
            // The caller's reference may be the only one, and writing may run Python.
            let data = Ref::borrowed(data);
            let bytes = contents(&data);
            if bytes.is_empty() {
                return Ok(Ref::none());
            }
            if is_ready(it) {
                write_and_send(&me, it, bytes)?;
                return Ok(Ref::none());
            }
        } else if is_ready(it)
            && (ffi::PyBytes_Check(data) != 0
                || ffi::PyByteArray_Check(data) != 0
                || ffi::PyMemoryView_Check(data) != 0)
        {
            let mut view = mem::zeroed::<ffi::Py_buffer>();
            if ffi::PyObject_GetBuffer(data, &raw mut view, ffi::PyBUF_SIMPLE) == 0 {
                let size = view.len.unsigned_abs();
                // What others may change meanwhile is copied.
                let copy = match view.buf.cast::<u8>() {
                    data if size > 0 => to_bytes(std::slice::from_raw_parts(data, size)).map(Some),
                    _ => Ok(None),
                };
                ffi::PyBuffer_Release(&raw mut view);
                if let Some(copy) = copy? {
                    write_and_send(&me, it, contents(&copy))?;
                }
                return Ok(Ref::none());
            }
            ffi::PyErr_Clear();
        }
        inherited_transport_write(py, slf, data)
    }
}

/// asyncio's own `write()`.
#[cold]
unsafe fn inherited_transport_write(
    py: Python<'_>,
    slf: *mut PyObject,
    data: *mut PyObject,
) -> FfiResult<Ref> {
    // SAFETY: the caller's objects are live.
    let (slf, data) = unsafe {
        (
            Bound::from_borrowed_ptr(py, slf),
            Bound::from_borrowed_ptr(py, data),
        )
    };
    Ok(py
        .import("asyncio.sslproto")?
        .getattr("_SSLProtocolTransport")?
        .getattr("write")?
        .call1((slf, data))?
        .into())
}

/// Gives `hybridloop.loop.tls.SSLTransport` its native `write()`.
pub fn install_transport(class: &Bound<'_, PyType>) -> PyResult<()> {
    let sample = class.call_method1("__new__", (class,))?;
    sample.setattr("_closed", true)?;
    PROTOCOL.probe(class, &sample)?;
    install(
        class,
        [(
            fastcall!(c"write", write),
            "(self, data)",
            "Encrypt bytes and send them, with whatever else is written in this iteration of the loop.",
        )],
    )
}
