//! How transports of all types are kept alive and end: fatal errors, `connection_lost()`, closing the descriptor.

use std::ops::Deref;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::event_loop::{closed_error, exceptions};
use crate::python::stdlib::Stdlib;
use crate::python::{FfiResult, Ref};
use crate::transports::base::{TransportBase, BLOCKED, CLOSING, HELD, LOST, STARTED};

/// What differs between types of transports, and what they do alike with it. `slf` is the object of `self` everywhere.
pub trait Transport: Deref<Target = TransportBase> {
    /// Whether the transport reads, or has something to send.
    fn is_active(&self) -> bool;

    /// Drops what is queued.
    fn discard_queue(&self);

    /// The objects that the state refers to, for the collector; null stands for none.
    fn objects(&self) -> impl Iterator<Item = *mut PyObject>;

    /// Breaks reference cycles.
    fn clear_references(&self);

    /// Sends what is queued, as far as the socket takes it at once. Errors are ignored: the connection ends anyway.
    fn send_before_abort(&self) {}

    /// Called before the descriptor is closed.
    fn before_close(&self) {}

    /// Called when the descriptor is closed and the protocol has been notified.
    fn after_close(&self, _py: Python<'_>, _slf: &Ref) -> FfiResult<()> {
        Ok(())
    }

    /// Has the descriptor table hold a reference while the transport reads or has bytes to send, as asyncio's selector does.
    fn update_hold(&self, slf: &Ref) {
        let wanted =
            self.token().is_some() && self.has(STARTED) && !self.has(LOST) && self.is_active();
        if wanted != self.has(HELD) && self.change(HELD, wanted) {
            // SAFETY: the flag has just changed, so the table's reference is counted once and given back once. The caller's
            // reference keeps the object alive.
            unsafe {
                if wanted {
                    ffi::Py_INCREF(slf.as_ptr());
                } else {
                    ffi::Py_DECREF(slf.as_ptr());
                }
            }
        }
    }

    /// The descriptor table has dropped its pointer; gives back the reference if it was one.
    fn on_deregistered(&self, slf: &Ref) {
        self.forget_token();
        self.update_hold(slf);
    }

    /// Ends the connection without sending what is queued; `connection_lost(error)` follows.
    fn force_close(&self, py: Python<'_>, slf: &Ref, error: &Ref) -> FfiResult<()> {
        if self.lost_writes.get() > 0 {
            return Ok(());
        }
        self.check_thread_in_debug()?;
        // asyncio has sent by now what was written before.
        self.send_before_abort();
        self.discard_queue();
        self.set(CLOSING, true);
        self.set(BLOCKED, false);
        self.lost_writes.set(1);
        self.schedule_connection_lost(py, slf, error)
    }

    /// Has the loop call `connection_lost(error)` in the transport's context.
    fn schedule_connection_lost(&self, py: Python<'_>, slf: &Ref, error: &Ref) -> FfiResult<()> {
        let Some(event_loop) = self.event_loop.get() else {
            return Ok(());
        };
        let cx = event_loop.cx(py);
        let callback = slf.bind(py).getattr("_call_connection_lost")?.into();
        if cx.core.is_closed() {
            // Nothing will run the callback, and the descriptor must not stay open.
            self.close_descriptor(py, slf)?;
            return Err(closed_error());
        }
        cx.call_soon(&callback, [error], self.context.get())?;
        cx.core.wake_from_other_thread();
        self.update_hold(slf);
        Ok(())
    }

    /// Calls `connection_lost(error)`, and closes the descriptor whatever the protocol does.
    fn connection_lost(&self, py: Python<'_>, slf: &Ref, error: &Ref) -> FfiResult<()> {
        if self.has(LOST) {
            return Ok(());
        }
        // The handle that runs this has entered the transport's context.
        let name = &Stdlib::get().names.connection_lost;
        let called = self.call_protocol_in_current_context(name, [error.as_ptr()]);
        let raised = called.err().map(|_| PyErr::fetch(py));
        let closed = self.close_descriptor(py, slf);
        if let Some(error) = raised {
            return Err(error.into());
        }
        closed
    }

    /// Closes the descriptor without notifying the protocol, as `__del__` does in the thread that has dropped the last
    /// reference. On free-threaded builds the loop may have an event for the transport in another thread: there it closes it.
    fn abandon(&self, py: Python<'_>, slf: &Ref) -> FfiResult<()> {
        if cfg!(Py_GIL_DISABLED) {
            if let Some(event_loop) = self.event_loop.get() {
                let cx = event_loop.cx(py);
                if !cx.core.is_owner() {
                    let abandon = slf.bind(py).getattr("_abandon")?.into();
                    return cx.call_soon(&abandon, [], None);
                }
            }
        }
        self.close_descriptor(py, slf)
    }

    /// Closes the descriptor and clears the references of the transport.
    fn close_descriptor(&self, py: Python<'_>, slf: &Ref) -> FfiResult<()> {
        if self.has(LOST) {
            return Ok(());
        }
        self.before_close();
        self.set(LOST | CLOSING, true);
        if let Some(event_loop) = self.event_loop.get() {
            // A peer that this loop serves, too, sees the end in the next iteration, as in asyncio.
            event_loop.core().poll_next_iteration();
        }
        // Keeps the object alive while its references are dropped.
        let _alive = slf.clone();
        self.deregister();
        self.update_hold(slf);
        let mut closed = Ok(());
        if let Some(socket) = self.socket.get() {
            closed = socket.bind(py).call_method0("close").map(drop);
        } else {
            // SAFETY: no Python socket owns the descriptor. `LOST` was not set before, so nobody has closed it, and it is set
            // now, so nobody will.
            unsafe { libc::close(self.fd.get()) };
        }
        self.discard_queue();
        drop(self.protocol.take());
        drop(self.event_loop.take());
        drop(self.context.take());
        self.after_close(py, slf)?;
        closed?;
        Ok(())
    }
}

/// Reports the exception that is set and ends the connection, by the transport's `_fatal_error()`.
#[cold]
pub fn fatal_error(py: Python<'_>, slf: &Ref, message: &str) -> FfiResult<()> {
    let error = exceptions::take(py)?;
    let name = &Stdlib::get().names._fatal_error;
    let name = name.bind(py).cast::<PyString>().map_err(PyErr::from)?;
    slf.bind(py)
        .call_method1(name, (error.into_value(py), message))?;
    Ok(())
}
