//! The coroutines of `read()`, `readline()`, `readuntil()`, `readexactly()` and `__anext__()`.

use std::cell::Cell;
use std::collections::TryReserveError;
use std::ffi::{c_int, CStr};

use pyo3::exceptions::{PyStopAsyncIteration, PyTypeError, PyValueError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::allocator::out_of_memory;
use crate::python::bytes::{to_bytes, with_bytes};
use crate::python::coroutine::{self, Class, Operation, Step, Visit};
use crate::python::stdlib::Stdlib;
use crate::python::{ErrSet, FfiResult, LoopCell, Ref, SlotCell};
use crate::streams::reader::StreamReaderCore;
use crate::streams::separators::{Match, Separators};

/// What a call reads. Arguments are checked when the coroutine starts, like those of Python coroutines.
pub enum ReadRequest {
    /// At most so many bytes, as soon as there are any.
    UpTo(usize),
    /// Everything up to EOF.
    All,
    Exactly(usize),
    Line,
    /// The next line, for `async for`.
    NextLine,
    /// Up to a separator, which is a newline if none is given.
    Until(Option<Ref>),
    /// A count that is negative or not an exact `int`, to be checked when the coroutine starts.
    Unchecked {
        count: Ref,
        exactly: bool,
    },
}

impl ReadRequest {
    #[inline]
    pub fn read(count: Option<Ref>) -> Self {
        match count {
            None => Self::All,
            Some(count) => match exact_size(&count) {
                Some(count) => Self::UpTo(count),
                None => Self::Unchecked {
                    count,
                    exactly: false,
                },
            },
        }
    }

    #[inline]
    pub fn exactly(count: Ref) -> Self {
        match exact_size(&count) {
            Some(count) => Self::Exactly(count),
            None => Self::Unchecked {
                count,
                exactly: true,
            },
        }
    }

    fn name(&self) -> &'static CStr {
        match self {
            Self::UpTo(_) | Self::All | Self::Unchecked { exactly: false, .. } => {
                c"StreamReader.read"
            }
            Self::Exactly(_) | Self::Unchecked { exactly: true, .. } => c"StreamReader.readexactly",
            Self::Line => c"StreamReader.readline",
            Self::NextLine => c"StreamReader.__anext__",
            Self::Until(_) => c"StreamReader.readuntil",
        }
    }
}

/// The value of an exact `int`, if that is a size.
#[inline]
fn exact_size(number: &Ref) -> Option<usize> {
    // SAFETY: the holder of a `Ref` is attached, and its object is live.
    unsafe {
        if ffi::PyLong_CheckExact(number.as_ptr()) == 0 {
            return None;
        }
        let value = ffi::PyLong_AsSsize_t(number.as_ptr());
        if value == -1 {
            ffi::PyErr_Clear();
        }
        usize::try_from(value).ok()
    }
}

/// One call of `read()` or of a related method.
pub struct ReadOperation {
    /// A `StreamReaderCore`.
    reader: Ref,
    request: ReadRequest,
    /// The reader's exception was checked.
    started: Cell<bool>,
    /// The future that it waits for.
    waiter: SlotCell<Ref>,
    /// How many bytes at the front of the buffer hold no separator.
    searched: Cell<usize>,
    separators: LoopCell<Option<Separators>>,
    /// What `read(-1)` has read so far.
    collected: LoopCell<Vec<u8>>,
}

static CLASS: Class = Class::new();

/// Makes the class of the coroutines.
pub fn register(py: Python<'_>) -> PyResult<()> {
    CLASS.init::<ReadOperation>(py, c"hybridloop._core.StreamReaderCoroutine")
}

impl ReadOperation {
    /// The coroutine of one call.
    ///
    /// # Safety
    /// The thread is attached, and `reader` is a live `StreamReaderCore`.
    #[inline]
    pub unsafe fn start(reader: *mut PyObject, request: ReadRequest) -> FfiResult<Ref> {
        let name = request.name();
        let operation = Self {
            // SAFETY: the caller guarantees that `reader` is live.
            reader: unsafe { Ref::borrowed(reader) },
            request,
            started: Cell::new(false),
            waiter: SlotCell::default(),
            searched: Cell::new(0),
            separators: LoopCell::default(),
            collected: LoopCell::default(),
        };
        coroutine::new(operation, name)
    }

