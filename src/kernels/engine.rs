//! `NativeEngine`: workers that run kernels, and a bus.

use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use hybridloop_kernels::{Config, Engine, Order, Policy};
use hybridloop_sync::primitives::lock;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::kernels::bus::{bus_stats, Bus};
use crate::kernels::exceptions::cannot_pickle;
use crate::kernels::numbers::optional_size;
use crate::python::once::get_or_try_set;

/// Workers that run kernels, and a memory bus. It starts no thread before the first job.
///
/// The arguments are those of `hybridloop.configure()`; `bus_capacity`, `memory` and `job_memory` are numbers of bytes. A loop
/// runs its kernels on the engine that is its `native_engine`.
#[pyclass(frozen, module = "hybridloop._core")]
pub struct NativeEngine {
    engine: Arc<Engine>,
    config: Config,
    /// One object for the bus, so that `engine.bus is engine.bus`.
    bus: OnceLock<Py<Bus>>,
}

/// The engine of loops without an engine of their own.
struct DefaultEngine {
    engine: Option<Py<NativeEngine>>,
    /// Whether it was handed out. From then on it cannot be replaced.
    in_use: bool,
}

static DEFAULT: Mutex<DefaultEngine> = Mutex::new(DefaultEngine {
    engine: None,
    in_use: false,
});

/// All engines, to close them when the interpreter exits.
static ENGINES: Mutex<Vec<Weak<Engine>>> = Mutex::new(Vec::new());

/// How long the process waits for kernels at exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

impl NativeEngine {
    fn with_config(config: Config) -> Self {
        let engine = Arc::new(Engine::new(&config));
        let mut engines = lock(&ENGINES);
        engines.retain(|engine| engine.strong_count() > 0);
        engines.push(Arc::downgrade(&engine));
        drop(engines);
        Self {
            engine,
            config,
            bus: OnceLock::new(),
        }
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The default engine, created on first use. The child of a fork gets one of its own, with the same configuration.
    pub fn default(py: Python<'_>) -> PyResult<Py<Self>> {
        // While it is locked, nothing blocks and no Python code runs.
        let mut slot = lock(&DEFAULT);
        let old = slot.engine.as_ref().map(|engine| engine.clone_ref(py));
        slot.in_use |= old.is_some();
        drop(slot);
        if let Some(engine) = &old {
            if engine.get().engine.is_current_process() {
                return Ok(engine.clone_ref(py));
            }
        }
        let config = old
            .as_ref()
            .map_or_else(Config::default, |engine| engine.get().config.clone());
        let new = Py::new(py, Self::with_config(config))?;
        let mut slot = lock(&DEFAULT);
        slot.in_use = true;
        // Another thread may have created one meanwhile.
        let dropped = match &slot.engine {
            Some(engine) if engine.get().engine.is_current_process() => {
                let engine = engine.clone_ref(py);
                drop(slot);
                return Ok(engine);
            }
            _ => slot.engine.replace(new.clone_ref(py)),
        };
        drop(slot);
        // After a fork: the parent's engine is leaked, because its locks may be held by threads that exist in the parent only.
        std::mem::forget(dropped);
        Ok(new)
    }
}

fn seconds(timeout: f64) -> PyResult<Duration> {
    if timeout.is_nan() || timeout < 0.0 {
        return Err(PyValueError::new_err(format!(
            "timeout must not be negative, not {timeout}"
        )));
    }
    Ok(Duration::try_from_secs_f64(timeout).unwrap_or(Duration::MAX))
}

#[pymethods]
impl NativeEngine {
    /// Raises `TypeError`: the object belongs to this process.
    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        Err(cannot_pickle(slf.as_any()))
    }

    #[new]
    #[pyo3(signature = (*, native_threads=None, native_queue="fifo", max_native_queue=None, bus_capacity=None, bus_policy="error", memory=None, job_memory=None, job_items=None))]
    #[allow(clippy::too_many_arguments, reason = "keywords of a constructor")]
    fn new(
        native_threads: Option<&Bound<'_, PyAny>>,
        native_queue: &str,
        max_native_queue: Option<&Bound<'_, PyAny>>,
        bus_capacity: Option<&Bound<'_, PyAny>>,
        bus_policy: &str,
        memory: Option<&Bound<'_, PyAny>>,
        job_memory: Option<&Bound<'_, PyAny>>,
        job_items: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let default = Config::default();
        let config = Config {
            threads: optional_size("native_threads", native_threads, 1)?.unwrap_or(default.threads),
            order: match native_queue {
                // The queue orders by priority first in any case.
                "fifo" | "priority" => Order::Fifo,
                "lifo" => Order::Lifo,
                other => {
                    return Err(PyValueError::new_err(format!(
                        "native_queue must be 'fifo', 'lifo' or 'priority', not '{other}'"
                    )))
                }
            },
            max_queue: optional_size("max_native_queue", max_native_queue, 1)?
                .unwrap_or(default.max_queue),
            bus_capacity: optional_size("bus_capacity", bus_capacity, 0)?
                .unwrap_or(default.bus_capacity),
            bus_policy: match bus_policy {
                "error" => Policy::Error,
                "evict" => Policy::Evict,
                other => {
                    return Err(PyValueError::new_err(format!(
                        "bus_policy must be 'error' or 'evict', not '{other}'"
                    )))
                }
            },
            memory: optional_size("memory", memory, 0)?.unwrap_or(default.memory),
            job_memory: optional_size("job_memory", job_memory, 0)?.unwrap_or(default.job_memory),
            job_items: optional_size("job_items", job_items, 1)?.unwrap_or(default.job_items),
        };
        Ok(Self::with_config(config))
    }

