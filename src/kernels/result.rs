//! `FutureResult`: the result of a job or batch as Python objects.

use hybridloop_kernels::{Code, Job, JobResult, KernelError};
use pyo3::exceptions::{
    PyKeyError, PyMemoryError, PyOverflowError, PyTimeoutError, PyTypeError, PyValueError,
};
use pyo3::prelude::*;

use crate::kernels::convert::to_python;
use crate::kernels::exceptions::{new_error, Exceptions};
use crate::python::{normalized, Ref};

/// The result of a future.
#[derive(Clone)]
pub enum FutureResult {
    Value(Ref),
    /// An exception.
    Error(Ref),
    Cancelled,
}

impl FutureResult {
    pub fn error(py: Python<'_>, error: PyErr) -> Self {
        Self::Error(normalized(error).into_value(py).into_bound(py).into())
    }

    pub fn timed_out(py: Python<'_>, kernel: &str) -> Self {
        Self::error(py, timed_out(kernel))
    }

    /// The result of a job that is done; of any other job, `Cancelled`.
    pub fn of(py: Python<'_>, job: &Job) -> Self {
        let kernel = job.kernel().name();
        match job.result() {
            Some(JobResult::Value(value)) => match to_python(py, value) {
                Ok(object) => Self::Value(object.into()),
                Err(error) => Self::error(py, error),
            },
            Some(JobResult::Error(error)) => match error.code {
                Code::Cancelled => Self::Cancelled,
                _ => Self::error(py, kernel_error(py, kernel, error)),
            },
            Some(JobResult::TimedOut) => Self::timed_out(py, kernel),
            Some(JobResult::Closed) => Self::error(
                py,
                new_error(
                    py,
                    |classes| &classes.closed,
                    format!("the engine was closed before kernel '{kernel}' ran"),
                ),
            ),
            Some(JobResult::Cancelled) | None => Self::Cancelled,
        }
    }

    pub fn object(&self) -> Option<&Ref> {
        match self {
            Self::Value(object) | Self::Error(object) => Some(object),
            Self::Cancelled => None,
        }
    }
}

fn timed_out(kernel: &str) -> PyErr {
    PyTimeoutError::new_err(format!("{kernel}: the timeout has passed"))
}

/// The exception that a kernel's code stands for.
fn kernel_error(py: Python<'_>, kernel: &str, error: &KernelError) -> PyErr {
    let message = format!("{kernel}: {}", error.message);
    match error.code {
        Code::Invalid => PyValueError::new_err(message),
        Code::Type => PyTypeError::new_err(message),
        Code::Memory => PyMemoryError::new_err(message),
        Code::TimedOut => PyTimeoutError::new_err(message),
        Code::NotFound => PyKeyError::new_err(message),
        Code::Overflow => PyOverflowError::new_err(message),
        code => match Exceptions::get(py) {
            Ok(classes) => PyErr::from_type(
                classes.kernel_error.bind(py).clone(),
                (code.status(), error.message.clone(), kernel.to_owned()),
            ),
            Err(error) => error,
        },
    }
}