    #[inline]
    fn reader(&self) -> &StreamReaderCore {
        // SAFETY: `start` got a `StreamReaderCore`, which the reference keeps alive. Coroutines run in attached threads.
        unsafe { StreamReaderCore::of(self.reader.as_ptr()) }
    }

    fn wait(&self, py: Python<'_>, function: &str) -> FfiResult<Step> {
        let future = self.reader().wait(py, function)?;
        drop(self.waiter.replace(Some(future.clone())));
        Ok(Step::Wait(future))
    }

    /// Returns the first `n` bytes, or as many as there are, and resumes the transport if few are left.
    #[inline]
    fn take(&self, py: Python<'_>, n: usize) -> FfiResult<Ref> {
        let reader = self.reader();
        let data = reader.take(n)?;
        reader.resume_if_low(py)?;
        Ok(data)
    }

    /// Returns everything that is buffered, without resuming the transport.
    fn take_all(&self) -> FfiResult<Ref> {
        self.reader().buffer.with(|buffer| {
            let data = to_bytes(buffer.as_slice())?;
            buffer.clear();
            Ok(data)
        })
    }

    fn len(&self) -> usize {
        self.reader().buffer.with(|buffer| buffer.len())
    }

    /// Checks the reader's exception when the coroutine starts.
    #[inline]
    fn start_once(&self, py: Python<'_>) -> FfiResult<()> {
        if self.started.replace(true) {
            return Ok(());
        }
        self.reader().check_exception(py)
    }

    fn up_to(&self, py: Python<'_>, count: usize) -> FfiResult<Step> {
        self.start_once(py)?;
        if count > 0 && !self.reader().eof.get() && self.len() == 0 {
            return self.wait(py, "read");
        }
        self.take(py, count).map(Step::Done)
    }

    fn all(&self, py: Python<'_>) -> FfiResult<Step> {
        self.start_once(py)?;
        let reader = self.reader();
        loop {
            let limit = reader.limit.get();
            let taken = reader.buffer.with(|buffer| {
                let n = limit.min(buffer.len());
                self.collected
                    .with(|collected| -> Result<(), TryReserveError> {
                        collected.try_reserve(n)?;
                        collected.extend_from_slice(&buffer.as_slice()[..n]);
                        Ok(())
                    })?;
                buffer.advance(n);
                Ok(n)
            });
            let taken = taken.map_err(out_of_memory::<TryReserveError>)?;
            reader.resume_if_low(py)?;
            if taken == 0 {
                if reader.eof.get() {
                    let collected = self.collected.take();
                    return to_bytes(&collected).map(Step::Done);
                }
                // asyncio reads block by block, and checks the exception for each.
                reader.check_exception(py)?;
                return self.wait(py, "read");
            }
        }
    }

    fn exactly(&self, py: Python<'_>, count: usize) -> FfiResult<Step> {
        self.start_once(py)?;
        if self.len() >= count {
            return self.take(py, count).map(Step::Done);
        }
        if self.reader().eof.get() {
            let partial = self.take_all()?;
            return Err(incomplete(py, &partial, Some(count)));
        }
        self.wait(py, "readexactly")
    }

    /// [`ReadRequest::Unchecked`]
    #[cold]
    fn unchecked(&self, py: Python<'_>, count: &Ref, exactly: bool) -> FfiResult<Step> {
        let count = count.bind(py);
        if exactly && count.lt(0)? {
            return Err(PyValueError::new_err("readexactly size can not be less than zero").into());
        }
        if !exactly && count.lt(0)? {
            return self.all(py);
        }
        // SAFETY: `count` is live. Null stands for no exception: a number that is too large is clipped.
        let count = unsafe { ffi::PyNumber_AsSsize_t(count.as_ptr(), std::ptr::null_mut()) };
        if count == -1 {
            return Err(ErrSet);
        }
        let count = count.unsigned_abs();
        if exactly {
            self.exactly(py, count)
        } else {
            self.up_to(py, count)
        }
    }

