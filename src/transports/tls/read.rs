//! From the stream transport to the application: ciphertext in, `SSL_read`, the application's protocol.

use std::collections::TryReserveError;
use std::ptr;

use pyo3::exceptions::{PyMemoryError, PyRuntimeError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::allocator::out_of_memory;
use crate::event_loop::LoopContext;
use crate::python::buffer::BufferGuard;
use crate::python::bytes::to_bytes;
use crate::python::stdlib::Stdlib;
use crate::python::{FfiResult, Ref};
use crate::transports::stream::native_protocol::Received;
use crate::transports::tls::buffers::{PooledBuffer, PLAINTEXT};
use crate::transports::tls::session::{no_session, Session, Stop};
use crate::transports::tls::state::{
    call_method, fatal_error, InputBorrow, TlsCore, APP_BUFFERED, APP_READING_PAUSED, WRAPPED,
};
use crate::transports::tls::write::{ensure_output_buffer, flush_to_stream, process_outgoing};

/// The largest record, decrypted.
const RECORD: usize = 16 * 1024;

/// Takes ciphertext that the stream transport has received.
///
/// # Safety
/// `slf` is a `TlsCore`.
pub unsafe fn ciphertext_received(
    cx: LoopContext<'_>,
    slf: &Ref,
    data: Received<'_>,
) -> FfiResult<()> {
    let py = cx.py;
    // SAFETY: the caller guarantees the class, and has a token of this thread.
    let tls = unsafe { TlsCore::of(slf.as_ptr()) };
    let is_reading = tls.is(WRAPPED | APP_READING_PAUSED, WRAPPED) && tls.backlog_size.get() == 0;
    if !is_reading || tls.with_bio(py, |bio| !bio.is_drained()) {
        return buffer_updated(py, slf, tls, data);
    }
    let read = {
        let _cork = tls.cork();
        let input = tls.borrow_input(py, data);
        ensure_output_buffer(py, tls);
        if tls.has(APP_BUFFERED) {
            read_buffered(py, slf, tls, Some(input))
        } else {
            read_copied(py, slf, tls, Some((cx, input)))
        }
    };
    match read.err().map(|_| PyErr::fetch(py)) {
        None => {
            let sent = process_outgoing(py, slf, tls);
            sent.or_else(|_| fatal_error(py, slf, PyErr::fetch(py)))
        }
        // What the application and OpenSSL have written is sent as well. But the connection ends with this error, also if that
        // fails.
        Some(error) => {
            flush_to_stream(py, tls)?;
            fatal_error(py, slf, error)
        }
    }
}

/// Stores the data for asyncio's own code: the handshake, the shutdown, and other rare states.
fn buffer_updated(py: Python<'_>, slf: &Ref, tls: &TlsCore, data: Received<'_>) -> FfiResult<()> {
    let stored = tls.with_bio(py, |bio| Some(bio.store(&data)));
    drop(data);
    if stored.is_some_and(|stored| stored.is_err()) {
        return fatal_error(py, slf, PyMemoryError::new_err(()));
    }
    // SAFETY: this runs in an attached thread, and the result is a new reference or null.
    let none = unsafe { Ref::new(ffi::PyLong_FromLong(0))? };
    call_method(py, slf, "buffer_updated", [&none]).map(drop)
}

/// Decrypts what was received, and calls the application's protocol once with all of it. A call of the loop passes what it has
/// just received.
pub fn read_copied(
    py: Python<'_>,
    slf: &Ref,
    tls: &TlsCore,
    received: Option<(LoopContext<'_>, InputBorrow<'_>)>,
) -> FfiResult<()> {
    let session = tls.session().ok_or_else(no_session)?;
    let mut plaintext = PLAINTEXT.take();
    let stop = tls.locked(py, || decrypt(session, &mut plaintext));
    // The application may enter the loop again: nothing that others share is kept while it is called.
    let (cx, stored) = match received {
        Some((cx, input)) => (Some(cx), input.end()),
        None => (None, Ok(())),
    };
    let stop = stop.map_err(out_of_memory)?;
    match stop {
        // As in asyncio, data before a record that cannot be decrypted is lost.
        Stop::Failed => return Err(session.error(py)),
        _ if plaintext.is_empty() => {}
        _ => deliver(tls, cx, plaintext)?,
    }
    stored.map_err(out_of_memory)?;
    match stop {
        Stop::CloseNotify => on_close_notify(py, slf),
        _ => Ok(()),
    }
}

/// Gives decrypted data to the application's protocol: in place if that is native, as `bytes` if not.
fn deliver(tls: &TlsCore, cx: Option<LoopContext<'_>>, plaintext: PooledBuffer) -> FfiResult<()> {
    let protocol = tls.app_protocol.get().unwrap_or_else(Ref::none);
    let Some(cx) = cx else {
        let data = to_bytes(&plaintext)?;
        drop(plaintext);
        return data_received(&protocol, &data).map(drop);
    };
    if let Some(native) = tls.native_protocol() {
        let give_back = |buffer| drop(PLAINTEXT.own(buffer));
        let data = Received::full(plaintext.into_vec(), &give_back);
        // SAFETY: `set_app_protocol` has stored `native` together with the protocol, for which the lookup returned it.
        return unsafe { (native.data_received)(cx, &protocol, data) };
    }
    let data = cx.core.spare_bytes.make(&plaintext)?;
    drop(plaintext);
    data_received(&protocol, &data)?;
    cx.core.spare_bytes.keep(data);
    Ok(())
}

/// Appends decrypted data until there is no more. The session is locked.
fn decrypt(session: Session<'_>, plaintext: &mut Vec<u8>) -> Result<Stop, TryReserveError> {
    session.clear_errors();
    loop {
        let pending = session.pending();
        plaintext.try_reserve(pending.max(plaintext.len()) + RECORD)?;
        let room = plaintext.capacity() - plaintext.len();
        // SAFETY: the vector has `room` bytes behind its length, of which `read` has written `n`.
        let read = unsafe {
            let read = session.read(plaintext.as_mut_ptr().add(plaintext.len()), room);
            if let Ok(n) = read {
                plaintext.set_len(plaintext.len() + n);
            }
            read
        };
        match read {
            // The last record was decrypted, so the next read would only say that it has to wait.
            Ok(n) if n < room && session.pending() == 0 => return Ok(Stop::WouldBlock),
            Ok(_) => {}
            Err(stop) => return Ok(stop),
        }
    }
}

/// Decrypts into the buffer of the application's protocol, until it is full or there is no more.
pub fn read_buffered(
    py: Python<'_>,
    slf: &Ref,
    tls: &TlsCore,
    input: Option<InputBorrow<'_>>,
) -> FfiResult<()> {
    let session = tls.session().ok_or_else(no_session)?;
    let protocol = slf.bind(py);
    let hint = tls.with_bio(py, |bio| bio.pending());
    let object = protocol.call_method1("_app_protocol_get_buffer", (hint,))?;
    // SAFETY: `object` keeps the object alive.
    let buffer = unsafe { BufferGuard::writable(object.as_ptr())? };
    session.clear_errors();
    let size = buffer.len();
    if size == 0 {
        return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer").into());
    }
    let mut filled = 0;
    let mut stop = None;
    while filled < size && stop.is_none() {
        // SAFETY: the buffer is writable and has `size` bytes, more than `filled`.
        let read = tls.locked(py, || unsafe {
            session.read(buffer.as_mut_ptr().add(filled), size - filled)
        });
        match read {
            Ok(n) => filled += n,
            Err(reason) => stop = Some(reason),
        }
    }
    drop(buffer);
    let stored = input.map_or(Ok(()), InputBorrow::end);
    if matches!(stop, Some(Stop::Failed)) {
        return Err(session.error(py));
    }
    if stop.is_none() && filled > 0 {
        // The buffer is full. The rest is read later, so that one busy connection does not starve the others.
        let do_read = protocol.getattr("_do_read")?;
        protocol
            .getattr("_loop")?
            .call_method1("call_soon", (do_read,))?;
    }
    if filled > 0 {
        protocol.call_method1("_app_protocol_buffer_updated", (filled,))?;
    }
    stored.map_err(out_of_memory)?;
    match stop {
        Some(Stop::CloseNotify) => on_close_notify(py, slf),
        _ => Ok(()),
    }
}

/// The peer has ended its side: notifies the application, and shuts the connection down.
fn on_close_notify(py: Python<'_>, slf: &Ref) -> FfiResult<()> {
    call_method(py, slf, "_call_eof_received", [])?;
    call_method(py, slf, "_start_shutdown", []).map(drop)
}

/// `protocol.data_received(data)`. The method is looked up each time: it may change.
#[inline]
fn data_received(protocol: &Ref, data: &Ref) -> FfiResult<Ref> {
    let mut values: [*mut PyObject; 3] = [ptr::null_mut(), protocol.as_ptr(), data.as_ptr()];
    // SAFETY: the references keep the objects alive. The slot in front of them is free for CPython, as the flag says.
    unsafe {
        Ref::new(ffi::PyObject_VectorcallMethod(
            Stdlib::get().names.data_received.as_ptr(),
            values.as_mut_ptr().add(1),
            2 | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            ptr::null_mut(),
        ))
    }
}
