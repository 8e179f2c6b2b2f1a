//! What `asend()` and the related methods of an async generator return: a coroutine that runs the generator to its next item.

use std::ffi::{c_int, CStr};

use pyo3::exceptions::{PyGeneratorExit, PyRuntimeError, PyStopAsyncIteration, PyTypeError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::awaitables::generator::{self, Brought, State};
use crate::python::coroutine::{
    self, check_throw, thrown_exception, Class, Operation, Step, Visit,
};
use crate::python::{Cell, ErrSet, FfiResult, Ref, SlotCell};

/// What is asked of the generator.
pub enum Request {
    Next,
    Send(Ref),
    Throw(Ref),
    Close,
}

impl Request {
    /// The request of `athrow(*arguments)`.
    pub fn throw(py: Python<'_>, arguments: &[*mut PyObject]) -> FfiResult<Self> {
        check_throw(arguments.len())?;
        Ok(Self::Throw(thrown_exception(py, arguments)?.into()))
    }

    /// What CPython's error calls it, and the name of the coroutine.
    fn method(&self) -> (&'static str, &'static CStr) {
        match self {
            Self::Next => ("anext", c"async_generator.__anext__"),
            Self::Send(_) => ("anext", c"async_generator.asend"),
            Self::Throw(_) => ("athrow", c"async_generator.athrow"),
            Self::Close => ("aclose", c"async_generator.aclose"),
        }
    }
}

static CLASS: Class = Class::new();

pub struct Call {
    generator: Ref,
    method: &'static str,
    is_close: bool,
    /// The value or exception, until the call begins.
    argument: SlotCell<Ref>,
    is_throw: bool,
    has_begun: Cell<bool>,
}

/// The coroutine of one call.
pub fn new(generator: Ref, request: Request) -> FfiResult<Ref> {
    let (method, name) = request.method();
    let is_throw = matches!(request, Request::Throw(_));
    let is_close = matches!(request, Request::Close);
    let argument = match request {
        Request::Send(object) | Request::Throw(object) => Some(object),
        Request::Next | Request::Close => None,
    };
    let call = Call {
        generator,
        method,
        is_close,
        argument: SlotCell::new(argument),
        is_throw,
        has_begun: Cell::new(false),
    };
    coroutine::new(call, name)
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    CLASS.init::<Call>(module.py(), c"hybridloop._core.StepGeneratorCall")
}

impl Call {
    fn generator(&self) -> &generator::Generator {
        // SAFETY: `new` gets a generator, and the reference keeps it alive.
        unsafe { generator::of(self.generator.as_ptr()) }
    }

    /// Begins: gives what the generator goes on with, or the end of the call.
    fn begin(&self, slf: *mut PyObject) -> FfiResult<Result<FfiResult<Ref>, Step>> {
        // SAFETY: coroutines run in attached threads.
        let py = unsafe { Python::assume_attached() };
        let generator = self.generator();
        let before = generator.begin(self.method, slf.cast_const().cast())?;
        self.has_begun.set(true);
        let argument = self.argument.take();
        if before == State::Closed && (self.is_close || self.is_throw) {
            // CPython's `athrow()` drops the exception.
            return Ok(Err(Step::Done(Ref::none())));
        }
        if matches!(before, State::Closed | State::Ignored) {
            return Err(PyStopAsyncIteration::new_err(()).into());
        }
        if self.is_close {
            if before == State::Fresh {
                generator.close();
                return Ok(Err(Step::Done(Ref::none())));
            }
            return Ok(Ok(Err(PyGeneratorExit::new_err(()).into())));
        }
        match argument {
            Some(exception) if self.is_throw => {
                if before == State::Fresh {
                    generator.close();
                    return Err(PyErr::from_value(exception.bind(py).clone()).into());
                }
                Ok(Ok(
                    Err(PyErr::from_value(exception.bind(py).clone()).into()),
                ))
            }
            Some(value) => {
                // SAFETY: `None` is always live.
                let is_none = value.as_ptr() == unsafe { ffi::Py_None() };
                if before == State::Fresh && !is_none {
                    generator.unbegin();
                    return Err(PyTypeError::new_err(
                        "can't send non-None value to a just-started async generator",
                    )
                    .into());
                }
                Ok(Ok(Ok(value)))
            }
            None => Ok(Ok(Ok(Ref::none()))),
        }
    }

    /// The end of a call that the generator has raised in.
    fn raised(&self) -> FfiResult<Step> {
        // SAFETY: coroutines run in attached threads.
        let py = unsafe { Python::assume_attached() };
        let error = PyErr::fetch(py);
        if self.is_close && error.is_instance_of::<PyGeneratorExit>(py) {
            return Ok(Step::Done(Ref::none()));
        }
        Err(error.into())
    }
}

impl Operation for Call {
    const AWAITS: bool = true;

    fn class() -> &'static Class {
        &CLASS
    }

    fn step(&self) -> FfiResult<Step> {
        // `resumed` is called in its place.
        Ok(Step::Done(Ref::none()))
    }

    fn resumed(&self, slf: *mut PyObject, outcome: FfiResult<Ref>) -> FfiResult<Step> {
        let outcome = if self.has_begun.get() {
            outcome
        } else {
            match self.begin(slf)? {
                Ok(outcome) => outcome,
                Err(step) => return Ok(step),
            }
        };
        match self.generator().run(self.generator.as_ptr(), outcome) {
            Ok(Brought::Step(step)) => Ok(step),
            Ok(Brought::Item(_)) if self.is_close => {
                self.generator().close_ignoring();
                Err(PyRuntimeError::new_err("async generator ignored GeneratorExit").into())
            }
            Ok(Brought::Item(item)) => Ok(Step::Done(item)),
            Ok(Brought::End) if self.is_close => Ok(Step::Done(Ref::none())),
            Ok(Brought::End) => Err(PyStopAsyncIteration::new_err(()).into()),
            Err(ErrSet) => self.raised(),
        }
    }

    fn abandon(&self) {
        // What is awaited was closed, and the generator has ignored that.
        self.generator().close();
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        let stop = visit(&self.generator);
        if stop != 0 {
            return stop;
        }
        match self.argument.as_ptr() {
            // SAFETY: the slot holds the object, and the collector changes nothing.
            Some(argument) => visit(unsafe { Ref::from_ptr_ref(&argument) }),
            None => 0,
        }
    }
}
