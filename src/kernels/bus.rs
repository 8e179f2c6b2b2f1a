//! `Bus`: the memory bus for Python, which creates and reads keys, and never overwrites or removes them.

use std::sync::Arc;

use hybridloop_kernels::{BusError, BusStats, Engine, Key};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::kernels::buffer::NativeBuffer;
use crate::kernels::exceptions::{bus_error, cannot_pickle};
use crate::kernels::key::key_bytes;
use crate::kernels::numbers::optional_size;
use crate::kernels::pushed::Pushed;
use crate::kernels::waiters::Waiter;
use crate::python::bytes::{new_list, new_str, to_bytes};
use crate::python::finalization::hang_at_exit;
use crate::python::package;

/// Immutable blocks of bytes under keys, shared with native kernels.
///
/// Kernels create, overwrite, read and remove keys. Python creates new keys and reads keys that no kernel is writing; it never
/// overwrites or removes any. A key is a str or bytes of 1 to 255 bytes; a str is encoded as UTF-8.
#[pyclass(frozen, module = "hybridloop._core")]
pub struct Bus {
    engine: Arc<Engine>,
}

impl Bus {
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    /// The bus, if this process created it. After a fork its locks may be held by threads that exist in the parent only.
    fn bus(&self) -> Result<&Arc<hybridloop_kernels::Bus>, BusError> {
        if self.engine.is_current_process() {
            Ok(self.engine.bus())
        } else {
            Err(BusError::Closed)
        }
    }

    fn put(
        &self,
        key: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
        size: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Result<(), BusError>> {
        hang_at_exit();
        let py = key.py();
        let bytes = key_bytes(key)?;
        let Some(mut pushed) = Pushed::of(data)? else {
            return Err(PyTypeError::new_err(format!(
                "a bytes-like object or an array is required, not '{}'",
                data.get_type().name()?
            )));
        };
        if let Some(size) = optional_size("size", size, 0)? {
            let len = pushed.len();
            pushed = pushed.first_bytes(size).ok_or_else(|| {
                PyValueError::new_err(format!("size is {size}, but there are only {len} bytes"))
            })?;
        }
        Ok(self.bus().and_then(|bus| {
            let key = Key::new(bytes)?;
            bus.put_new_with(&key, pushed.len(), |memory| pushed.into_view(py, memory))
        }))
    }
}

#[pymethods]
impl Bus {
    /// Raises `TypeError`: the object belongs to this process.
    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        Err(cannot_pickle(slf.as_any()))
    }

    /// Create `key` with a copy of `data`, which keeps its type and shape, or of its first `size` bytes. Memory that never changes
    /// is shared instead: that of a `NativeBuffer`, of Arrow, and of a DLPack tensor that is read-only. Other threads run while
    /// 64 KiB or more are copied; they must not write to `data` meanwhile.
    ///
    /// Raises `BusKeyExistsError` if the key exists, and changes nothing then; `BusBusyError` while a kernel writes it;
    /// `BusFullError` if the bus has no room.
    #[pyo3(signature = (key, data, size=None))]
    fn push(
        &self,
        key: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
        size: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.put(key, data, size)?
            .map_err(|error| bus_error(key.py(), &error, Some(key)))
    }

    /// Like `push()`, but return False if the key exists or is being written, instead of raising an exception.
    #[pyo3(signature = (key, data, size=None))]
    fn try_push(
        &self,
        key: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
        size: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        match self.put(key, data, size)? {
            Ok(()) => Ok(true),
            Err(BusError::Exists | BusError::Busy) => Ok(false),
            Err(error) => Err(bus_error(key.py(), &error, Some(key))),
        }
    }

    /// Return the block under `key`, without a copy. It does not change when the key is overwritten or removed.
    ///
    /// Raises `BusKeyError` if the key does not exist, `BusBusyError` while a kernel writes it, `BusClosedError` if the bus is
    /// closed.
    fn get(&self, key: &Bound<'_, PyAny>) -> PyResult<NativeBuffer> {
        hang_at_exit();
        let bytes = key_bytes(key)?;
        self.bus()
            .and_then(|bus| bus.snapshot(bytes))
            .map(NativeBuffer::new)
            .map_err(|error| bus_error(key.py(), &error, Some(key)))
    }

    /// An alias of `get()`: Python never removes a key.
    fn pop(&self, key: &Bound<'_, PyAny>) -> PyResult<NativeBuffer> {
        self.get(key)
    }

    /// Wait until `key` is sealed and no kernel writes it, and return its block. Raises `TimeoutError` after `timeout` seconds,
    /// `BusClosedError` if the bus is closed.
    #[pyo3(signature = (key, timeout=None))]
    fn wait<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bytes = key_bytes(key)?;
        slf.get()
            .bus()
            .and_then(|_| Key::new(bytes))
            .map_err(|error| bus_error(key.py(), &error, Some(key)))?;
        package::bus_wait(slf.py())?.call1((slf, key, timeout))
    }

    /// Give `future`, which belongs to the running loop, the block under `key` when the key is sealed.
    fn _add_waiter(&self, key: &Bound<'_, PyAny>, future: &Bound<'_, PyAny>) -> PyResult<Waiter> {
        let bytes = key_bytes(key)?;
        let (bus, key) = self
            .bus()
            .and_then(|bus| Ok((bus, Key::new(bytes)?)))
            .map_err(|error| bus_error(key.py(), &error, Some(key)))?;
        Waiter::of_key(future, |events, token| bus.watch(key, events, token))
    }

    /// Whether a kernel is writing `key` now.
    fn busy(&self, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let bytes = key_bytes(key)?;
        self.bus()
            .map(|bus| bus.is_busy(bytes))
            .map_err(|error| bus_error(key.py(), &error, Some(key)))
    }

    fn __contains__(&self, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let bytes = key_bytes(key)?;
        Ok(self.bus().is_ok_and(|bus| bus.contains(bytes)))
    }

    fn __len__(&self) -> usize {
        self.bus().map_or(0, |bus| bus.len())
    }

    /// The keys, in no particular order: str if they are UTF-8, else bytes.
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let keys = self.bus().map(|bus| bus.keys()).unwrap_or_default();
        let list = new_list(py)?;
        for key in &keys {
            match std::str::from_utf8(key.as_bytes()) {
                Ok(text) => list.append(new_str(py, text)?)?,
                Err(_) => list.append(to_bytes(key.as_bytes())?.bind(py))?,
            }
        }
        Ok(list)
    }

    /// Statistics: `keys`, `bytes` and `capacity`; how many `writes`, `reads`, `pops` and `evictions`; and `busy`, how often
    /// Python could not use a key because a kernel was writing it.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.bus().map(|bus| bus.stats()).unwrap_or_default();
        bus_stats(py, stats)
    }

    fn __repr__(&self) -> String {
        match self.bus() {
            Ok(bus) => {
                let stats = bus.stats();
                format!(
                    "<Bus of {} keys, {} of {} bytes>",
                    stats.keys, stats.bytes, stats.capacity
                )
            }
            Err(_) => "<Bus of the parent process>".to_owned(),
        }
    }
}

/// The statistics of a bus as a dict.
pub fn bus_stats(py: Python<'_>, stats: BusStats) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("keys", stats.keys)?;
    dict.set_item("bytes", stats.bytes)?;
    dict.set_item("capacity", stats.capacity)?;
    dict.set_item("writes", stats.writes)?;
    dict.set_item("reads", stats.reads)?;
    dict.set_item("pops", stats.pops)?;
    dict.set_item("evictions", stats.evictions)?;
    dict.set_item("busy", stats.busy)?;
    Ok(dict)
}
