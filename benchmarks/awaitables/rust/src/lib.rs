//! The same functions with hybridloop-async, with pyo3-async-runtimes and with PyO3's own `async fn`.

use hybridloop_async::{add_functions, function, Cx};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3_async_runtimes::tokio::{future_into_py, get_runtime, into_future};

#[function]
async fn nothing() {}

/// A thread of Tokio finishes the future.
#[function]
async fn by_a_thread() -> PyResult<()> {
    let task = get_runtime().spawn(async {});
    task.await
        .map_err(|error| PyRuntimeError::new_err(error.to_string()))
}

#[function]
async fn relay(cx: Cx, object: Py<PyAny>) -> PyResult<Py<PyAny>> {
    cx.awaiting(|py| Ok(object.into_bound(py))).await
}

#[pyfunction]
async fn pyo3_nothing() {}

#[pyfunction]
fn peer_by_a_thread(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    future_into_py(py, async { Ok(()) })
}

#[pyfunction]
fn peer_relay(py: Python<'_>, object: Py<PyAny>) -> PyResult<Bound<'_, PyAny>> {
    future_into_py(py, async move {
        let future = Python::attach(|py| into_future(object.into_bound(py)))?;
        future.await
    })
}

#[pymodule]
fn awaits(module: &Bound<'_, PyModule>) -> PyResult<()> {
    add_functions!(module, nothing, by_a_thread, relay)?;
    module.add_function(wrap_pyfunction!(pyo3_nothing, module)?)?;
    module.add_function(wrap_pyfunction!(peer_by_a_thread, module)?)?;
    module.add_function(wrap_pyfunction!(peer_relay, module)?)
}