    /// The memory bus of this engine.
    #[getter]
    fn bus(&self, py: Python<'_>) -> PyResult<Py<Bus>> {
        let bus = get_or_try_set(&self.bus, || Py::new(py, Bus::new(self.engine.clone())))?;
        Ok(bus.clone_ref(py))
    }

    /// Whether this process created it. In the child of a fork neither the engine nor its bus can be used.
    #[getter]
    fn is_current_process(&self) -> bool {
        self.engine.is_current_process()
    }

    /// Statistics: `threads`; the jobs that are `queued`, `running`, and `pending`, which wait for the completion of their tokens;
    /// how many have run (`completed`), and how many are `done`, `failed` and `cancelled`; bytes of `memory`; and those of the `bus`.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        if !self.engine.is_current_process() {
            return Ok(dict);
        }
        let stats = self.engine.stats();
        dict.set_item("threads", stats.threads)?;
        dict.set_item("queued", stats.queued)?;
        dict.set_item("running", stats.running)?;
        dict.set_item("pending", stats.pending)?;
        dict.set_item("completed", stats.completed)?;
        dict.set_item("done", stats.done)?;
        dict.set_item("failed", stats.failed)?;
        dict.set_item("cancelled", stats.cancelled)?;
        dict.set_item("memory", stats.memory)?;
        dict.set_item("bus", bus_stats(py, stats.bus)?)?;
        Ok(dict)
    }

    /// Refuse new jobs, and start none of those in the queue, until `close()` ends them.
    fn _stop_starting(&self) {
        self.engine.stop_starting();
    }

    /// End queued jobs, request running kernels to return and pending calls to be completed, wait for them at most `timeout`
    /// seconds, and empty the bus. Return the names of the kernels that still run or wait: they continue by themselves, and their
    /// buffers stay in use.
    #[pyo3(signature = (timeout=5.0))]
    fn close(&self, py: Python<'_>, timeout: f64) -> PyResult<Vec<String>> {
        let timeout = seconds(timeout)?;
        Ok(py.detach(|| self.engine.close(timeout)))
    }

    fn __repr__(&self) -> String {
        format!("<NativeEngine native_threads={}>", self.config.threads)
    }
}

/// The engine of loops without an engine of their own, created on first use.
#[pyfunction]
fn _default_engine(py: Python<'_>) -> PyResult<Py<NativeEngine>> {
    NativeEngine::default(py)
}

/// The engine of loops without an engine of their own, if it is in use.
#[pyfunction]
fn _used_default_engine(py: Python<'_>) -> Option<Py<NativeEngine>> {
    let slot = lock(&DEFAULT);
    let engine = slot.engine.as_ref().filter(|_| slot.in_use);
    engine.map(|engine| engine.clone_ref(py))
}

/// Make `engine` the engine of loops without an engine of their own, unless one is in use.
#[pyfunction]
fn _set_default_engine(engine: Py<NativeEngine>) -> PyResult<()> {
    let mut slot = lock(&DEFAULT);
    if slot.in_use {
        drop(slot);
        return Err(PyRuntimeError::new_err(
            "the engine of native kernels is in use already; call configure() before the first kernel runs",
        ));
    }
    let old = slot.engine.replace(engine);
    drop(slot);
    drop(old);
    Ok(())
}

/// Called when the interpreter exits: a kernel that runs while the process is torn down could crash it.
#[pyfunction]
fn _close_engines(py: Python<'_>) {
    let engines = std::mem::take(&mut *lock(&ENGINES));
    py.detach(|| {
        let begin = Instant::now();
        for engine in engines.iter().filter_map(Weak::upgrade) {
            engine.close(EXIT_TIMEOUT.saturating_sub(begin.elapsed()));
        }
    });
}

/// Adds the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_default_engine, module)?)?;
    module.add_function(wrap_pyfunction!(_used_default_engine, module)?)?;
    module.add_function(wrap_pyfunction!(_set_default_engine, module)?)?;
    module.add_function(wrap_pyfunction!(_close_engines, module)?)
}
