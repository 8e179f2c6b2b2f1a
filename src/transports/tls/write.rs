//! From the application to the stream transport: `SSL_write`, ciphertext out.

use std::mem;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::allocator::out_of_memory;
use crate::event_loop::LoopContext;
use crate::python::bytes::{contents, to_bytes};
use crate::python::{ErrSet, FfiResult, Ref};
use crate::transports::stream::state::{StreamTransport, CORKED as STREAM_CORKED};
use crate::transports::stream::{fast_path, write};
use crate::transports::tls::buffers::{PooledBuffer, CIPHERTEXT};
use crate::transports::tls::session::Stop;
use crate::transports::tls::state::{
    call_method, fatal_error, TlsCore, APP_WRITING_PAUSED, CORKED, SSL_WRITING_PAUSED, WRAPPED,
};

/// The most data for one `SSL_write`, and the most ciphertext that is kept until it goes to the stream.
const MAX_CHUNK: usize = 64 * 1024;
/// Pieces that together fit one record are encrypted together.
const RECORD: usize = 16 * 1024;

/// Gives the BIO a buffer to write to, if it has none.
#[inline]
pub fn ensure_output_buffer(py: Python<'_>, tls: &TlsCore) {
    tls.with_bio(py, |bio| {
        if bio.outgoing.capacity() == 0 {
            bio.outgoing = CIPHERTEXT.take().into_vec();
        }
    });
}

/// Takes what OpenSSL has written, with the buffer.
#[inline]
fn take_outgoing(py: Python<'_>, tls: &TlsCore) -> PooledBuffer {
    CIPHERTEXT.own(tls.with_bio(py, |bio| mem::take(&mut bio.outgoing)))
}

fn outgoing_size(py: Python<'_>, tls: &TlsCore) -> usize {
    tls.with_bio(py, |bio| bio.outgoing.len())
}

/// Sends ciphertext, unless more may be written that can be sent with it, and pauses or resumes the application.
pub fn process_outgoing(py: Python<'_>, slf: &Ref, tls: &TlsCore) -> FfiResult<()> {
    let defers = tls.has(CORKED) && outgoing_size(py, tls) < MAX_CHUNK && stream_defers(tls);
    if !defers {
        send_outgoing(py, tls)?;
    }
    control_app_writing(py, slf, tls)
}

/// The application does not return from a call soon: sends what it has written.
///
/// # Safety
/// `slf` is a `TlsCore`.
pub unsafe fn uncork(cx: LoopContext<'_>, slf: &Ref) -> FfiResult<()> {
    // SAFETY: the caller guarantees the class, and has a token of this thread.
    let tls = unsafe { TlsCore::of(slf.as_ptr()) };
    if !tls.has(CORKED) {
        return Ok(());
    }
    tls.set(CORKED, false);
    process_outgoing(cx.py, slf, tls)
}

/// Whether the stream transport would defer what it is given now.
fn stream_defers(tls: &TlsCore) -> bool {
    let defers = tls.with_stream(|_, stream| {
        let event_loop = stream.event_loop.get();
        event_loop.is_some_and(|event_loop| stream.defers_writes(event_loop.core()))
    });
    defers == Some(true)
}

/// Has asyncio's code call `pause_writing()` or `resume_writing()`, when the size has crossed a limit.
#[inline]
fn control_app_writing(py: Python<'_>, slf: &Ref, tls: &TlsCore) -> FfiResult<()> {
    let size = outgoing_size(py, tls) + tls.backlog_size.get();
    let due = if tls.has(APP_WRITING_PAUSED) {
        size <= tls.low_water.get()
    } else {
        size >= tls.high_water.get()
    };
    if due {
        call_method(py, slf, "_control_app_writing", [])?;
    }
    Ok(())
}

/// Sends the ciphertext, unless the stream transport has paused writing.
fn send_outgoing(py: Python<'_>, tls: &TlsCore) -> FfiResult<()> {
    if tls.has(SSL_WRITING_PAUSED) {
        return Ok(());
    }
    let data = take_outgoing(py, tls);
    if data.is_empty() {
        return Ok(());
    }
    let sent = tls.with_stream(|transport, stream| send_to_stream(py, transport, stream, &data));
    if sent.transpose()? == Some(true) {
        return Ok(());
    }
    match tls.transport.get() {
        Some(transport) => call_method(py, &transport, "write", [&to_bytes(&data)?]).map(drop),
        None => Ok(()),
    }
}

/// Gives ciphertext to a stream transport. What would be sent at once is sent from where it is. False if the transport would
/// refuse or ignore it.
fn send_to_stream(
    py: Python<'_>,
    transport: &Ref,
    stream: &StreamTransport,
    data: &[u8],
) -> FfiResult<bool> {
    let Some(event_loop) = stream.event_loop.get() else {
        return Ok(false);
    };
    if !write::accepts_writes(stream) {
        return Ok(false);
    }
    let cx = event_loop.cx(py);
    let at_once = stream.has(STREAM_CORKED)
        || data.len() > stream.high_water.get()
        || !stream.defers_writes(cx.core);
    if !(at_once && write::send_now(cx, transport, stream, data)?) {
        write::write(cx, transport, stream, to_bytes(data)?)?;
    }
    Ok(true)
}

