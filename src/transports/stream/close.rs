//! `close()` and `abort()`.

use pyo3::prelude::*;

use crate::python::{FfiResult, Ref};
use crate::transports::base::CLOSING;
use crate::transports::lifecycle::Transport;
use crate::transports::stream::state::StreamTransport;
use crate::transports::stream::write::flush_now;

/// Stops reading, sends what is queued, then has `connection_lost(None)` called.
pub fn close(py: Python<'_>, slf: &Ref, transport: &StreamTransport) -> FfiResult<()> {
    if transport.has(CLOSING) {
        return Ok(());
    }
    transport.check_thread_in_debug()?;
    // Before the flag is set: a closing stream ends when its queue is drained.
    flush_now(py, slf, transport)?;
    if transport.has(CLOSING) {
        return Ok(());
    }
    transport.set(CLOSING, true);
    transport.update_hold(slf);
    if transport.queue.with(|queue| queue.is_empty()) {
        let count = transport.lost_writes.get().max(1);
        transport.lost_writes.set(count);
        transport.schedule_connection_lost(py, slf, &Ref::none())?;
    }
    Ok(())
}

/// Has `connection_lost(None)` called without sending what the socket does not take at once.
pub fn abort(py: Python<'_>, slf: &Ref, transport: &StreamTransport) -> FfiResult<()> {
    // A write that fails ends the connection with its error.
    flush_now(py, slf, transport)?;
    transport.force_close(py, slf, &Ref::none())
}
