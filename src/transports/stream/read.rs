//! From the socket to the protocol.

use std::io;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::event_loop::io::receive::{fill_up, receive, receive_bytes, READ_SIZE};
use crate::event_loop::{exceptions, LoopContext, LoopCore};
use crate::python::stdlib::Stdlib;
use crate::python::{ErrSet, FfiResult, Ref};
use crate::transports::base::{debug_log, Transport, LOST};
use crate::transports::stream::native_protocol::NativeProtocol;
use crate::transports::stream::{fast_path, write};
use crate::transports::stream::{Stream, BUFFERED, CORKED, EOF_READ, HANGUP, READABLE};

/// Reads for one event, so that one busy stream does not keep the others waiting.
const READS_PER_EVENT: usize = 16;

const READ_FAILED: &str = "Fatal read error on socket transport";

/// What a read found.
enum Outcome {
    /// Data for the protocol; `true` when the socket may hold more.
    Data {
        more: bool,
    },
    Nothing,
    End,
    /// The connection is being closed for an error that was reported.
    Failed,
}

/// Reads and hands over until the socket is empty or the budget is used.
pub fn read(cx: LoopContext<'_>, me: &Ref, it: &Stream) -> FfiResult<()> {
    let LoopContext {
        py,
        core,
        event_loop,
    } = cx;
    for _ in 0..READS_PER_EVENT {
        let outcome = if let Some(native) = it.native_protocol() {
            read_into_native(cx, me, it, native)?
        } else if it.has(BUFFERED) {
            read_into_protocol(event_loop, me, it)?
        } else {
            read_bytes(core, event_loop, me, it)?
        };
        match outcome {
            Outcome::Data { more } => {
                if !more {
                    it.set(READABLE, false);
                    return Ok(());
                }
                if !it.wants_to_read() {
                    return Ok(());
                }
            }
            Outcome::Nothing => {
                it.set(READABLE, false);
                return Ok(());
            }
            Outcome::End => {
                it.set(READABLE, false);
                return end_of_file(py, me, it);
            }
            Outcome::Failed => return Ok(()),
        }
    }
    it.read_later(core, me.as_ptr());
    Ok(())
}

/// Whether the socket may hold more after `n` of `size` bytes came. A short read has emptied it: more would raise
/// another edge. Only an end or an error that was told of before still waits behind the data.
#[inline]
fn may_hold_more(it: &Stream, n: usize, size: usize) -> bool {
    n == size || it.has(HANGUP)
}

/// Hands the standing buffer to a native protocol.
fn read_into_native(
    cx: LoopContext<'_>,
    me: &Ref,
    it: &Stream,
    native: &'static NativeProtocol,
) -> FfiResult<Outcome> {
    // The protocol may run Python, and with it anything: the buffer is out of its cell meanwhile.
    let mut scratch = cx.core.scratch.take();
    let received = fill_up(&mut scratch, READ_SIZE)
        .and_then(|()| receive(it.open_fd(), scratch.as_mut_ptr(), READ_SIZE, 0));
    let n = match received {
        Ok(n @ 1..) => {
            cx.core.stats.received(n);
            n
        }
        end => {
            drop(cx.core.scratch.replace(scratch));
            return match end {
                Ok(_) => Ok(Outcome::End),
                Err(error) => read_failed(me, error),
            };
        }
    };
    let protocol = it.protocol.get().unwrap_or_else(Ref::none);
    it.set(CORKED, true);
    // SAFETY: `native` is what the lookup returned for this protocol when it was set.
    let called = it.in_context(|| unsafe { (native.data_received)(cx, &protocol, &scratch[..n]) });
    drop(cx.core.scratch.replace(scratch));
    after_call(cx.event_loop, me, it, called, native.error_message)?;
    Ok(Outcome::Data {
        more: may_hold_more(it, n, READ_SIZE),
    })
}

fn read_bytes(
    core: &LoopCore,
    event_loop: *mut PyObject,
    me: &Ref,
    it: &Stream,
) -> FfiResult<Outcome> {
    let Ok(room) = core.spare_bytes.room(READ_SIZE) else {
        return no_object(me);
    };
    let read = receive_bytes(core, it.open_fd(), READ_SIZE, 0, room, |data| {
        core.spare_bytes.make(data)
    });
    let (n, data) = match read {
        Ok((0, _)) => return Ok(Outcome::End),
        Ok((n, data)) => {
            core.stats.received(n);
            match data {
                Ok(data) => (n, data),
                Err(ErrSet) => return no_object(me),
            }
        }
        Err(error) => return read_failed(me, error),
    };
    it.set(CORKED, true);
    let called = it.call_protocol(&Stdlib::get().names.data_received, [data.as_ptr()]);
    after_call(
        event_loop,
        me,
        it,
        called.map(drop),
        "Fatal error: protocol.data_received() call failed.",
    )?;
    core.spare_bytes.keep(data);
    Ok(Outcome::Data {
        more: may_hold_more(it, n, READ_SIZE),
    })
}

