//! `read()` and its kin: the bodies of their coroutines.

use std::cell::Cell;
use std::collections::TryReserveError;
use std::ffi::{c_int, CStr};

use pyo3::exceptions::{PyStopAsyncIteration, PyTypeError, PyValueError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::python::bytes::{to_bytes, with_bytes};
use crate::python::coroutine::{self, Class, Step, Visit};
use crate::python::stdlib::Stdlib;
use crate::python::{ErrSet, FfiResult, LoopCell, Ref, SlotCell};
use crate::streams::reader::StreamReaderCore;
use crate::streams::separators::{Found, Separators};

/// What a call asks for. Arguments are looked at when the coroutine starts, as those of Python's are.
pub enum Request {
    /// Up to so many bytes.
    Some(usize),
    /// Everything up to the end.
    All,
    Exactly(usize),
    Line,
    /// The next line of an iteration.
    Next,
    /// Up to a separator; without one, a newline.
    Until(Option<Ref>),
    /// A number that is no exact `int`, or negative: to be looked at when the coroutine starts.
    Number {
        number: Ref,
        exactly: bool,
    },
}

impl Request {
    #[inline]
    pub fn read(count: Option<Ref>) -> Self {
        match count {
            None => Self::All,
            Some(count) => match small(&count) {
                Some(count) => Self::Some(count),
                None => Self::Number {
                    number: count,
                    exactly: false,
                },
            },
        }
    }

    #[inline]
    pub fn exactly(count: *mut PyObject) -> Self {
        // SAFETY: arguments are live during the call.
        let count = unsafe { Ref::borrowed(count) };
        match small(&count) {
            Some(count) => Self::Exactly(count),
            None => Self::Number {
                number: count,
                exactly: true,
            },
        }
    }

    #[inline]
    pub fn until(separator: Option<Ref>) -> Self {
        Self::Until(separator)
    }

    fn name(&self) -> &'static CStr {
        match self {
            Self::Some(_) | Self::All | Self::Number { exactly: false, .. } => c"StreamReader.read",
            Self::Exactly(_) | Self::Number { exactly: true, .. } => c"StreamReader.readexactly",
            Self::Line => c"StreamReader.readline",
            Self::Next => c"StreamReader.__anext__",
            Self::Until(_) => c"StreamReader.readuntil",
        }
    }
}