    fn line(&self, py: Python<'_>, is_iteration: bool) -> FfiResult<Step> {
        self.start_once(py)?;
        match self.search(&Separators::Newline) {
            SearchResult::Found(end) => self.take(py, end).map(Step::Done),
            SearchResult::More => self.wait(py, "readuntil"),
            SearchResult::Eof => {
                let rest = self.take_all()?;
                // SAFETY: `rest` is a `bytes` object, which has a size.
                if is_iteration && unsafe { ffi::Py_SIZE(rest.as_ptr()) } == 0 {
                    return Err(PyStopAsyncIteration::new_err(()).into());
                }
                Ok(Step::Done(rest))
            }
            SearchResult::TooLong { message, consumed } => {
                self.line_too_long(py, message, consumed)
            }
        }
    }

    /// Drops the line, or the part of it that was received, and raises.
    #[cold]
    fn line_too_long(
        &self,
        py: Python<'_>,
        message: &'static str,
        consumed: usize,
    ) -> FfiResult<Step> {
        let reader = self.reader();
        reader.buffer.with(|buffer| {
            if buffer.as_slice().get(consumed) == Some(&b'\n') {
                buffer.advance(consumed + 1);
            } else {
                buffer.clear();
            }
        });
        reader.resume_if_low(py)?;
        let error = PyValueError::new_err(message);
        let cause = overrun(py, message, consumed)?;
        // SAFETY: both are live exceptions; the call takes over the reference to the second.
        unsafe {
            ffi::PyException_SetContext(error.value(py).as_ptr(), cause.into_value(py).into_ptr());
        }
        Err(error.into())
    }

    fn until(&self, py: Python<'_>, separator: Option<&Ref>) -> FfiResult<Step> {
        if self.separators.with(|separators| separators.is_none()) {
            let separators = match separator {
                Some(separator) => separators_of(separator.bind(py))?,
                None => Separators::Newline,
            };
            drop(self.separators.replace(Some(separators)));
        }
        self.start_once(py)?;
        let search = self.separators.with(|separators| {
            separators
                .as_ref()
                .map(|separators| self.search(separators))
        });
        match search.unwrap_or(SearchResult::More) {
            SearchResult::Found(end) => self.take(py, end).map(Step::Done),
            SearchResult::More => self.wait(py, "readuntil"),
            SearchResult::Eof => {
                let partial = self.take_all()?;
                Err(incomplete(py, &partial, None))
            }
            SearchResult::TooLong { message, consumed } => {
                Err(overrun(py, message, consumed)?.into())
            }
        }
    }

    /// Searches the part of the buffer that was not searched before.
    #[inline]
    fn search(&self, separators: &Separators) -> SearchResult {
        let reader = self.reader();
        let limit = reader.limit.get();
        let searched = self.searched.get();
        reader.buffer.with(|buffer| {
            let data = buffer.as_slice();
            if data.len() >= searched + separators.shortest() {
                if let Some(Match { start, end }) = separators.find(data, searched) {
                    if start > limit {
                        return SearchResult::TooLong {
                            message: "Separator is found, but chunk is longer than limit",
                            consumed: start,
                        };
                    }
                    return SearchResult::Found(end);
                }
                // The last bytes may be the beginning of a separator.
                let searched = (data.len() + 1).saturating_sub(separators.longest());
                self.searched.set(searched);
                if searched > limit {
                    return SearchResult::TooLong {
                        message: "Separator is not found, and chunk exceed the limit",
                        consumed: searched,
                    };
                }
            }
            if reader.eof.get() {
                SearchResult::Eof
            } else {
                SearchResult::More
            }
        })
    }
}

/// The outcome of a search for a separator.
enum SearchResult {
    /// The number of bytes up to and with the separator.
    Found(usize),
    /// More data is needed.
    More,
    Eof,
    /// What `LimitOverrunError` says.
    TooLong {
        message: &'static str,
        consumed: usize,
    },
}

