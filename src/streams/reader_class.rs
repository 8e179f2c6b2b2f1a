//! The Python class `StreamReaderCore`: methods and attributes.

use pyo3::exceptions::PyAssertionError;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::types::{PyBytes, PyType};
use pyo3::PyTraverseError;

use crate::event_loop::install;
use crate::python::args::{bind, Parameter};
use crate::python::bytes::{to_bytes, with_bytes};
use crate::python::{Args, FfiResult, Ref};
use crate::streams::buffer::ReadBuffer;
use crate::streams::read_ops::{self, ReadOperation, ReadRequest};
use crate::streams::reader::StreamReaderCore;
use crate::streams::waiter::{self, or_none, unless_none, EventLoop};
use crate::{fastcall, noargs};

/// The value of a limit in bytes.
fn limit_in_bytes(limit: &Bound<'_, PyAny>) -> PyResult<usize> {
    match limit.extract::<usize>() {
        Ok(limit) => Ok(limit),
        // A float, infinity, or more than any buffer holds. What is not a number has raised `TypeError` before.
        Err(_) if limit.ge(1)? => Ok(limit
            .call_method0("__trunc__")
            .and_then(|limit| limit.extract())
            .unwrap_or(usize::MAX)),
        Err(error) => Err(error),
    }
}

#[pymethods]
impl StreamReaderCore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn __new__(_args: &Bound<'_, PyAny>, _kwargs: Option<&Bound<'_, PyAny>>) -> Self {
        Self::default()
    }

    /// The part of `__init__` after the check of the arguments.
    fn _init(
        slf: &Bound<'_, Self>,
        limit: &Bound<'_, PyAny>,
        event_loop: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let reader = slf.get();
        reader.limit.set(limit_in_bytes(limit)?);
        drop(reader.limit_object.replace(Some(limit.into())));
        let event_loop = EventLoop::new(event_loop.into())?;
        drop(reader.event_loop.replace(Some(event_loop)));
        let core = slf.py().get_type::<Self>();
        let feed_data = slf.get_type().getattr("feed_data")?;
        reader
            .has_native_feed
            .set(feed_data.is(core.getattr("feed_data")?));
        Ok(())
    }

    #[getter]
    fn _limit<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        or_none(py, &self.limit_object)
    }

    #[setter(_limit)]
    fn set_limit(&self, limit: &Bound<'_, PyAny>) -> PyResult<()> {
        self.limit.set(limit_in_bytes(limit)?);
        drop(self.limit_object.replace(Some(limit.into())));
        Ok(())
    }

    #[getter]
    fn _loop<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        let event_loop = self.event_loop.get();
        let object = event_loop.map_or_else(Ref::none, |event_loop| event_loop.object().clone());
        object.bind(py).clone()
    }

    /// A copy of what is buffered.
    #[getter]
    fn _buffered<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = self.buffer.with(|buffer| to_bytes(buffer.as_slice()))?;
        Ok(bytes.bind(py).clone().cast_into::<PyBytes>()?)
    }

    /// Drops what is buffered.
    fn _clear_buffer(&self) {
        self.buffer.with(ReadBuffer::clear);
    }

    #[getter]
    fn _eof(&self) -> bool {
        self.eof.get()
    }

    #[setter(_eof)]
    fn set_eof(&self, eof: bool) {
        self.eof.set(eof);
    }

    #[getter]
    fn _paused(&self) -> bool {
        self.paused.get()
    }

    #[setter(_paused)]
    fn set_paused(&self, paused: bool) {
        self.paused.set(paused);
    }

    #[getter]
    fn _waiter<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        or_none(py, &self.waiter)
    }

    #[setter(_waiter)]
    fn set_waiter(&self, waiter: &Bound<'_, PyAny>) {
        drop(self.waiter.replace(unless_none(waiter)));
    }

    #[getter]
    fn _exception<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        or_none(py, &self.exception)
    }

    #[setter(_exception)]
    fn replace_exception(&self, exception: &Bound<'_, PyAny>) {
        drop(self.exception.replace(unless_none(exception)));
    }

    #[getter]
    fn _transport<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        or_none(py, &self.transport)
    }

    #[setter(_transport)]
    fn replace_transport(&self, transport: &Bound<'_, PyAny>) {
        drop(self.transport.replace(unless_none(transport)));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.event_loop.visit(&visit)?;
        for slot in self.slots() {
            slot.visit(&visit)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        drop(self.event_loop.take());
        for slot in self.slots() {
            drop(slot.take());
        }
    }
}

/// The receiver of a method: the token of the thread, and the state.
///
/// # Safety
/// CPython is calling a method of `StreamReaderCore` on `slf`: it has checked the class, keeps the object alive during the
/// call, and the thread is attached.
#[inline]
unsafe fn receiver<'a>(slf: *mut PyObject) -> (Python<'a>, &'a StreamReaderCore) {
    // SAFETY: the caller guarantees an attached thread and a live `StreamReaderCore`.
    unsafe { (Python::assume_attached(), StreamReaderCore::of(slf)) }
}

unsafe fn feed_data(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    const DATA: Parameter = Parameter::required(c"data");
    // SAFETY: `args` are the arguments of this call.
    let [data] = unsafe { bind(c"feed_data", [DATA], &args)? };
    // SAFETY: `slf` is the receiver of a method.
    let (py, reader) = unsafe { receiver(slf) };
    if reader.eof.get() {
        return Err(PyAssertionError::new_err("feed_data after feed_eof").into());
    }
    with_bytes(data, |data| reader.feed(py, data))?;
    Ok(Ref::none())
}

