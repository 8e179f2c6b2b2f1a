//! From the stream to the application: ciphertext in, `SSL_read`, the application's protocol.

use std::cell::RefCell;
use std::collections::TryReserveError;
use std::ptr;

use pyo3::exceptions::{PyException, PyMemoryError, PyRuntimeError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::allocator::out_of_memory;
use crate::event_loop::LoopContext;
use crate::python::bytes::to_bytes;
use crate::python::stdlib::Stdlib;
use crate::python::{ErrSet, FfiResult, Ref};
use crate::transports::tls::openssl::{SSL_READING, SSL_RECEIVED_SHUTDOWN, SSL_WRITING};
use crate::transports::tls::protocol::{
    call, raise, Session, TlsCore, BUFFERED, CORKED, READING_PAUSED, WRAPPED,
};
use crate::transports::tls::write;

/// The largest record, decrypted.
const RECORD: usize = 16 * 1024;
/// What the buffer for decrypted data keeps of its size between uses.
const KEEP: usize = 288 * 1024;

thread_local! {
    /// Where connections of this thread decrypt to.
    static PLAIN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How reading has ended.
pub enum End {
    /// More has to come in first.
    Wait,
    /// The peer has closed its side.
    Closed,
    Failed,
}

/// OpenSSL's queue of errors may hold some of others, which must not be taken for one of the call that follows.
#[inline]
pub fn forget_errors(session: Session) {
    // SAFETY: plain calls.
    unsafe {
        if (session.openssl.ERR_peek_last_error)() != 0 {
            (session.openssl.ERR_clear_error)();
        }
    }
}

/// Why `SSL_read` or `SSL_write` has not done what it was asked to.
#[cold]
pub fn why(session: Session) -> End {
    // SAFETY: the session's SSL is live.
    unsafe {
        match (session.openssl.SSL_want)(session.ssl) {
            SSL_READING | SSL_WRITING => End::Wait,
            // A fatal alert shuts down, too.
            _ if (session.openssl.ERR_peek_last_error)() != 0 => End::Failed,
            _ if (session.openssl.SSL_get_shutdown)(session.ssl) & SSL_RECEIVED_SHUTDOWN != 0 => {
                End::Closed
            }
            _ => End::Failed,
        }
    }
}

/// Takes ciphertext that the stream has received.
///
/// # Safety
/// `me` is a live `TlsCore`.
pub unsafe fn ciphertext_received(cx: LoopContext<'_>, me: &Ref, data: &[u8]) -> FfiResult<()> {
    // SAFETY: `protocol` is a live `TlsCore`: the lookup returns this function for no other class.
    let it = unsafe { TlsCore::of(me.as_ptr()) };
    let ready = it.is(WRAPPED | READING_PAUSED, WRAPPED) && it.backlog.get() == 0;
    if !ready || it.with_wire(|wire| !wire.is_drained()) {
        // The handshake, the shutdown and whatever else is rare are asyncio's.
        if it
            .with_wire(|wire| Some(wire.store(data)))
            .is_some_and(|it| it.is_err())
        {
            return failed(cx.py, me, PyMemoryError::new_err(()));
        }
        // SAFETY: attached; a small number.
        let none = unsafe { Ref::new(ffi::PyLong_FromLong(0))? };
        return call(me, "buffer_updated", [&none]).map(drop);
    }
    it.with_wire(|wire| wire.lend(data));
    write::prepare(it);
    it.set(CORKED, true);
    let read = if it.has(BUFFERED) {
        read_buffered(cx.py, me, it)
    } else {
        read_copied(me, it, Some(cx))
    };
    let stored = it.with_wire(|wire| Some(wire.take_back()));
    it.set(CORKED, false);
    let read = read.and_then(|()| stored.unwrap_or(Ok(())).map_err(out_of_memory));
    match read.err().map(|_| PyErr::fetch(cx.py)) {
        None => {
            let sent = write::process(me, it);
            sent.or_else(|_| failed(cx.py, me, PyErr::fetch(cx.py)))
        }
        // What the application has written, and what OpenSSL has to say, still leaves; but it is for this that the
        // connection ends, also if the peer is gone.
        Some(error) => {
            write::send_gathered(it)?;
            failed(cx.py, me, error)
        }
    }
}

/// Ends the connection for an exception, as asyncio does where it reads and where it writes.
#[cold]
pub fn failed(py: Python<'_>, me: &Ref, error: PyErr) -> FfiResult<()> {
    if !error.is_instance_of::<PyException>(py) {
        return Err(error.into());
    }
    let message = "Fatal error on SSL protocol";
    me.bind(py)
        .call_method1("_fatal_error", (error.into_value(py), message))?;
    Ok(())
}

/// Decrypts all that is there, and hands it over in one piece.
pub fn read_copied(me: &Ref, it: &TlsCore, cx: Option<LoopContext<'_>>) -> FfiResult<()> {
    let session = it
        .session()
        .ok_or_else(crate::transports::tls::openssl::not_attached)?;
    let mut plain = PLAIN.take();
    plain.clear();
    let end = it
        .locked(|| decrypt(session, &mut plain))
        .map_err(out_of_memory)?;
    let result = match end {
        // As in asyncio, what came with a record that cannot be decrypted is not handed over.
        End::Failed => Err(raise(session)),
        _ if plain.is_empty() => Ok(()),
        _ => hand_over(it, cx, &plain),
    };
    if plain.capacity() <= KEEP {
        PLAIN.set(plain);
    }
    result?;
    match end {
        End::Closed => close_notified(me),
        _ => Ok(()),
    }
}

/// Gives decrypted data to the application's protocol: as it is if that is native, as `bytes` if not.
fn hand_over(it: &TlsCore, cx: Option<LoopContext<'_>>, plain: &[u8]) -> FfiResult<()> {
    let application = it.application.get().unwrap_or_else(Ref::none);
    let Some(cx) = cx else {
        return data_received(&application, &to_bytes(plain)?).map(drop);
    };
    if let Some(native) = it.native_protocol() {
        // SAFETY: `native` is what the lookup returned for this protocol when it was set.
        return unsafe { (native.data_received)(cx, &application, plain) };
    }
    let data = cx.core.spare_bytes.make(plain)?;
    data_received(&application, &data)?;
    cx.core.spare_bytes.keep(data);
    Ok(())
}

/// Appends decrypted data until no more is there.
fn decrypt(session: Session, plain: &mut Vec<u8>) -> Result<End, TryReserveError> {
    forget_errors(session);
    loop {
        // SAFETY: nothing else uses the wire now.
        let pending = unsafe { (*session.wire).pending() };
        plain.try_reserve(pending.max(plain.len()) + RECORD)?;
        let room = plain.capacity() - plain.len();
        let mut n = 0;
        // SAFETY: the buffer has `room` bytes behind its length, of which `n` are written.
        let read = unsafe {
            let into = plain.as_mut_ptr().add(plain.len());
            let read = (session.openssl.SSL_read_ex)(session.ssl, into.cast(), room, &raw mut n);
            plain.set_len(plain.len() + n);
            read
        };
        if read != 1 {
            return Ok(why(session));
        }
        // A record that came out whole, with nothing behind it: the next read would only say so.
        // SAFETY: as above.
        if n < room && unsafe { (*session.wire).is_drained() } {
            return Ok(End::Wait);
        }
    }
}

/// A writable view of a `BufferedProtocol`'s buffer, given back when it goes out of scope.
struct Buffer(ffi::Py_buffer);

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: filled by PyObject_GetBuffer and released once.
        unsafe { ffi::PyBuffer_Release(&raw mut self.0) };
    }
}

