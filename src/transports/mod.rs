//! Stream transports over sockets, and the listener that makes them.
//!
//! * [`stream`] — the object: state, lifetime, protocol.
//! * [`methods`] — what Python calls on it.
//! * [`read`] — from the socket to the protocol.
//! * [`write`] — from the protocol to the socket, one system call a turn.
//! * [`address`] — socket addresses and `get_extra_info()`.
//! * [`listener`] — accepting connections.

mod address;
mod listener;
mod methods;
mod read;
mod stream;
mod write;

use hybridloop_reactor::Event;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::PyTraverseError;

use crate::event_loop::LoopCore;
use crate::ffi::{Ref, Res};
pub use listener::{accept, stop_listening};
pub use stream::forget;
use stream::Stream;

/// A stream has become ready.
///
/// # Safety
/// `stream` is a stream transport.
#[inline]
pub unsafe fn stream_ready(
    py: Python<'_>,
    core: &LoopCore,
    event_loop: *mut PyObject,
    stream: &Ref,
    event: Event,
) -> Res<()> {
    // SAFETY: the caller's promise.
    let it = unsafe { Stream::of(stream.as_ptr()) };
    it.note_ready(event);
    if event.writable && it.has_blocked_writes() {
        write::flush(core, event_loop, stream, it)?;
    }
    if event.readable && it.wants_to_read() {
        read::read(py, core, event_loop, stream, it)?;
    }
    Ok(())
}

/// Goes on with a stream or listener that had more to read than one event allows.
///
/// # Safety
/// `source` is a stream transport or a listener.
pub unsafe fn go_on(
    py: Python<'_>,
    core: &LoopCore,
    event_loop: *mut PyObject,
    source: Ref,
) -> Res<()> {
    if source.bind(py).is_instance_of::<listener::Listener>() {
        return accept(py, core, event_loop, &source);
    }
    // SAFETY: what is no listener is a stream.
    let it = unsafe { Stream::of(source.as_ptr()) };
    it.unqueue();
    if it.wants_to_read() && it.is_readable() {
        read::read(py, core, event_loop, &source, it)?;
    }
    Ok(())
}

/// Sends what a stream has gathered.
///
/// # Safety
/// `stream` is a stream transport.
pub unsafe fn flush(
    _py: Python<'_>,
    core: &LoopCore,
    event_loop: *mut PyObject,
    stream: Ref,
) -> Res<()> {
    // SAFETY: the caller's promise.
    let it = unsafe { Stream::of(stream.as_ptr()) };
    it.leave_flush_list();
    write::flush(core, event_loop, &stream, it)
}

/// Whether `close()` or `abort()` was called.
pub fn is_closing(stream: &Ref) -> bool {
    // SAFETY: the descriptor table holds only stream transports under this kind.
    unsafe { Stream::of(stream.as_ptr()) }.is_closing()
}

/// Shows a stream to the collector if the table's pointer counts as a reference.
///
/// # Safety
/// `stream` is a live stream transport.
pub unsafe fn traverse_held(
    stream: *mut PyObject,
    visit: &PyVisit<'_>,
) -> Result<(), PyTraverseError> {
    // SAFETY: the caller's promise.
    unsafe { Stream::of(stream).traverse_held(stream, visit) }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    stream::register(module)?;
    listener::register(module)
}
