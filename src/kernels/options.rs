//! The keyword arguments of `run_native()` and `run_native_many()`: how to run the jobs.

use std::ffi::CStr;
use std::time::{Duration, Instant};

use hybridloop_kernels::Key;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::kernels::exceptions::bus_error;
use crate::kernels::key::key_bytes;
use crate::kernels::numbers;
use crate::python::args::{bind_keywords, split_keywords};
use crate::python::{Args, FfiResult};

/// Longer timeouts need no timer.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30 * 365 * 86_400);

/// The names of the options of a job.
pub const NAMES: [&CStr; 6] = [
    c"out",
    c"key",
    c"timeout",
    c"priority",
    c"on_progress",
    c"cancel_policy",
];

/// Arguments of the kernel that are given by name.
pub type Named<'py> = Vec<(Bound<'py, PyString>, Bound<'py, PyAny>)>;

/// How to run a job or a batch.
#[derive(Default)]
pub struct Options<'py> {
    pub out: Option<Bound<'py, PyAny>>,
    pub key: Option<Bound<'py, PyAny>>,
    pub timeout: Option<Duration>,
    pub priority: i32,
    pub on_progress: Option<Bound<'py, PyAny>>,
    pub detach: bool,
    pub return_exceptions: bool,
}

impl<'py> Options<'py> {
    /// The options of `run_native()`, and the keyword arguments that are for the kernel.
    ///
    /// # Safety
    /// `args` are the arguments of the current call.
    pub unsafe fn of_job(py: Python<'py>, args: &Args<'_>) -> FfiResult<(Self, Named<'py>)> {
        let mut named = Vec::new();
        if !args.has_keywords() {
            return Ok((Self::default(), named));
        }
        // SAFETY: the caller passes the arguments of the current call, which are live; the names of keywords are strings.
        let [out, key, timeout, priority, on_progress, policy] = unsafe {
            split_keywords(NAMES, args, |name, value| {
                let name = Bound::from_borrowed_ptr(py, name).cast_into_unchecked();
                named.push((name, Bound::from_borrowed_ptr(py, value)));
            })
            .map(|value| given(py, value))
        };
        let not_none = |value: Option<Bound<'py, PyAny>>| value.filter(|value| !value.is_none());
        let mut options = Self::common(timeout, priority, policy)?;
        options.out = not_none(out);
        options.key = not_none(key);
        options.on_progress = not_none(on_progress);
        if let Some(callback) = &options.on_progress {
            if !callback.is_callable() {
                return Err(PyTypeError::new_err("on_progress must be callable").into());
            }
        }
        Ok((options, named))
    }

    /// The options of `run_native_many()`.
    ///
    /// # Safety
    /// `args` are the arguments of the current call.
    pub unsafe fn of_batch(py: Python<'py>, args: &Args<'_>) -> FfiResult<Self> {
        const NAMES: [&CStr; 4] = [
            c"timeout",
            c"priority",
            c"cancel_policy",
            c"return_exceptions",
        ];
        // SAFETY: the caller passes the arguments of the current call, which are live.
        let [timeout, priority, policy, return_exceptions] = unsafe {
            bind_keywords(c"run_native_many", NAMES, args)?.map(|value| given(py, value))
        };
        let mut options = Self::common(timeout, priority, policy)?;
        if let Some(return_exceptions) = return_exceptions {
            options.return_exceptions = return_exceptions.is_truthy()?;
        }
        Ok(options)
    }

    fn common(
        timeout: Option<Bound<'py, PyAny>>,
        priority: Option<Bound<'py, PyAny>>,
        policy: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Self> {
        let mut options = Self::default();
        if let Some(timeout) = timeout.filter(|timeout| !timeout.is_none()) {
            let timeout = numbers::timeout(&timeout)?;
            options.timeout = Some(timeout).filter(|timeout| *timeout < LONGEST_TIMEOUT);
        }
        if let Some(priority) = priority {
            options.priority = numbers::priority(&priority)?;
        }
        if let Some(policy) = policy {
            options.detach = match policy.extract::<&str>()? {
                "wait" => false,
                "detach" => true,
                other => {
                    return Err(PyValueError::new_err(format!(
                        "cancel_policy must be 'wait' or 'detach', not '{other}'"
                    )));
                }
            };
        }
        Ok(options)
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.timeout
            .and_then(|timeout| Instant::now().checked_add(timeout))
    }

    pub fn bus_key(&self) -> PyResult<Option<Key>> {
        let Some(key) = &self.key else {
            return Ok(None);
        };
        Key::new(key_bytes(key)?)
            .and_then(Key::check_unreserved)
            .map(Some)
            .map_err(|error| bus_error(key.py(), &error, Some(key)))
    }
}

/// A keyword argument; `None` if it is not given.
///
/// # Safety
/// `value` is null or live.
unsafe fn given(py: Python<'_>, value: *mut PyObject) -> Option<Bound<'_, PyAny>> {
    // SAFETY: the caller says that `value` is null or live, and `py` proves attachment.
    unsafe { Bound::from_borrowed_ptr_or_opt(py, value) }
}
