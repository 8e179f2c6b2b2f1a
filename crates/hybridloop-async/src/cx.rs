//! What a coroutine can do.

use std::any::Any;
use std::collections::HashMap;
use std::ffi::CStr;
use std::future::Future;
use std::marker::PhantomData;
use std::ptr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::IntoPyObjectExt;

use crate::abi::{table, Spec};
use crate::awaiting::Awaiting;
use crate::cancel::OnCancel;
use crate::sleep::Sleep;
use crate::task::{self, Body, State};

/// The context of a coroutine: what it can await beside futures of Rust.
///
/// It stays in the coroutine's thread; a future that uses it is not `Send`.
#[derive(Clone, Copy, Default)]
pub struct Cx(PhantomData<*const ()>);

impl Cx {
    /// The context of the coroutine that will await the futures made by it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Awaits what `make` gives.
    ///
    /// If it is all that the coroutine waits for, the coroutine drives it itself, as `await` does: in the same task and in the
    /// same context. A cancellation goes into it, and comes back as the error that it then raises. Beside other futures, as in
    /// `join!` or `select!`, a task of asyncio drives it, which is cancelled when the coroutine is cancelled, or the future is
    /// dropped.
    #[allow(clippy::unused_self, reason = "there has to be a coroutine")]
    pub fn awaiting<F>(&self, make: F) -> Awaiting<F>
    where
        F: for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>>,
    {
        Awaiting::new(make)
    }

    /// A timer of the event loop. On a loop that is not asyncio's the coroutine ends with `RuntimeError`.
    #[allow(clippy::unused_self, reason = "there has to be a coroutine")]
    pub fn sleep(&self, duration: Duration) -> Sleep {
        Sleep::new(duration)
    }

    /// A future that ends when the coroutine is cancelled, with the `CancelledError`.
    ///
    /// From when it is first polled until it is dropped, a cancellation does not drop the coroutine's future, and does not go
    /// into Python's awaitables: return the error in the end, or the cancellation is suppressed.
    #[allow(clippy::unused_self, reason = "there has to be a coroutine")]
    pub fn on_cancel(&self) -> OnCancel {
        OnCancel::default()
    }
}

/// Awaits an awaitable of Python, as [`Cx::awaiting`] does.
pub fn await_py(object: Py<PyAny>) -> impl Future<Output = PyResult<Py<PyAny>>> {
    // Says that what is given lives as long as the attachment.
    fn function<F>(f: F) -> F
    where
        F: for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>>,
    {
        f
    }
    Awaiting::new(function(move |py| Ok(object.into_bound(py))))
}

/// The body of a coroutine: the result becomes an object of Python.
pub fn body<T, E>(future: impl Future<Output = Result<T, E>> + 'static) -> Body
where
    T: for<'py> IntoPyObject<'py> + 'static,
    PyErr: From<E>,
{
    Box::pin(async move {
        let value = future.await?;
        Python::attach(|py| {
            // As in functions of PyO3, where it is no empty tuple.
            if (&value as &dyn Any).is::<()>() {
                return Ok(py.None());
            }
            value.into_py_any(py)
        })
    })
}

/// Makes a coroutine of a future. The future is polled first when the coroutine is awaited.
///
/// # Errors
/// `ImportError` if hybridloop is missing or too old.
pub fn into_awaitable<'py, T, E>(
    py: Python<'py>,
    qualname: &'static CStr,
    future: impl Future<Output = Result<T, E>> + 'static,
) -> PyResult<Bound<'py, PyAny>>
where
    T: for<'a> IntoPyObject<'a> + 'static,
    PyErr: From<E>,
{
    let table = table(py)?;
    let mut state = ptr::null_mut();
    // SAFETY: the spec is constant, and the thread is attached. The coroutine is new, so it has no body.
    unsafe {
        let coroutine = (table.new_step)(spec(qualname), &raw mut state);
        let coroutine = Bound::from_owned_ptr_or_err(py, coroutine)?;
        State::fill(state, body(future));
        Ok(coroutine)
    }
}

/// A spec for each name: it has to be constant.
fn spec(qualname: &'static CStr) -> &'static Spec {
    static SPECS: Mutex<Option<HashMap<&'static CStr, &'static Spec>>> = Mutex::new(None);
    let mut specs = SPECS.lock().unwrap_or_else(PoisonError::into_inner);
    specs
        .get_or_insert_default()
        .entry(qualname)
        .or_insert_with(|| Box::leak(Box::new(task::spec(qualname.as_ptr()))))
}