/// Decrypts into the application's own buffer, until it is full or no more is there.
pub fn read_buffered(py: Python<'_>, me: &Ref, it: &TlsCore) -> FfiResult<()> {
    let session = it
        .session()
        .ok_or_else(crate::transports::tls::openssl::not_attached)?;
    let protocol = me.bind(py);
    let hint = it.with_wire(|wire| wire.pending());
    let object = protocol.call_method1("_app_protocol_get_buffer", (hint,))?;
    // SAFETY: attached; the view is filled or an exception is set.
    let buffer = unsafe {
        let mut view = std::mem::zeroed::<ffi::Py_buffer>();
        if ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut view, ffi::PyBUF_WRITABLE) != 0 {
            return Err(ErrSet);
        }
        Buffer(view)
    };
    forget_errors(session);
    let size = buffer.0.len.unsigned_abs();
    if size == 0 {
        return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer").into());
    }
    let mut filled = 0;
    let mut end = None;
    while filled < size {
        let mut n = 0;
        // SAFETY: the view has `size` bytes.
        end = it.locked(|| unsafe {
            let into = buffer.0.buf.cast::<u8>().add(filled);
            let room = size - filled;
            let read = (session.openssl.SSL_read_ex)(session.ssl, into.cast(), room, &raw mut n);
            (read != 1).then(|| why(session))
        });
        if end.is_some() {
            break;
        }
        filled += n;
    }
    drop(buffer);
    if matches!(end, Some(End::Failed)) {
        return Err(raise(session));
    }
    if end.is_none() && filled > 0 {
        // The buffer is full: the rest comes later, so that one busy stream does not keep the others waiting.
        let again = protocol.getattr("_do_read")?;
        protocol
            .getattr("_loop")?
            .call_method1("call_soon", (again,))?;
    }
    if filled > 0 {
        protocol.call_method1("_app_protocol_buffer_updated", (filled,))?;
    }
    match end {
        Some(End::Closed) => close_notified(me),
        _ => Ok(()),
    }
}

/// The peer has said that it sends no more: the application hears of it, and the connection is shut down.
fn close_notified(me: &Ref) -> FfiResult<()> {
    call(me, "_call_eof_received", [])?;
    call(me, "_start_shutdown", []).map(drop)
}

/// Calls `data_received()`, which is looked up each time.
#[inline]
fn data_received(application: &Ref, data: &Ref) -> FfiResult<Ref> {
    let mut values: [*mut PyObject; 3] = [ptr::null_mut(), application.as_ptr(), data.as_ptr()];
    // SAFETY: attached; the arguments are live, and there is a free slot in front of them.
    unsafe {
        Ref::new(ffi::PyObject_VectorcallMethod(
            Stdlib::get().names.data_received.as_ptr(),
            values.as_mut_ptr().add(1),
            2 | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            ptr::null_mut(),
        ))
    }
}