/// The argument of `readuntil()`: a separator, or a tuple of them.
#[cold]
fn separators_of(object: &Bound<'_, PyAny>) -> FfiResult<Separators> {
    let bytes = |object: &Bound<'_, PyAny>| -> PyResult<Vec<u8>> {
        if let Ok(bytes) = object.cast::<PyBytes>() {
            return Ok(bytes.as_bytes().to_vec());
        }
        // SAFETY: `object` keeps the object alive.
        if unsafe { ffi::PyObject_CheckBuffer(object.as_ptr()) } == 0 {
            return Err(PyTypeError::new_err(format!(
                "argument should be integer or bytes-like object, not '{}'",
                object.get_type().name()?
            )));
        }
        Ok(with_bytes(object.as_ptr(), |data| Ok(data.to_vec()))?)
    };
    let mut all = match object.cast::<PyTuple>() {
        Ok(tuple) => tuple
            .iter()
            .map(|object| bytes(&object))
            .collect::<PyResult<Vec<_>>>()?,
        Err(_) => vec![bytes(object)?],
    };
    all.sort_by_key(Vec::len);
    let Some(shortest) = all.first() else {
        return Err(PyValueError::new_err("Separator should contain at least one element").into());
    };
    if shortest.is_empty() {
        return Err(PyValueError::new_err("Separator should be at least one-byte string").into());
    }
    Ok(Separators::AnyOf(all))
}

/// `IncompleteReadError(partial, expected)`
#[cold]
fn incomplete(py: Python<'_>, partial: &Ref, expected: Option<usize>) -> ErrSet {
    let class = Stdlib::get().incomplete_read_error.bind(py);
    match class.call1((partial.bind(py), expected)) {
        Ok(error) => PyErr::from_value(error).into(),
        Err(error) => error.into(),
    }
}

/// `LimitOverrunError(message, consumed)`
#[cold]
fn overrun(py: Python<'_>, message: &str, consumed: usize) -> PyResult<PyErr> {
    let class = Stdlib::get().limit_overrun_error.bind(py);
    Ok(PyErr::from_value(class.call1((message, consumed))?))
}

impl Operation for ReadOperation {
    fn class() -> &'static Class {
        &CLASS
    }

    #[inline]
    fn step(&self) -> FfiResult<Step> {
        // SAFETY: coroutines run in attached threads.
        let py = unsafe { Python::assume_attached() };
        if let Some(waiter) = self.waiter.take() {
            self.reader().stop_waiting(&waiter);
        }
        match &self.request {
            ReadRequest::UpTo(count) => self.up_to(py, *count),
            ReadRequest::All => self.all(py),
            ReadRequest::Exactly(count) => self.exactly(py, *count),
            ReadRequest::Line => self.line(py, false),
            ReadRequest::NextLine => self.line(py, true),
            ReadRequest::Until(separator) => self.until(py, separator.as_ref()),
            ReadRequest::Unchecked { count, exactly } => self.unchecked(py, count, *exactly),
        }
    }

    fn abandon(&self) {
        let reader = self.reader();
        if let Some(waiter) = self.waiter.take() {
            reader.stop_waiting(&waiter);
        }
        let collected = self.collected.take();
        if !collected.is_empty() && reader.unread(&collected).is_err() {
            // SAFETY: coroutines end in attached threads.
            let py = unsafe { Python::assume_attached() };
            PyErr::fetch(py).write_unraisable(py, Some(self.reader.bind(py)));
        }
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        let waiter = self.waiter.as_ptr();
        let argument = match &self.request {
            ReadRequest::Unchecked { count, .. } => Some(count),
            ReadRequest::Until(separator) => separator.as_ref(),
            _ => None,
        };
        let mut stop = visit(&self.reader);
        if let (0, Some(argument)) = (stop, argument) {
            stop = visit(argument);
        }
        if let (0, Some(waiter)) = (stop, waiter) {
            // SAFETY: the cell keeps the future alive while the collector looks.
            stop = visit(unsafe { Ref::from_ptr_ref(&waiter) });
        }
        stop
    }
}
