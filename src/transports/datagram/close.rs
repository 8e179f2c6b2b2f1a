//! `close()` and `abort()`.

use pyo3::prelude::*;

use crate::python::{FfiResult, Ref};
use crate::transports::base::CLOSING;
use crate::transports::datagram::state::DatagramTransport;
use crate::transports::lifecycle::Transport;

/// Stops reading, sends what is queued, then has `connection_lost(None)` called.
pub fn close(py: Python<'_>, slf: &Ref, transport: &DatagramTransport) -> FfiResult<()> {
    if transport.has(CLOSING) {
        return Ok(());
    }
    transport.check_thread_in_debug()?;
    transport.set(CLOSING, true);
    transport.rearm_at_end();
    transport.update_hold(slf);
    if transport.queue.with(|queue| queue.is_empty()) {
        let count = transport.lost_writes.get().max(1);
        transport.lost_writes.set(count);
        transport.schedule_connection_lost(py, slf, &Ref::none())?;
    }
    Ok(())
}

/// Drops what is queued, and has `connection_lost(error)` called.
pub fn force_close(
    py: Python<'_>,
    slf: &Ref,
    transport: &DatagramTransport,
    error: &Ref,
) -> FfiResult<()> {
    let closed = transport.force_close(py, slf, error);
    transport.rearm_at_end();
    closed
}