/// Sends what the protocol wrote, then reports what it raised.
#[inline]
fn after_call(
    event_loop: *mut PyObject,
    me: &Ref,
    it: &Stream,
    result: FfiResult<()>,
    message: &str,
) -> FfiResult<()> {
    it.set(CORKED, false);
    match result {
        Ok(()) => {
            if it.has_blocked_writes() {
                return Ok(());
            }
            write::flush(event_loop, me, it)
        }
        Err(ErrSet) => {
            // SAFETY: attached.
            let py = unsafe { Python::assume_attached() };
            let error = PyErr::fetch(py);
            let flushed = if it.has_blocked_writes() {
                Ok(())
            } else {
                write::flush(event_loop, me, it)
            };
            let _ = ErrSet::from(error);
            let reported = Stream::fatal_error(me, message);
            flushed.and(reported)
        }
    }
}

/// The buffer of a `BufferedProtocol`, given back when it goes out of scope.
struct Buffer(ffi::Py_buffer);

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: filled by PyObject_GetBuffer and released once.
        unsafe { ffi::PyBuffer_Release(&raw mut self.0) };
    }
}

fn read_into_protocol(event_loop: *mut PyObject, me: &Ref, it: &Stream) -> FfiResult<Outcome> {
    let buffer = match get_buffer(it) {
        Ok(buffer) => buffer,
        Err(ErrSet) => {
            Stream::fatal_error(me, "Fatal error: protocol.get_buffer() call failed.")?;
            return Ok(Outcome::Failed);
        }
    };
    if it.has(LOST) || it.is_closing() {
        return Ok(Outcome::Failed);
    }
    let size = buffer.0.len.unsigned_abs();
    let read = receive(it.open_fd(), buffer.0.buf.cast(), size, 0);
    drop(buffer);
    let n = match read {
        Ok(0) => return Ok(Outcome::End),
        Ok(n) => {
            // SAFETY: the loop of a transport is a LoopCore.
            unsafe { LoopCore::of(event_loop) }.stats.received(n);
            n
        }
        Err(error) => return read_failed(me, error),
    };
    it.set(CORKED, true);
    // SAFETY: attached; a size fits.
    let called = unsafe { Ref::new(ffi::PyLong_FromSize_t(n)) }
        .and_then(|count| it.call_protocol(&Stdlib::get().names.buffer_updated, [count.as_ptr()]));
    after_call(
        event_loop,
        me,
        it,
        called.map(drop),
        "Fatal error: protocol.buffer_updated() call failed.",
    )?;
    Ok(Outcome::Data {
        more: may_hold_more(it, n, size),
    })
}

fn get_buffer(it: &Stream) -> FfiResult<Buffer> {
    // SAFETY: attached; -1 means that the protocol chooses the size.
    unsafe {
        let hint = Ref::new(ffi::PyLong_FromLong(-1))?;
        let object = it.call_protocol(&Stdlib::get().names.get_buffer, [hint.as_ptr()])?;
        let mut view = std::mem::zeroed::<ffi::Py_buffer>();
        if ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut view, ffi::PyBUF_WRITABLE) != 0 {
            // Being empty comes before being read-only, as in asyncio.
            let py = Python::assume_attached();
            let error = PyErr::fetch(py);
            if object.bind(py).len().is_ok_and(|length| length == 0) {
                return Err(empty_buffer());
            }
            return Err(error.into());
        }
        let buffer = Buffer(view);
        if buffer.0.len == 0 {
            return Err(empty_buffer());
        }
        Ok(buffer)
    }
}

#[cold]
fn empty_buffer() -> ErrSet {
    PyRuntimeError::new_err("get_buffer() returned an empty buffer").into()
}

#[cold]
fn read_failed(me: &Ref, error: io::Error) -> FfiResult<Outcome> {
    if error.kind() == io::ErrorKind::WouldBlock {
        return Ok(Outcome::Nothing);
    }
    let _ = ErrSet::from(exceptions::os_error(&error));
    Stream::fatal_error(me, READ_FAILED)?;
    Ok(Outcome::Failed)
}

/// There is no memory for the object of what was read, which is lost: the exception that is set ends the connection.
#[cold]
fn no_object(me: &Ref) -> FfiResult<Outcome> {
    Stream::fatal_error(me, READ_FAILED)?;
    Ok(Outcome::Failed)
}

fn end_of_file(py: Python<'_>, me: &Ref, it: &Stream) -> FfiResult<()> {
    // SAFETY: `me` is the object of `it`.
    unsafe { debug_log(me.as_ptr(), it, "%r received EOF")? };
    let keep_open = it
        .call_protocol(&Stdlib::get().names.eof_received, [])
        .and_then(|answer| Ok(answer.bind(py).is_truthy()?));
    match keep_open {
        Ok(true) => {
            it.set(EOF_READ, true);
            it.update_hold(me.as_ptr());
            Ok(())
        }
        Ok(false) => fast_path::close(me, it),
        Err(ErrSet) => Stream::fatal_error(me, "Fatal error: protocol.eof_received() call failed."),
    }
}