/// Gives the stream transport the ciphertext before it is closed, which sends what is queued.
pub fn flush_to_stream(py: Python<'_>, tls: &TlsCore) -> FfiResult<()> {
    if tls.has(SSL_WRITING_PAUSED) {
        return Ok(());
    }
    let data = take_outgoing(py, tls);
    let (Some(transport), false) = (tls.transport.get(), data.is_empty()) else {
        return Ok(());
    };
    let piece = to_bytes(&data)?;
    drop(data);
    match fast_path::stream(&transport) {
        Some(stream) if write::accepts_writes(stream) => stream
            .queue
            .with(|queue| queue.push(piece))
            .map_err(out_of_memory),
        Some(_) => Ok(()),
        None => call_method(py, &transport, "write", [&piece]).map(drop),
    }
}

/// Encrypts `data`. What OpenSSL cannot encrypt before it has read more goes to asyncio's backlog.
fn encrypt(py: Python<'_>, slf: &Ref, tls: &TlsCore, data: &[u8]) -> FfiResult<()> {
    let mut rest = data;
    while !rest.is_empty() {
        // Sending the last chunk may have run Python, and so a shutdown.
        let Some(session) = tls.session().filter(|_| tls.has(WRAPPED)) else {
            return leave_to_asyncio(py, slf, tls, rest);
        };
        ensure_output_buffer(py, tls);
        session.clear_errors();
        let chunk = &rest[..rest.len().min(MAX_CHUNK)];
        match tls.locked(py, || session.write(chunk)) {
            Ok(n) => rest = &rest[n..],
            Err(Stop::WouldBlock) => return leave_to_asyncio(py, slf, tls, rest),
            Err(Stop::CloseNotify | Stop::Failed) => return Err(session.error(py)),
        }
        if outgoing_size(py, tls) >= MAX_CHUNK {
            send_outgoing(py, tls)?;
        }
    }
    Ok(())
}

#[cold]
fn leave_to_asyncio(py: Python<'_>, slf: &Ref, tls: &TlsCore, rest: &[u8]) -> FfiResult<()> {
    let data = to_bytes(rest)?;
    if tls.has(WRAPPED) {
        let backlog = slf.bind(py).getattr("_write_backlog")?;
        backlog.call_method1("append", (data.bind(py),))?;
        tls.backlog_size.set(tls.backlog_size.get() + rest.len());
        return Ok(());
    }
    inherited_write(slf, PyTuple::new(py, [data.bind(py)])?.as_any())
}

/// asyncio's `_write_appdata()`: for writes before the end of the handshake and during the shutdown, and for unusual data.
#[cold]
fn inherited_write(slf: &Ref, pieces: &Bound<'_, PyAny>) -> FfiResult<()> {
    let py = pieces.py();
    py.import("asyncio.sslproto")?
        .getattr("SSLProtocol")?
        .getattr("_write_appdata")?
        .call1((slf.bind(py), pieces))?;
    Ok(())
}

/// Encrypts and sends `data`. Like in asyncio, an exception ends the connection. The caller has checked [`TlsCore::is_ready`].
pub fn write_and_send(py: Python<'_>, slf: &Ref, tls: &TlsCore, data: &[u8]) -> FfiResult<()> {
    match encrypt(py, slf, tls, data).and_then(|()| process_outgoing(py, slf, tls)) {
        Ok(()) => Ok(()),
        Err(ErrSet) => fatal_error(py, slf, PyErr::fetch(py)),
    }
}

/// `_write_appdata(list_of_data)`: small pieces share a record.
pub fn write_pieces(slf: &Ref, tls: &TlsCore, pieces: &Bound<'_, PyAny>) -> FfiResult<()> {
    let py = pieces.py();
    let is_sequence =
        pieces.is_exact_instance_of::<PyList>() || pieces.is_exact_instance_of::<PyTuple>();
    if !is_sequence || !tls.is_ready() {
        return inherited_write(slf, pieces);
    }
    // References: the list may change when Python runs.
    let mut data = Vec::new();
    for piece in pieces.try_iter()? {
        let piece = Ref::from(piece?);
        // SAFETY: the reference keeps the object alive.
        if unsafe { ffi::PyBytes_CheckExact(piece.as_ptr()) } == 0 {
            return inherited_write(slf, pieces);
        }
        data.try_reserve(1).map_err(out_of_memory)?;
        data.push(piece);
    }
    let mut record = Vec::new();
    for piece in &data {
        // SAFETY: all are exact `bytes` objects, which do not change; `data` keeps them alive.
        let piece = unsafe { contents(piece.as_ptr()) };
        if record.len() + piece.len() > RECORD {
            write_and_send(py, slf, tls, &mem::take(&mut record))?;
        }
        if piece.len() > RECORD {
            write_and_send(py, slf, tls, piece)?;
        } else {
            record.try_reserve(piece.len()).map_err(out_of_memory)?;
            record.extend_from_slice(piece);
        }
    }
    write_and_send(py, slf, tls, &record)
}
