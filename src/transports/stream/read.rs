//! From the socket to the protocol.

use std::io;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::event_loop::io::receive::{fill_up, receive, receive_bytes, READ_SIZE};
use crate::event_loop::{exceptions, LoopContext};
use crate::python::buffer::BufferGuard;
use crate::python::stdlib::Stdlib;
use crate::python::{ErrSet, FfiResult, Ref};
use crate::transports::base::{BLOCKED, LOST};
use crate::transports::lifecycle::{fatal_error, Transport};
use crate::transports::stream::native_protocol::{NativeProtocol, Received};
use crate::transports::stream::state::{
    StreamTransport, BUFFERED, CORKED, EOF_READ, HANGUP, READABLE,
};
use crate::transports::stream::{fast_path, write};

/// The most reads for one event, so that one busy stream does not starve the others.
const READS_PER_EVENT: usize = 16;

const READ_FAILED: &str = "Fatal read error on socket transport";

/// The outcome of one read.
enum ReadOutcome {
    /// The protocol got data.
    Data {
        /// The socket may hold more.
        more: bool,
    },
    WouldBlock,
    Eof,
    /// An error was reported, and the connection ends.
    Failed,
}

/// Reads and calls the protocol until the socket is drained or the limit is reached.
pub fn read(cx: LoopContext<'_>, slf: &Ref, transport: &StreamTransport) -> FfiResult<()> {
    cx.core.stacks.serve(transport.token());
    for _ in 0..READS_PER_EVENT {
        let outcome = if let Some(native) = transport.native_protocol() {
            read_for_native(cx, slf, transport, native)?
        } else if transport.has(BUFFERED) {
            read_for_buffered(cx, slf, transport)?
        } else {
            read_bytes(cx, slf, transport)?
        };
        match outcome {
            ReadOutcome::Data { more } => {
                if !more || !transport.wants_to_read() {
                    return Ok(());
                }
            }
            ReadOutcome::WouldBlock => {
                transport.set(READABLE, false);
                return Ok(());
            }
            ReadOutcome::Eof => {
                transport.set(READABLE, false);
                return on_eof(cx.py, slf, transport);
            }
            ReadOutcome::Failed => return Ok(()),
        }
    }
    transport.schedule_read(cx.core, slf);
    Ok(())
}

/// Whether the socket may hold more after a read of `n` bytes into room for `size`. A short read has drained it, and more data
/// raises another edge. Only EOF or an error that an event has reported may still be behind the data.
///
/// It is decided before the protocol is called: a call that enters the loop again may get the next edge.
#[inline]
fn may_hold_more(transport: &StreamTransport, n: usize, size: usize) -> bool {
    let more = n == size || transport.has(HANGUP);
    if !more {
        transport.set(READABLE, false);
    }
    more
}

/// Reads into the loop's buffer, and hands that to a native protocol.
fn read_for_native(
    cx: LoopContext<'_>,
    slf: &Ref,
    transport: &StreamTransport,
    native: &'static NativeProtocol,
) -> FfiResult<ReadOutcome> {
    let give_back = |scratch| drop(cx.core.scratch.replace(scratch));
    // The protocol may run Python and so anything else: the buffer is out of its cell until the protocol drops it.
    let mut data = Received::new(cx.core.scratch.take(), &give_back);
    match data.fill(|scratch| {
        fill_up(scratch, READ_SIZE)?;
        receive(transport.open_fd(), scratch.as_mut_ptr(), READ_SIZE, 0)
    }) {
        Ok(0) => return Ok(ReadOutcome::Eof),
        Ok(_) => {}
        Err(error) => return read_failed(cx.py, slf, &error),
    }
    cx.core.stats.received(data.len());
    let more = may_hold_more(transport, data.len(), READ_SIZE);
    let protocol = transport.protocol.get().unwrap_or_else(Ref::none);
    transport.set(CORKED, true);
    // SAFETY: `set_protocol` has stored `native` together with the protocol, for which the lookup returned it.
    let called =
        transport.run_in_context(|| unsafe { (native.data_received)(cx, &protocol, data) });
    after_call(cx, slf, transport, called, native.error_message)?;
    Ok(ReadOutcome::Data { more })
}

/// Reads a `bytes` object for `data_received()`.
fn read_bytes(
    cx: LoopContext<'_>,
    slf: &Ref,
    transport: &StreamTransport,
) -> FfiResult<ReadOutcome> {
    let core = cx.core;
    let Ok(buffer) = core.spare_bytes.receive_buffer(READ_SIZE) else {
        return out_of_memory(cx.py, slf);
    };
    let read = receive_bytes(core, transport.open_fd(), READ_SIZE, 0, buffer, |data| {
        core.spare_bytes.make(data)
    });
    let (n, data) = match read {
        Ok((0, _)) => return Ok(ReadOutcome::Eof),
        Ok((n, data)) => {
            core.stats.received(n);
            match data {
                Ok(data) => (n, data),
                Err(ErrSet) => return out_of_memory(cx.py, slf),
            }
        }
        Err(error) => return read_failed(cx.py, slf, &error),
    };
    let more = may_hold_more(transport, n, READ_SIZE);
    transport.set(CORKED, true);
    let called = transport.call_protocol(&Stdlib::get().names.data_received, [data.as_ptr()]);
    after_call(
        cx,
        slf,
        transport,
        called.map(drop),
        "Fatal error: protocol.data_received() call failed.",
    )?;
    core.spare_bytes.keep(data);
    Ok(ReadOutcome::Data { more })
}