/// An exact `int` that is a size.
#[inline]
fn small(number: &Ref) -> Option<usize> {
    // SAFETY: attached; the object is live.
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

/// One call of `read()` or its kin.
pub struct Operation {
    reader: Ref,
    request: Request,
    /// The arguments and the reader's exception have been looked at.
    started: Cell<bool>,
    /// What it waits for.
    waiter: SlotCell<Ref>,
    /// How far there is no separator.
    searched: Cell<usize>,
    separators: LoopCell<Option<Separators>>,
    /// What `read(-1)` has gathered.
    gathered: LoopCell<Vec<u8>>,
}

static CLASS: Class = Class::new();

pub fn register(py: Python<'_>) -> PyResult<()> {
    CLASS.init::<Operation>(py, c"hybridloop._core.StreamReaderCoroutine")
}

impl Operation {
    /// The coroutine of one call.
    ///
    /// # Safety
    /// `reader` is a live `StreamReaderCore`.
    #[inline]
    pub unsafe fn start(reader: *mut PyObject, request: Request) -> FfiResult<Ref> {
        let name = request.name();
        let operation = Self {
            // SAFETY: the caller's promise.
            reader: unsafe { Ref::borrowed(reader) },
            request,
            started: Cell::new(false),
            waiter: SlotCell::default(),
            searched: Cell::new(0),
            separators: LoopCell::default(),
            gathered: LoopCell::default(),
        };
        coroutine::new(operation, name)
    }

    #[inline]
    fn core(&self) -> &StreamReaderCore {
        // SAFETY: `start` was given one.
        unsafe { StreamReaderCore::of(self.reader.as_ptr()) }
    }

    fn wait(&self, function: &str) -> FfiResult<Step> {
        let future = self.core().wait(function)?;
        drop(self.waiter.replace(Some(future.clone())));
        Ok(Step::Wait(future))
    }

    /// Takes `n` bytes, or as many as there are, off the buffer.
    #[inline]
    fn take(&self, n: usize) -> FfiResult<Ref> {
        let core = self.core();
        let data = core.take(n)?;
        core.resume_if_low()?;
        Ok(data)
    }

    /// Takes everything off the buffer, without letting the transport go on.
    fn take_rest(&self) -> FfiResult<Ref> {
        self.core().buffer.with(|buffer| {
            let data = to_bytes(buffer.as_slice())?;
            buffer.clear();
            Ok(data)
        })
    }

    fn len(&self) -> usize {
        self.core().buffer.with(|buffer| buffer.len())
    }

    fn run(&self, request: &Request) -> FfiResult<Step> {
        match request {
            Request::Some(count) => self.some(*count),
            Request::All => self.all(),
            Request::Exactly(count) => self.exactly(*count),
            Request::Line | Request::Next => self.line(matches!(request, Request::Next)),
            Request::Until(separator) => self.until(separator.as_ref()),
            Request::Number { number, exactly } => self.number(number, *exactly),
        }
    }

    /// Looks at the reader's exception, once.
    #[inline]
    fn begin(&self) -> FfiResult<()> {
        if self.started.replace(true) {
            return Ok(());
        }
        self.core().check()
    }

    fn some(&self, count: usize) -> FfiResult<Step> {
        self.begin()?;
        if count > 0 && !self.core().at_end.get() && self.len() == 0 {
            return self.wait("read");
        }
        self.take(count).map(Step::Done)
    }

    fn all(&self) -> FfiResult<Step> {
        self.begin()?;
        let core = self.core();
        loop {
            let limit = core.limit.get();
            let taken = core.buffer.with(|buffer| {
                let n = limit.min(buffer.len());
                self.gathered
                    .with(|gathered| -> Result<(), TryReserveError> {
                        gathered.try_reserve(n)?;
                        gathered.extend_from_slice(&buffer.as_slice()[..n]);
                        Ok(())
                    })?;
                buffer.advance(n);
                Ok(n)
            });
            let taken = taken.map_err(|_: TryReserveError| {
                ErrSet::from(pyo3::exceptions::PyMemoryError::new_err(()))
            })?;
            core.resume_if_low()?;
            if taken == 0 {
                if core.at_end.get() {
                    let gathered = self.gathered.take();
                    return to_bytes(&gathered).map(Step::Done);
                }
                // Each block is a read of its own.
                core.check()?;
                return self.wait("read");
            }
        }
    }

    fn exactly(&self, count: usize) -> FfiResult<Step> {
        self.begin()?;
        if self.len() >= count {
            return self.take(count).map(Step::Done);
        }
        if self.core().at_end.get() {
            let partial = self.take_rest()?;
            // SAFETY: attached.
            let py = unsafe { Python::assume_attached() };
            return Err(incomplete(py, &partial, Some(count)));
        }
        self.wait("readexactly")
    }

    /// A number that was no exact small `int`.
    #[cold]
    fn number(&self, number: &Ref, exactly: bool) -> FfiResult<Step> {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        let number = number.bind(py);
        if exactly && number.lt(0)? {
            return Err(PyValueError::new_err("readexactly size can not be less than zero").into());
        }
        if !exactly && number.lt(0)? {
            return self.all();
        }
        // SAFETY: attached; without an exception to raise, what does not fit is the largest number.
        let count = unsafe { ffi::PyNumber_AsSsize_t(number.as_ptr(), std::ptr::null_mut()) };
        if count == -1 {
            return Err(ErrSet);
        }
        let count = count.unsigned_abs();
        if exactly {
            self.exactly(count)
        } else {
            self.some(count)
        }
    }

    fn line(&self, is_iteration: bool) -> FfiResult<Step> {
        self.begin()?;
        match self.search(&Separators::Newline) {
            Search::Found(end) => self.take(end).map(Step::Done),
            Search::More => self.wait("readuntil"),
            Search::End => {
                let rest = self.take_rest()?;
                // SAFETY: an exact bytes object.
                if is_iteration && unsafe { ffi::Py_SIZE(rest.as_ptr()) } == 0 {
                    return Err(PyStopAsyncIteration::new_err(()).into());
                }
                Ok(Step::Done(rest))
            }
            Search::TooLong { message, consumed } => self.line_too_long(message, consumed),
        }
    }

    /// Drops the line, or what there is of it.
    #[cold]
    fn line_too_long(&self, message: &'static str, consumed: usize) -> FfiResult<Step> {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        let core = self.core();
        core.buffer.with(|buffer| {
            if buffer.as_slice().get(consumed) == Some(&b'\n') {
                buffer.advance(consumed + 1);
            } else {
                buffer.clear();
            }
        });
        core.resume_if_low()?;
        let error = PyValueError::new_err(message);
        let cause = overrun(py, message, consumed)?;
        // SAFETY: attached; takes over the reference.
        unsafe {
            ffi::PyException_SetContext(error.value(py).as_ptr(), cause.into_value(py).into_ptr());
        }
        Err(error.into())
    }

    fn until(&self, separator: Option<&Ref>) -> FfiResult<Step> {
        if self.separators.with(|separators| separators.is_none()) {
            let separators = separator.map_or(Ok(Separators::Newline), separators_of)?;
            drop(self.separators.replace(Some(separators)));
        }
        self.begin()?;
        let search = self.separators.with(|separators| {
            separators
                .as_ref()
                .map(|separators| self.search(separators))
        });
        match search.unwrap_or(Search::More) {
            Search::Found(end) => self.take(end).map(Step::Done),
            Search::More => self.wait("readuntil"),
            Search::End => {
                let partial = self.take_rest()?;
                // SAFETY: attached.
                let py = unsafe { Python::assume_attached() };
                Err(incomplete(py, &partial, None))
            }
            Search::TooLong { message, consumed } => {
                // SAFETY: attached.
                let py = unsafe { Python::assume_attached() };
                Err(overrun(py, message, consumed)?.into())
            }
        }
    }

    /// Looks for a separator where none was found before.
    #[inline]
    fn search(&self, separators: &Separators) -> Search {
        let core = self.core();
        let limit = core.limit.get();
        let searched = self.searched.get();
        core.buffer.with(|buffer| {
            let data = buffer.as_slice();
            if data.len() >= searched + separators.shortest() {
                if let Some(Found { start, end }) = separators.find(data, searched) {
                    if start > limit {
                        return Search::TooLong {
                            message: "Separator is found, but chunk is longer than limit",
                            consumed: start,
                        };
                    }
                    return Search::Found(end);
                }
                // The separator may have begun.
                let searched = (data.len() + 1).saturating_sub(separators.longest());
                self.searched.set(searched);
                if searched > limit {
                    return Search::TooLong {
                        message: "Separator is not found, and chunk exceed the limit",
                        consumed: searched,
                    };
                }
            }
            if core.at_end.get() {
                Search::End
            } else {
                Search::More
            }
        })
    }
}

enum Search {
    /// The bytes up to and with the separator.
    Found(usize),
    More,
    End,
    TooLong {
        message: &'static str,
        consumed: usize,
    },
}

/// What `readuntil()` is to look for.
#[cold]
fn separators_of(separator: &Ref) -> FfiResult<Separators> {
    // SAFETY: attached.
    let py = unsafe { Python::assume_attached() };
    let object = separator.bind(py);
    let bytes = |object: &Bound<'_, PyAny>| -> PyResult<Vec<u8>> {
        if let Ok(bytes) = object.cast::<PyBytes>() {
            return Ok(bytes.as_bytes().to_vec());
        }
        // SAFETY: attached; the object is live.
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
    Ok(Separators::Many(all))
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

impl coroutine::Operation for Operation {
    fn class() -> &'static Class {
        &CLASS
    }

    #[inline]
    fn step(&self) -> FfiResult<Step> {
        if let Some(waiter) = self.waiter.take() {
            self.core().forget(&waiter);
        }
        self.run(&self.request)
    }

    fn abandon(&self) {
        let core = self.core();
        if let Some(waiter) = self.waiter.take() {
            core.forget(&waiter);
        }
        let gathered = self.gathered.take();
        if !gathered.is_empty() && core.put_back(&gathered).is_err() {
            // SAFETY: attached.
            let py = unsafe { Python::assume_attached() };
            PyErr::fetch(py).write_unraisable(py, Some(self.reader.bind(py)));
        }
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        let waiter = self.waiter.as_ptr();
        let argument = match &self.request {
            Request::Number { number, .. } => Some(number),
            Request::Until(separator) => separator.as_ref(),
            _ => None,
        };
        let mut stop = visit(&self.reader);
        if let (0, Some(argument)) = (stop, argument) {
            stop = visit(argument);
        }
        if let (0, Some(waiter)) = (stop, waiter) {
            // SAFETY: live as long as the operation has it; not counted, not dropped.
            let waiter = std::mem::ManuallyDrop::new(unsafe { Ref::unowned(waiter) });
            stop = visit(&waiter);
        }
        stop
    }
}
