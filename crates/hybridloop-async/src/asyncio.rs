//! What the crate needs of asyncio.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::Waker;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// Objects of asyncio that are looked up once.
pub struct Asyncio {
    pub ensure_future: Py<PyAny>,
    pub get_running_loop: Py<PyAny>,
    pub cancelled_error: Py<PyType>,
}

/// They are looked up on first use. The cell is not locked meanwhile, for another thread may fork.
pub fn asyncio(py: Python<'_>) -> PyResult<&'static Asyncio> {
    static FOUND: OnceLock<Asyncio> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found);
    }
    let module = py.import("asyncio")?;
    let found = Asyncio {
        ensure_future: module.getattr("ensure_future")?.unbind(),
        get_running_loop: module.getattr("get_running_loop")?.unbind(),
        cancelled_error: module
            .getattr("CancelledError")?
            .cast_into::<PyType>()?
            .unbind(),
    };
    Ok(FOUND.get_or_init(|| found))
}

/// A callback that wakes a future.
#[pyclass(frozen, module = "hybridloop_async")]
pub struct Callback {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_called: bool,
    waker: Option<Waker>,
}

impl Callback {
    pub fn new(waker: &Waker) -> Self {
        Self {
            state: Mutex::new(State {
                is_called: false,
                waker: Some(waker.clone()),
            }),
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it was called; if not, it wakes `waker`.
    pub fn poll(&self, waker: &Waker) -> bool {
        self.with(|state| {
            if let (false, Some(before)) = (state.is_called, &mut state.waker) {
                before.clone_from(waker);
            }
            state.is_called
        })
    }

    pub fn is_called(&self) -> bool {
        self.with(|state| state.is_called)
    }

    /// Nobody waits for it any more.
    pub fn forget(&self) {
        let waker = self.with(|state| state.waker.take());
        drop(waker);
    }
}

#[pymethods]
impl Callback {
    #[pyo3(signature = (*_args))]
    fn __call__(&self, _args: &Bound<'_, PyAny>) {
        let waker = self.with(|state| {
            state.is_called = true;
            state.waker.take()
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cold]
pub fn not_in_a_coroutine() -> PyErr {
    PyRuntimeError::new_err(
        "only a coroutine of hybridloop-async can await this, in its own thread",
    )
}
