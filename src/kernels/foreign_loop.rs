//! Loops that are not ours: they watch a socket, and a byte on it says that there is mail.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyWeakrefReference};

use crate::event_loop::exceptions::os_error;
use crate::kernels::completion_queue::Inlet;
use crate::python::FfiResult;

/// The inlet of a loop that is not ours. The loop holds it as the reader of a socket.
#[pyclass(frozen, weakref, module = "hybridloop._core")]
pub struct NativeInlet {
    inlet: Arc<Inlet>,
    socket: UnixStream,
    event_loop: Py<PyWeakrefReference>,
}

#[pymethods]
impl NativeInlet {
    /// There is mail.
    fn _ready(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if !this.inlet.is_here() {
            // What is in the socket is for the parent of this process.
            return Ok(());
        }
        let mut bytes = [0; 64];
        loop {
            match (&this.socket).read(&mut bytes) {
                Ok(n) if n == bytes.len() => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(os_error(&error)),
            }
        }
        let report = |error: PyErr| -> FfiResult<()> { Ok(this.report(py, error)?) };
        this.inlet.deliver(py, &report)?;
        let event_loop = this.event_loop.bind(py).call0()?;
        if this.inlet.has_mail() && !event_loop.is_none() {
            // More than one iteration's worth.
            event_loop.call_method1("call_soon", (slf.getattr("_ready")?,))?;
        }
        Ok(())
    }
}

impl NativeInlet {
    fn report(&self, py: Python<'_>, error: PyErr) -> PyResult<()> {
        let about = PyDict::new(py);
        about.set_item("message", "Exception while a native job was completed")?;
        about.set_item("exception", error.value(py))?;
        let event_loop = self.event_loop.bind(py).call0()?;
        if event_loop.is_none() {
            error.write_unraisable(py, None);
            return Ok(());
        }
        event_loop
            .call_method1("call_exception_handler", (about,))
            .map(drop)
    }
}

impl Drop for NativeInlet {
    fn drop(&mut self) {
        self.inlet.close();
    }
}

/// The inlet of that loop, made on first use.
pub fn inlet(event_loop: &Bound<'_, PyAny>) -> PyResult<Arc<Inlet>> {
    static KNOWN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = event_loop.py();
    let known = KNOWN.get_or_try_init(py, || {
        let class = py.import("weakref")?.getattr("WeakKeyDictionary")?;
        class.call0().map(Bound::unbind)
    })?;
    let known = known.bind(py);
    let found = known.call_method1("get", (event_loop,))?;
    if !found.is_none() {
        if let Ok(found) = found.call0()?.cast::<NativeInlet>() {
            if found.get().inlet.is_here() {
                return Ok(found.get().inlet.clone());
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
    // A full socket has rung already; one without a reader need not.
    let ring = move || drop((&writer).write(&[0]));
    let this = Bound::new(
        py,
        NativeInlet {
            inlet: Inlet::new(Some(Box::new(ring))),
            socket: reader,
            event_loop: PyWeakrefReference::new(event_loop)?.unbind(),
        },
    )?;
    // The loop alone holds the inlet, until it is closed; the inlet does not hold the loop.
    event_loop.call_method1("add_reader", (fd, this.getattr("_ready")?))?;
    known.set_item(event_loop, PyWeakrefReference::new(&this)?)?;
    Ok(this.get().inlet.clone())
}
