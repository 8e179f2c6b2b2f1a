//! What extensions do with pyo3-async-runtimes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyo3::exceptions::PyLookupError;
use pyo3::prelude::*;
use pyo3_async_runtimes::tokio::{
    future_into_py, future_into_py_with_locals, get_current_locals, get_current_loop, get_runtime,
    into_future, run, run_until_complete, scope,
};
use pyo3_async_runtimes::{into_future_with_locals, TaskLocals};

#[pyfunction]
fn sleeps(py: Python<'_>, seconds: f64, value: Py<PyAny>) -> PyResult<Bound<'_, PyAny>> {
    future_into_py(py, async move {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        Ok(value)
    })
}

#[pyfunction]
fn nothing(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    future_into_py(py, async { Ok(()) })
}

#[pyfunction]
fn fails(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    future_into_py(py, async {
        Err::<(), _>(PyLookupError::new_err("on purpose"))
    })
}

#[pyfunction]
fn panics(py: Python<'_>, panics: bool) -> PyResult<Bound<'_, PyAny>> {
    future_into_py(py, async move {
        if panics {
            panic!("oh no");
        }
        Ok(())
    })
}

/// Awaits a coroutine of Python.
#[pyfunction]
fn relay(py: Python<'_>, object: Py<PyAny>) -> PyResult<Bound<'_, PyAny>> {
    future_into_py(py, async move {
        let future = Python::attach(|py| into_future(object.into_bound(py)))?;
        future.await
    })
}

/// Awaits it with the loop and the context of the caller, from a task of Tokio.
#[pyfunction]
fn relay_with_locals(py: Python<'_>, object: Py<PyAny>) -> PyResult<Bound<'_, PyAny>> {
    let locals = TaskLocals::with_running_loop(py)?.copy_context(py)?;
    let inner = locals.clone_ref(py);
    future_into_py_with_locals(py, locals, async move {
        let future = Python::attach(|py| into_future_with_locals(&inner, object.into_bound(py)))?;
        get_runtime().spawn(future).await.unwrap()
    })
}

/// Awaits it from a task of Tokio that has got the locals by `scope()`.
#[pyfunction]
fn relay_scoped(py: Python<'_>, object: Py<PyAny>) -> PyResult<Bound<'_, PyAny>> {
    let locals = get_current_locals(py)?;
    future_into_py(py, async move {
        let inner = async move {
            let future = Python::attach(|py| {
                get_current_locals(py)?;
                into_future(object.into_bound(py))
            })?;
            future.await
        };
        get_runtime().spawn(scope(locals, inner)).await.unwrap()
    })
}

struct Guard(Arc<Mutex<Vec<&'static str>>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.lock().unwrap().push("dropped");
    }
}

/// What happens to futures.
#[pyclass(frozen)]
struct Log(Arc<Mutex<Vec<&'static str>>>);

#[pymethods]
impl Log {
    #[new]
    fn new() -> Self {
        Self(Arc::default())
    }

    fn events(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }

    /// A future that waits for ever.
    fn for_ever<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let guard = Guard(self.0.clone());
        future_into_py(py, async move {
            let _guard = guard;
            std::future::pending::<PyResult<()>>().await
        })
    }
}

#[pyfunction]
fn current_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    get_current_loop(py)
}

/// Runs a future on a loop that does not run yet.
#[pyfunction]
fn complete(event_loop: Bound<'_, PyAny>, number: u64) -> PyResult<u64> {
    run_until_complete(event_loop, async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(number * 2)
    })
}

/// `run()` makes a loop of its own; gives the name of its class.
#[pyfunction]
fn runs(py: Python<'_>) -> PyResult<String> {
    run(py, async {
        Python::attach(|py| {
            let locals = get_current_locals(py)?;
            Ok(locals.event_loop(py).get_type().name()?.to_string())
        })
    })
}

#[pymodule]
fn async_runtimes(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Log>()?;
    module.add_function(wrap_pyfunction!(sleeps, module)?)?;
    module.add_function(wrap_pyfunction!(nothing, module)?)?;
    module.add_function(wrap_pyfunction!(fails, module)?)?;
    module.add_function(wrap_pyfunction!(panics, module)?)?;
    module.add_function(wrap_pyfunction!(relay, module)?)?;
    module.add_function(wrap_pyfunction!(relay_with_locals, module)?)?;
    module.add_function(wrap_pyfunction!(relay_scoped, module)?)?;
    module.add_function(wrap_pyfunction!(current_loop, module)?)?;
    module.add_function(wrap_pyfunction!(complete, module)?)?;
    module.add_function(wrap_pyfunction!(runs, module)?)
}
