//! Event loops of other implementations: they watch a socket, and a byte on it means that completions are pending.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};

use hybridloop_reactor::syscall::retry_on_intr;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::event_loop::exceptions::os_error;
use crate::kernels::completion_queue::CompletionQueue;
use crate::kernels::exceptions::cannot_pickle;
use crate::python::once::get_or_try_set;
use crate::python::refs::{referent, WeakRef};
use crate::python::{normalized, FfiResult};

/// Dispatches the completions of an event loop of another implementation. The loop holds it as the reader of a socket.
#[pyclass(frozen, weakref, module = "hybridloop._core")]
pub struct CompletionReader {
    queue: Arc<CompletionQueue>,
    socket: UnixStream,
    event_loop: WeakRef,
}

#[pymethods]
impl CompletionReader {
    /// Raises `TypeError`: the object belongs to this process.
    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        Err(cannot_pickle(slf.as_any()))
    }

    /// Dispatch the completions; the socket is readable.
    fn _ready(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if !this.queue.is_current_process() {
            // After a fork the bytes in the socket are for the parent process.
            return Ok(());
        }
        let mut bytes = [0; 64];
        loop {
            match retry_on_intr(|| (&this.socket).read(&mut bytes)) {
                Ok(n) if n == bytes.len() => {}
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(os_error(&error)),
            }
        }
        let report = |error: PyErr| -> FfiResult<()> { Ok(this.report(py, error)?) };
        this.queue.dispatch(py, &report)?;
        if this.queue.is_pending() {
            // There are more events than are dispatched per iteration.
            if let Some(event_loop) = this.event_loop.upgrade() {
                let ready = slf.getattr("_ready")?;
                event_loop.bind(py).call_method1("call_soon", (ready,))?;
            }
        }
        Ok(())
    }
}

impl CompletionReader {
    fn report(&self, py: Python<'_>, error: PyErr) -> PyResult<()> {
        let error = normalized(error);
        let context = PyDict::new(py);
        context.set_item("message", "Exception while a native job was completed")?;
        context.set_item("exception", error.value(py))?;
        let Some(event_loop) = self.event_loop.upgrade() else {
            error.write_unraisable(py, None);
            return Ok(());
        };
        event_loop
            .bind(py)
            .call_method1("call_exception_handler", (context,))
            .map(drop)
    }
}

impl Drop for CompletionReader {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// The queue of an event loop, created on first use.
pub fn completion_queue(event_loop: &Bound<'_, PyAny>) -> PyResult<Arc<CompletionQueue>> {
    static READERS: OnceLock<Py<PyAny>> = OnceLock::new();
    let py = event_loop.py();
    let readers = get_or_try_set(&READERS, || {
        let class = py.import("weakref")?.getattr("WeakKeyDictionary")?;
        class.call0().map(Bound::unbind)
    })?;
    let readers = readers.bind(py);
    let found = readers.call_method1("get", (event_loop,))?;
    if !found.is_none() {
        if let Some(reader) = referent(&found.into())? {
            let reader = reader.bind(py).cast::<CompletionReader>()?.get();
            if reader.queue.is_current_process() {
                return Ok(reader.queue.clone());
            }
        }
    }
    let (reader, writer) = UnixStream::pair().map_err(|error| os_error(&error))?;
    for socket in [&reader, &writer] {
        socket
            .set_nonblocking(true)
            .map_err(|error| os_error(&error))?;
    }
    let fd = reader.as_raw_fd();
    // SAFETY: a `Bound` proves attachment and is live.
    let weak_loop = unsafe { WeakRef::new(event_loop.as_ptr())? };
    // The write fails if the socket is full: then the loop has been woken already. It also fails once the reader is gone.
    let wake = move || drop((&writer).write(&[0]));
    let reader = Bound::new(
        py,
        CompletionReader {
            queue: CompletionQueue::new(Some(Box::new(wake))),
            socket: reader,
            event_loop: weak_loop,
        },
    )?;
    // Only the loop holds the reader, until the loop is closed; the reader does not hold the loop.
    event_loop.call_method1("add_reader", (fd, reader.getattr("_ready")?))?;
    // SAFETY: a `Bound` proves attachment and is live.
    let weak_reader = unsafe { WeakRef::new(reader.as_ptr())? };
    readers.set_item(event_loop, weak_reader.object().bind(py))?;
    Ok(reader.get().queue.clone())
}