/// Reads into the buffer of a `BufferedProtocol`.
fn read_for_buffered(
    cx: LoopContext<'_>,
    slf: &Ref,
    transport: &StreamTransport,
) -> FfiResult<ReadOutcome> {
    let buffer = match get_buffer(cx.py, transport) {
        Ok(buffer) => buffer,
        Err(ErrSet) => {
            fatal_error(
                cx.py,
                slf,
                "Fatal error: protocol.get_buffer() call failed.",
            )?;
            return Ok(ReadOutcome::Failed);
        }
    };
    if transport.has(LOST) || transport.is_closing() {
        return Ok(ReadOutcome::Failed);
    }
    let size = buffer.len();
    let read = receive(transport.open_fd(), buffer.as_mut_ptr(), size, 0);
    drop(buffer);
    let n = match read {
        Ok(0) => return Ok(ReadOutcome::Eof),
        Ok(n) => {
            cx.core.stats.received(n);
            n
        }
        Err(error) => return read_failed(cx.py, slf, &error),
    };
    let more = may_hold_more(transport, n, size);
    transport.set(CORKED, true);
    // SAFETY: this runs in an attached thread, and the result is a new reference or null.
    let called = unsafe { Ref::new(ffi::PyLong_FromSize_t(n)) }.and_then(|count| {
        transport.call_protocol(&Stdlib::get().names.buffer_updated, [count.as_ptr()])
    });
    after_call(
        cx,
        slf,
        transport,
        called.map(drop),
        "Fatal error: protocol.buffer_updated() call failed.",
    )?;
    Ok(ReadOutcome::Data { more })
}

/// `protocol.get_buffer(-1)`, as a writable buffer that is not empty.
fn get_buffer(py: Python<'_>, transport: &StreamTransport) -> FfiResult<BufferGuard> {
    // SAFETY: this runs in an attached thread, and the result is a new reference or null.
    let hint = unsafe { Ref::new(ffi::PyLong_FromLong(-1))? };
    let object = transport.call_protocol(&Stdlib::get().names.get_buffer, [hint.as_ptr()])?;
    // SAFETY: `object` keeps the object alive.
    match unsafe { BufferGuard::writable(object.as_ptr()) } {
        Ok(buffer) if buffer.len() > 0 => Ok(buffer),
        Ok(_) => Err(empty_buffer()),
        Err(ErrSet) => {
            // Like asyncio, this complains of an empty buffer rather than of one that is read-only.
            let error = PyErr::fetch(py);
            if object.bind(py).len().is_ok_and(|length| length == 0) {
                return Err(empty_buffer());
            }
            Err(error.into())
        }
    }
}

#[cold]
fn empty_buffer() -> ErrSet {
    PyRuntimeError::new_err("get_buffer() returned an empty buffer").into()
}

/// Sends what the protocol has written, then reports what it has raised.
#[inline]
fn after_call(
    cx: LoopContext<'_>,
    slf: &Ref,
    transport: &StreamTransport,
    result: FfiResult<()>,
    message: &str,
) -> FfiResult<()> {
    transport.set(CORKED, false);
    match result {
        Ok(()) => flush_unless_blocked(cx, slf, transport),
        Err(ErrSet) => {
            let error = PyErr::fetch(cx.py);
            let flushed = flush_unless_blocked(cx, slf, transport);
            let _ = ErrSet::from(error);
            let reported = fatal_error(cx.py, slf, message);
            flushed.and(reported)
        }
    }
}

#[inline]
fn flush_unless_blocked(
    cx: LoopContext<'_>,
    slf: &Ref,
    transport: &StreamTransport,
) -> FfiResult<()> {
    if transport.has(BLOCKED) {
        return Ok(());
    }
    write::flush(cx, slf, transport)
}

#[cold]
fn read_failed(py: Python<'_>, slf: &Ref, error: &io::Error) -> FfiResult<ReadOutcome> {
    if error.kind() == io::ErrorKind::WouldBlock {
        return Ok(ReadOutcome::WouldBlock);
    }
    let _ = ErrSet::from(exceptions::os_error(error));
    fatal_error(py, slf, READ_FAILED)?;
    Ok(ReadOutcome::Failed)
}

/// There is no memory for an object with the data, which is lost: the exception that is set ends the connection.
#[cold]
fn out_of_memory(py: Python<'_>, slf: &Ref) -> FfiResult<ReadOutcome> {
    fatal_error(py, slf, READ_FAILED)?;
    Ok(ReadOutcome::Failed)
}

fn on_eof(py: Python<'_>, slf: &Ref, transport: &StreamTransport) -> FfiResult<()> {
    transport.log_debug(py, slf, "%r received EOF")?;
    // Before the call, which may enter the loop again: an error that follows must not notify the protocol twice.
    transport.set(EOF_READ, true);
    let keep_open = transport
        .call_protocol(&Stdlib::get().names.eof_received, [])
        .and_then(|answer| Ok(answer.bind(py).is_truthy()?));
    match keep_open {
        Ok(true) => {
            transport.update_hold(slf);
            Ok(())
        }
        Ok(false) => fast_path::close(py, slf),
        Err(ErrSet) => fatal_error(py, slf, "Fatal error: protocol.eof_received() call failed."),
    }
}
