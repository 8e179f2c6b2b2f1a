//! `Channel`: a queue between kernels and Python. It copies the values.

use std::sync::Arc;

use hybridloop_kernels::{ChannelError, MemoryLimit, Order};
use pyo3::exceptions::{PyMemoryError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::kernels::convert::{from_python, to_python};
use crate::kernels::detached::drain_detached;
use crate::kernels::exceptions::{cannot_pickle, forked_error, new_error};
use crate::kernels::numbers::optional_size;
use crate::kernels::waiters::{ChannelWaiters, Waiter};
use crate::python::bytes::new_list;
use crate::python::finalization::hang_at_exit;
use crate::python::package;

/// A queue that any thread can use: kernels, through `chan_push()` and `chan_pop()`, and Python.
///
/// It copies the values: None, bool, int of 64 bits, float, str, and bytes-like objects and arrays, which are popped as a
/// `NativeBuffer` of the same type and shape.
/// With order "lifo" the newest value is popped first.
#[pyclass(frozen, module = "hybridloop._core")]
pub struct Channel {
    inner: Arc<hybridloop_kernels::Channel>,
    waiters: Arc<ChannelWaiters>,
    order: Order,
    limit: Option<usize>,
    memory: Arc<MemoryLimit>,
}

fn channel_error(py: Python<'_>, error: ChannelError) -> PyErr {
    match error {
        ChannelError::Closed => new_error(py, |c| &c.channel_closed, "the channel is closed"),
        ChannelError::Full => new_error(
            py,
            |c| &c.channel_full,
            "the channel is full; take from it first, or make its limit larger",
        ),
        ChannelError::Memory => PyMemoryError::new_err(()),
        ChannelError::Forked => forked_error(py, "channel"),
    }
}

impl Channel {
    /// The channel that a kernel gets as an argument.
    pub fn channel(&self) -> &Arc<hybridloop_kernels::Channel> {
        &self.inner
    }

    /// Fails in the child of a fork.
    pub fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        if self.inner.is_current_process() {
            Ok(())
        } else {
            Err(forked_error(py, "channel"))
        }
    }
}

#[pymethods]
impl Channel {
    /// Raises `TypeError`: the object belongs to this process.
    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        Err(cannot_pickle(slf.as_any()))
    }

    #[new]
    #[pyo3(signature = (order="fifo", limit=None))]
    fn new(order: &str, limit: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let order = match order {
            "fifo" => Order::Fifo,
            "lifo" => Order::Lifo,
            other => {
                return Err(PyValueError::new_err(format!(
                    "order must be 'fifo' or 'lifo', not '{other}'"
                )))
            }
        };
        let limit = optional_size("limit", limit, 1)?;
        let channel = hybridloop_kernels::Channel::new(order, limit.unwrap_or(usize::MAX));
        let waiters = ChannelWaiters::new();
        channel.set_listener(Some(waiters.clone()));
        Ok(Self {
            inner: channel,
            waiters,
            order,
            limit,
            memory: MemoryLimit::new(usize::MAX),
        })
    }

    /// Push a copy of `value`. Other threads run while 64 KiB or more are copied; they must not write to `value` meanwhile.
    ///
    /// Raises `TypeError` for a type that cannot be copied, `OverflowError` for an int of more than 64 bits, `ChannelFullError`
    /// if the channel is at its limit, `ChannelClosedError` if it is closed.
    fn push(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        hang_at_exit();
        let copy = from_python(value, &self.memory)?;
        self.inner
            .push(copy)
            .map_err(|reason| channel_error(value.py(), reason))
    }

    /// Pop a value; return `default` if the channel is empty. Raises `ChannelClosedError` if it is empty and closed.
    #[pyo3(signature = (default=None))]
    fn pop<'py>(
        &self,
        py: Python<'py>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        hang_at_exit();
        match self.inner.pop() {
            Ok(Some(value)) => to_python(py, &value),
            Ok(None) => Ok(default.unwrap_or_else(|| py.None().into_bound(py))),
            Err(reason) => Err(channel_error(py, reason)),
        }
    }

    /// Pop all values that are in the channel now; return them in the order in which they are popped.
    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.check_process(py)?;
        let list = new_list(py)?;
        self.inner
            .drain(|value| list.append(to_python(py, value)?))?;
        Ok(list)
    }

    /// Drop all values that are in the channel now; return how many.
    fn flush(&self, py: Python<'_>) -> PyResult<usize> {
        let cleared = py.detach(|| self.inner.clear());
        // What can be dropped in attached threads only.
        drain_detached(py);
        cleared.map_err(|reason| channel_error(py, reason))
    }

    /// Wait until the channel has a value or is closed. Raises `TimeoutError` after `timeout` seconds. Another consumer may
    /// have popped the value when this returns.
    #[pyo3(signature = (timeout=None))]
    fn wait<'py>(slf: &Bound<'py, Self>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        slf.get().check_process(slf.py())?;
        package::channel_wait(slf.py())?.call1((slf, timeout))
    }

    /// Wait for a value and pop it. Raises `TimeoutError` after `timeout` seconds, `ChannelClosedError` if the channel is empty
    /// and closed.
    #[pyo3(signature = (timeout=None))]
    fn get<'py>(slf: &Bound<'py, Self>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        slf.get().check_process(slf.py())?;
        package::channel_get(slf.py())?.call1((slf, timeout))
    }

    /// Close the channel: nothing can be pushed any more, and what is in it can still be popped. Does nothing in the child of a
    /// fork.
    fn close(&self) {
        self.inner.close();
    }

    /// Resolve `future`, which belongs to the running loop, when the channel has a value or is closed.
    fn _add_waiter(&self, future: &Bound<'_, PyAny>) -> PyResult<Waiter> {
        self.check_process(future.py())?;
        Waiter::of_channel(future, &self.waiters)
    }

    /// Whether it is closed. In the child of a fork it is.
    #[getter]
    fn closed(&self) -> bool {
        self.inner.is_closed()
    }

    /// "fifo" or "lifo".
    #[getter]
    fn order(&self) -> &'static str {
        match self.order {
            Order::Fifo => "fifo",
            Order::Lifo => "lifo",
        }
    }

    /// The largest number of values; None for no limit.
    #[getter]
    fn limit(&self) -> Option<usize> {
        self.limit
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.check_process(py)?;
        Ok(self.inner.len())
    }

    /// An empty channel is true as well.
    #[allow(clippy::unused_self)]
    fn __bool__(&self) -> bool {
        true
    }

    fn __aiter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __anext__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        package::channel_next(slf.py())?.call1((slf,))
    }

    fn __repr__(&self) -> String {
        if !self.inner.is_current_process() {
            return format!("<Channel {} of the parent process>", self.order());
        }
        format!("<Channel {} of {} values>", self.order(), self.inner.len())
    }
}