unsafe fn feed_eof(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (_, reader) = unsafe { receiver(slf) };
    reader.eof.set(true);
    reader.wake()?;
    Ok(Ref::none())
}

unsafe fn at_eof(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (_, reader) = unsafe { receiver(slf) };
    let is_empty = reader.buffer.with(|buffer| buffer.is_empty());
    Ok(Ref::bool(reader.eof.get() && is_empty))
}

unsafe fn exception(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (_, reader) = unsafe { receiver(slf) };
    Ok(reader.exception.get().unwrap_or_else(Ref::none))
}

unsafe fn set_exception(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    const ERROR: Parameter = Parameter::required(c"exc");
    // SAFETY: `args` are the arguments of this call.
    let [error] = unsafe { bind(c"set_exception", [ERROR], &args)? };
    // SAFETY: `slf` is the receiver of a method, and `error` is live during the call.
    let ((py, reader), error) = unsafe { (receiver(slf), Ref::from_ptr_ref(&error)) };
    drop(reader.exception.replace(unless_none(error.bind(py))));
    if let Some(waiter) = reader.waiter.take() {
        waiter::fail(&waiter, error)?;
    }
    Ok(Ref::none())
}

unsafe fn set_transport(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    const TRANSPORT: Parameter = Parameter::required(c"transport");
    // SAFETY: `args` are the arguments of this call.
    let [transport] = unsafe { bind(c"set_transport", [TRANSPORT], &args)? };
    // SAFETY: `slf` is the receiver of a method, and `transport` is live during the call.
    let ((py, reader), transport) = unsafe { (receiver(slf), Ref::from_ptr_ref(&transport)) };
    if reader.transport.is_some() {
        return Err(PyAssertionError::new_err("Transport already set").into());
    }
    drop(reader.transport.replace(unless_none(transport.bind(py))));
    Ok(Ref::none())
}

unsafe fn wakeup_waiter(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (_, reader) = unsafe { receiver(slf) };
    reader.wake()?;
    Ok(Ref::none())
}

unsafe fn maybe_resume_transport(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    let (py, reader) = unsafe { receiver(slf) };
    reader.resume_if_low(py)?;
    Ok(Ref::none())
}

unsafe fn read(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    const COUNT: Parameter = Parameter::optional(c"n");
    // SAFETY: `args` are the arguments of this call.
    let [count] = unsafe { bind(c"read", [COUNT], &args)? };
    // SAFETY: `count` is null, or an argument that is live during the call.
    let count = unsafe { (!count.is_null()).then(|| Ref::borrowed(count)) };
    // SAFETY: `slf` is the receiver of a method.
    unsafe { ReadOperation::start(slf, ReadRequest::read(count)) }
}

unsafe fn readline(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    unsafe { ReadOperation::start(slf, ReadRequest::Line) }
}

unsafe fn readuntil(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    const SEPARATOR: Parameter = Parameter::optional(c"separator");
    // SAFETY: `args` are the arguments of this call.
    let [separator] = unsafe { bind(c"readuntil", [SEPARATOR], &args)? };
    // SAFETY: `separator` is null, or an argument that is live during the call.
    let separator = unsafe { (!separator.is_null()).then(|| Ref::borrowed(separator)) };
    // SAFETY: `slf` is the receiver of a method.
    unsafe { ReadOperation::start(slf, ReadRequest::Until(separator)) }
}

unsafe fn readexactly(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    const COUNT: Parameter = Parameter::required(c"n");
    // SAFETY: `args` are the arguments of this call.
    let [count] = unsafe { bind(c"readexactly", [COUNT], &args)? };
    // SAFETY: `count` is live during the call.
    let count = unsafe { Ref::borrowed(count) };
    // SAFETY: `slf` is the receiver of a method.
    unsafe { ReadOperation::start(slf, ReadRequest::exactly(count)) }
}

unsafe fn anext(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is the receiver of a method.
    unsafe { ReadOperation::start(slf, ReadRequest::NextLine) }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    read_ops::register(module.py())?;
    module.add_class::<StreamReaderCore>()?;
    let class: Bound<'_, PyType> = module.py().get_type::<StreamReaderCore>();
    install(
        &class,
        [
            (fastcall!(c"read", read), "(self, n=-1)", "Read up to n bytes as soon as there are any; without n, or with -1, everything up to the end."),
            (noargs!(c"readline", readline), "(self)", "Read up to and with the next newline; less at the end of the stream."),
            (fastcall!(c"readuntil", readuntil), r"(self, separator=b'\n')", "Read up to and with a separator, or the first of a tuple of separators."),
            (fastcall!(c"readexactly", readexactly), "(self, n)", "Read n bytes; IncompleteReadError if the stream ends before."),
            (noargs!(c"__anext__", anext), "(self)", "The next line."),
            (fastcall!(c"feed_data", feed_data), "(self, data)", "Add received bytes."),
            (noargs!(c"feed_eof", feed_eof), "(self)", "The end of the stream."),
            (noargs!(c"at_eof", at_eof), "(self)", "Whether the stream has ended and everything is read."),
            (noargs!(c"exception", exception), "(self)", "The exception that ended the stream, or None."),
            (fastcall!(c"set_exception", set_exception), "(self, exc)", "End the stream with an exception."),
            (fastcall!(c"set_transport", set_transport), "(self, transport)", "The transport to pause while too much waits."),
            (noargs!(c"_wakeup_waiter", wakeup_waiter), "(self)", "Wake who waits for data."),
            (noargs!(c"_maybe_resume_transport", maybe_resume_transport), "(self)", "Let the transport go on once little enough waits."),
        ],
    )
}
