//! `StreamReaderCore`: the state of a reader, and what feeds it.

use pyo3::exceptions::{PyAssertionError, PyMemoryError, PyNotImplementedError, PyRuntimeError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::types::{PyBytes, PyType};
use pyo3::PyTraverseError;

use crate::event_loop::install;
use crate::python::bytes::{to_bytes, with_bytes};
use crate::python::{nested_drop, Args, Cell, FfiResult, LoopCell, Ref, SlotCell};
use crate::streams::buffer::Buffer;
use crate::streams::read_ops::{Operation, Request};
use crate::streams::waiter::{self, EventLoop};
use crate::{fastcall, noargs};

/// Native base of `hybridloop.StreamReader`, in front of `asyncio.StreamReader`.
#[pyclass(frozen, subclass, module = "hybridloop._core")]
#[derive(Default)]
pub struct StreamReaderCore {
    event_loop: SlotCell<EventLoop>,
    /// As it was given; `limit` is what it comes to.
    limit_object: SlotCell<Ref>,
    pub limit: Cell<usize>,
    pub buffer: LoopCell<Buffer>,
    pub at_end: Cell<bool>,
    pub waiter: SlotCell<Ref>,
    exception: SlotCell<Ref>,
    transport: SlotCell<Ref>,
    paused: Cell<bool>,
    /// Nobody has overridden `feed_data()`.
    is_plain: Cell<bool>,
}

// Python's allocator aligns objects to 16 bytes and no more.
const _: () = assert!(align_of::<StreamReaderCore>() <= 16);

// SAFETY: as for `LoopCore`: cells are touched by the thread that holds the loop, under the interpreter lock.
unsafe impl Sync for StreamReaderCore {}
// SAFETY: as for `Sync`.
unsafe impl Send for StreamReaderCore {}

impl Drop for StreamReaderCore {
    fn drop(&mut self) {
        let slots = [
            &self.limit_object,
            &self.waiter,
            &self.exception,
            &self.transport,
        ];
        nested_drop::drop_content((self.event_loop.take(), slots.map(SlotCell::take)));
    }
}

#[cold]
fn out_of_memory<E>(_: E) -> crate::python::ErrSet {
    PyMemoryError::new_err(()).into()
}

impl StreamReaderCore {
    /// The state of a reader.
    ///
    /// # Safety
    /// `object` is a live instance of the class or a subclass.
    #[inline]
    pub unsafe fn of<'a>(object: *mut PyObject) -> &'a Self {
        // SAFETY: the caller's promise; `get` of a frozen class is a fixed offset.
        unsafe {
            Borrowed::from_ptr(Python::assume_attached(), object)
                .cast_unchecked::<Self>()
                .get()
        }
    }

    /// Whether `feed` does what `feed_data()` does.
    pub fn is_plain(&self) -> bool {
        self.is_plain.get()
    }

    /// `feed_data(data)`
    #[inline]
    pub fn feed(&self, data: &[u8]) -> FfiResult<()> {
        if self.at_end.get() {
            return Err(PyAssertionError::new_err("feed_data after feed_eof").into());
        }
        if data.is_empty() {
            return Ok(());
        }
        let size = self
            .buffer
            .with(|buffer| buffer.extend(data).map(|()| buffer.len()))
            .map_err(out_of_memory)?;
        self.wake()?;
        if size > self.limit.get().saturating_mul(2) && !self.paused.get() {
            self.pause()?;
        }
        Ok(())
    }

    /// Puts back what was taken and not handed over.
    pub fn put_back(&self, data: &[u8]) -> FfiResult<()> {
        self.buffer
            .with(|buffer| buffer.push_front(data))
            .map_err(out_of_memory)
    }

    fn wake(&self) -> FfiResult<()> {
        match self.waiter.take() {
            Some(waiter) => waiter::wake(&waiter),
            None => Ok(()),
        }
    }

    #[cold]
    fn pause(&self) -> FfiResult<()> {
        let Some(transport) = self.transport.get() else {
            return Ok(());
        };
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        match transport.bind(py).call_method0("pause_reading") {
            Ok(_) => self.paused.set(true),
            // It can't: everything has to be kept, and there is no point in trying again.
            Err(error) if error.is_instance_of::<PyNotImplementedError>(py) => {
                drop(self.transport.take());
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    #[cold]
    fn resume(&self) -> FfiResult<()> {
        self.paused.set(false);
        if let Some(transport) = self.transport.get() {
            // SAFETY: attached.
            let py = unsafe { Python::assume_attached() };
            transport.bind(py).call_method0("resume_reading")?;
        }
        Ok(())
    }

    /// A `bytes` object for the first `n` bytes, which are taken off the buffer.
    #[inline]
    pub fn take(&self, n: usize) -> FfiResult<Ref> {
        self.buffer.with(|buffer| {
            let n = n.min(buffer.len());
            let data = to_bytes(&buffer.as_slice()[..n])?;
            buffer.advance(n);
            Ok(data)
        })
    }

    /// Lets the transport go on once no more than the limit is left.
    #[inline]
    pub fn resume_if_low(&self) -> FfiResult<()> {
        if self.paused.get() && self.buffer.with(|buffer| buffer.len()) <= self.limit.get() {
            self.resume()?;
        }
        Ok(())
    }

    /// The future that the next data, the end or an error resolves; `function` is who waits for it.
    pub fn wait(&self, function: &str) -> FfiResult<Ref> {
        if self.waiter.is_some() {
            return Err(PyRuntimeError::new_err(format!(
                "{function}() called while another coroutine is already waiting for incoming data"
            ))
            .into());
        }
        if self.at_end.get() {
            return Err(PyAssertionError::new_err("_wait_for_data after EOF").into());
        }
        if self.paused.get() {
            // Nobody else would.
            self.resume()?;
        }
        let Some(event_loop) = self.event_loop.get() else {
            return Err(PyRuntimeError::new_err("StreamReader.__init__() was not called").into());
        };
        let future = event_loop.create_future()?;
        drop(self.waiter.replace(Some(future.clone())));
        Ok(future)
    }

    /// Takes back a future of [`StreamReaderCore::wait`] that is still waited for.
    pub fn forget(&self, future: &Ref) {
        if self.waiter.as_ptr() == Some(future.as_ptr()) {
            drop(self.waiter.take());
        }
    }

    /// Raises what `set_exception()` was given.
    #[inline]
    pub fn check(&self) -> FfiResult<()> {
        match self.exception.get() {
            None => Ok(()),
            Some(error) => Err(raise(&error)),
        }
    }
}

/// `raise error`
#[cold]
pub fn raise(error: &Ref) -> crate::python::ErrSet {
    // SAFETY: attached.
    PyErr::from_value(error.bind(unsafe { Python::assume_attached() }).clone()).into()
}

/// What a number of bytes or a limit comes to.
fn to_limit(limit: &Bound<'_, PyAny>) -> PyResult<usize> {
    match limit.extract::<usize>() {
        Ok(limit) => Ok(limit),
        // Infinite, or so large that no buffer gets there; what is no number has raised before.
        Err(_) if limit.ge(1)? => Ok(limit
            .call_method0("__trunc__")
            .and_then(|limit| limit.extract())
            .unwrap_or(usize::MAX)),
        Err(error) => Err(error),
    }
}

fn or_none(py: Python<'_>, slot: &SlotCell<Ref>) -> Py<PyAny> {
    slot.get()
        .map_or_else(|| py.None(), |object| object.bind(py).clone().unbind())
}

fn unless_none(object: &Bound<'_, PyAny>) -> Option<Ref> {
    (!object.is_none()).then(|| object.into())
}

#[pymethods]
impl StreamReaderCore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyAny>, _kwargs: Option<&Bound<'_, PyAny>>) -> Self {
        Self::default()
    }

    /// What `__init__` does once the arguments are checked.
    fn _set_up(
        slf: &Bound<'_, Self>,
        limit: &Bound<'_, PyAny>,
        event_loop: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let it = slf.get();
        it.limit.set(to_limit(limit)?);
        drop(it.limit_object.replace(Some(limit.into())));
        let event_loop = EventLoop::new(event_loop.into())?;
        drop(it.event_loop.replace(Some(event_loop)));
        let core = slf.py().get_type::<Self>();
        let feed_data = slf.get_type().getattr("feed_data")?;
        it.is_plain.set(feed_data.is(core.getattr("feed_data")?));
        Ok(())
    }

    #[getter]
    fn _limit(&self, py: Python<'_>) -> Py<PyAny> {
        or_none(py, &self.limit_object)
    }

    #[setter(_limit)]
    fn set_limit(&self, limit: &Bound<'_, PyAny>) -> PyResult<()> {
        self.limit.set(to_limit(limit)?);
        drop(self.limit_object.replace(Some(limit.into())));
        Ok(())
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Py<PyAny> {
        let event_loop = self.event_loop.get();
        event_loop.map_or_else(
            || py.None(),
            |event_loop| event_loop.object().bind(py).clone().unbind(),
        )
    }

    /// A copy of what waits to be read.
    #[getter]
    fn _received<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = self.buffer.with(|buffer| to_bytes(buffer.as_slice()))?;
        Ok(bytes.bind(py).clone().cast_into::<PyBytes>()?)
    }

    /// Drops what waits to be read.
    fn _discard_received(&self) {
        self.buffer.with(Buffer::clear);
    }

    #[getter]
    fn _eof(&self) -> bool {
        self.at_end.get()
    }

    #[setter(_eof)]
    fn set_at_end(&self, at_end: bool) {
        self.at_end.set(at_end);
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
    fn _waiter(&self, py: Python<'_>) -> Py<PyAny> {
        or_none(py, &self.waiter)
    }

    #[setter(_waiter)]
    fn set_waiter(&self, waiter: &Bound<'_, PyAny>) {
        drop(self.waiter.replace(unless_none(waiter)));
    }

    #[getter]
    fn _exception(&self, py: Python<'_>) -> Py<PyAny> {
        or_none(py, &self.exception)
    }

    #[setter(_exception)]
    fn replace_exception(&self, exception: &Bound<'_, PyAny>) {
        drop(self.exception.replace(unless_none(exception)));
    }

    #[getter]
    fn _transport(&self, py: Python<'_>) -> Py<PyAny> {
        or_none(py, &self.transport)
    }

    #[setter(_transport)]
    fn replace_transport(&self, transport: &Bound<'_, PyAny>) {
        drop(self.transport.replace(unless_none(transport)));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.event_loop.visit(&visit)?;
        for slot in [
            &self.limit_object,
            &self.waiter,
            &self.exception,
            &self.transport,
        ] {
            slot.visit(&visit)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        drop(self.event_loop.take());
        drop(self.limit_object.take());
        drop(self.waiter.take());
        drop(self.exception.take());
        drop(self.transport.take());
    }
}

unsafe fn feed_data(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    let it = unsafe { StreamReaderCore::of(slf) };
    let data = crate::streams::args::required(&args, "feed_data", "data")?;
    if it.at_end.get() {
        return Err(PyAssertionError::new_err("feed_data after feed_eof").into());
    }
    with_bytes(data, |data| it.feed(data))?;
    Ok(Ref::none())
}

unsafe fn feed_eof(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: the method descriptor has checked `self`.
    let it = unsafe { StreamReaderCore::of(slf) };
    it.at_end.set(true);
    it.wake()?;
    Ok(Ref::none())
}

unsafe fn at_eof(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: the method descriptor has checked `self`.
    let it = unsafe { StreamReaderCore::of(slf) };
    Ok(Ref::bool(
        it.at_end.get() && it.buffer.with(|buffer| buffer.is_empty()),
    ))
}

unsafe fn exception(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: the method descriptor has checked `self`.
    let it = unsafe { StreamReaderCore::of(slf) };
    Ok(it.exception.get().unwrap_or_else(Ref::none))
}

unsafe fn set_exception(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let error = crate::streams::args::required(&args, "set_exception", "exc")?;
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe {
        let it = StreamReaderCore::of(slf);
        let kept = (error != ffi::Py_None()).then(|| Ref::borrowed(error));
        drop(it.exception.replace(kept));
        if let Some(waiter) = it.waiter.take() {
            waiter::fail(&waiter, error)?;
        }
    }
    Ok(Ref::none())
}

unsafe fn set_transport(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let transport = crate::streams::args::required(&args, "set_transport", "transport")?;
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe {
        let it = StreamReaderCore::of(slf);
        if it.transport.is_some() {
            return Err(PyAssertionError::new_err("Transport already set").into());
        }
        let transport = (transport != ffi::Py_None()).then(|| Ref::borrowed(transport));
        drop(it.transport.replace(transport));
    }
    Ok(Ref::none())
}

unsafe fn wakeup_waiter(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: the method descriptor has checked `self`.
    unsafe { StreamReaderCore::of(slf) }.wake()?;
    Ok(Ref::none())
}

unsafe fn maybe_resume_transport(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: the method descriptor has checked `self`.
    unsafe { StreamReaderCore::of(slf) }.resume_if_low()?;
    Ok(Ref::none())
}

unsafe fn read(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let count = crate::streams::args::optional(&args, "read", "n")?;
    // SAFETY: the method descriptor has checked `self`.
    unsafe { Operation::start(slf, Request::read(count)) }
}

unsafe fn readline(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: the method descriptor has checked `self`.
    unsafe { Operation::start(slf, Request::Line) }
}

unsafe fn readuntil(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let separator = crate::streams::args::optional(&args, "readuntil", "separator")?;
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe { Operation::start(slf, Request::until(separator)) }
}

unsafe fn readexactly(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let count = crate::streams::args::required(&args, "readexactly", "n")?;
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe { Operation::start(slf, Request::exactly(count)) }
}

unsafe fn anext(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: the method descriptor has checked `self`.
    unsafe { Operation::start(slf, Request::Next) }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    crate::streams::read_ops::register(module.py())?;
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
