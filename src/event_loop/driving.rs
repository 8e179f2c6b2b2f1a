//! Driving an awaitable in place, as a task does: an ordinary function waits for each future that it yields.

use std::ptr;

use pyo3::ffi::{self, PyObject, PySendResult};
use pyo3::prelude::*;

use crate::event_loop::waiting::{Stack, StacksCore};
use crate::python::stdlib::{as_name, Stdlib};
use crate::python::unstable::task_fields;
use crate::python::{FfiResult, Ref};

/// Runs what `await` would run, and returns its result.
pub fn drive<'py>(
    stacks: &Bound<'py, StacksCore>,
    greenlet: &Bound<'py, PyAny>,
    task: &Bound<'py, PyAny>,
    iterator: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut error: Option<PyErr> = None;
    loop {
        let yielded = match error.take() {
            None => match send_none(iterator) {
                Sent::Yielded(yielded) => yielded,
                Sent::Returned(value) => return Ok(value),
                Sent::Raised(error) => return Err(error),
            },
            Some(error) => match throw(iterator, error)? {
                Ok(yielded) => yielded,
                Err(value) => return Ok(value),
            },
        };
        error = wait_for(stacks, greenlet, task, &yielded)?;
    }
}

enum Sent<'py> {
    Yielded(Bound<'py, PyAny>),
    Returned(Bound<'py, PyAny>),
    Raised(PyErr),
}

fn send_none<'py>(iterator: &Bound<'py, PyAny>) -> Sent<'py> {
    let py = iterator.py();
    let mut value = ptr::null_mut();
    // SAFETY: the thread is attached and the objects are live. The call gives a new reference, unless it has raised.
    unsafe {
        match ffi::PyIter_Send(iterator.as_ptr(), ffi::Py_None(), &raw mut value) {
            PySendResult::PYGEN_NEXT => Sent::Yielded(Bound::from_owned_ptr(py, value)),
            PySendResult::PYGEN_RETURN => Sent::Returned(Bound::from_owned_ptr(py, value)),
            PySendResult::PYGEN_ERROR => Sent::Raised(PyErr::fetch(py)),
        }
    }
}

/// What is yielded, or returned.
fn throw<'py>(
    iterator: &Bound<'py, PyAny>,
    error: PyErr,
) -> PyResult<Result<Bound<'py, PyAny>, Bound<'py, PyAny>>> {
    let py = iterator.py();
    let Some(throw) = iterator.getattr_opt("throw")? else {
        return Err(error);
    };
    match throw.call1((error.into_value(py),)) {
        Ok(yielded) => Ok(Ok(yielded)),
        Err(stop) if stop.is_instance_of::<pyo3::exceptions::PyStopIteration>(py) => {
            Ok(Err(stop.value(py).getattr("value")?))
        }
        Err(error) => Err(error),
    }
}

/// Waits for what was yielded. Returns the exception to throw.
fn wait_for<'py>(
    stacks: &Bound<'py, StacksCore>,
    greenlet: &Bound<'py, PyAny>,
    task: &Bound<'py, PyAny>,
    yielded: &Bound<'py, PyAny>,
) -> PyResult<Option<PyErr>> {
    let py = stacks.py();
    let event_loop = stacks.get().get_loop(py);
    if !is_to_wait_for(yielded, &event_loop, task)? {
        let error = stacks.call_method1("_bad_yield", (task, yielded))?;
        return Ok(Some(PyErr::from_value(error)));
    }
    let stack = Stack::of(stacks, greenlet, task, yielded)?;
    let in_task = !task.is_none();
    // A new context for each: an idle runner stays inside the one in which it has become idle.
    let handle = call_in_new_context(yielded, &event_loop, &stack)?;
    if in_task && !yielded.is_none() {
        set_waiter(task, yielded)?;
        if must_cancel(task)? {
            stacks.call_method1("_cancel_future", (task, yielded))?;
        }
    }
    let mut error = None;
    if let Err(raised) = StacksCore::wait(stacks, &stack, None) {
        error = Some(raised);
        if yielded.is_none() {
            handle.call_method0("cancel")?;
        } else {
            yielded.call_method1("remove_done_callback", (&stack,))?;
        }
        if in_task {
            set_waiter(task, py.None().bind(py))?;
        }
        return Ok(error);
    }
    if !yielded.is_none() {
        let result = as_name(py, &Stdlib::get().names.result)?;
        error = yielded.call_method0(result).err();
        if in_task {
            set_waiter(task, py.None().bind(py))?;
        }
    }
    if in_task && must_cancel(task)? {
        let error = error.map(|error| error.into_value(py));
        let cancelled = stacks.call_method1("_cancelled", (task, error))?;
        return Ok(Some(PyErr::from_value(cancelled)));
    }
    Ok(error)
}

/// Whether it is `None`, which gives way for one iteration, or a future that `await` has yielded.
fn is_to_wait_for(
    yielded: &Bound<'_, PyAny>,
    event_loop: &Bound<'_, PyAny>,
    task: &Bound<'_, PyAny>,
) -> PyResult<bool> {
    if yielded.is_none() {
        return Ok(true);
    }
    let (py, names) = (yielded.py(), &Stdlib::get().names);
    let name = as_name(py, &names._asyncio_future_blocking)?;
    let Some(blocking) = yielded.getattr_opt(name)? else {
        return Ok(false);
    };
    if yielded.is(task)
        || !blocking.is_truthy()?
        || !yielded
            .call_method0(as_name(py, &names.get_loop)?)?
            .is(event_loop)
    {
        return Ok(false);
    }
    yielded.setattr(name, false)?;
    Ok(true)
}

/// `loop.call_soon(stack, context=Context())` or `future.add_done_callback(stack, context=Context())`.
fn call_in_new_context<'py>(
    yielded: &Bound<'py, PyAny>,
    event_loop: &Bound<'py, PyAny>,
    stack: &Bound<'py, Stack>,
) -> PyResult<Bound<'py, PyAny>> {
    let names = &Stdlib::get().names;
    let (name, object) = if yielded.is_none() {
        (&names.call_soon, event_loop)
    } else {
        (&names.add_done_callback, yielded)
    };
    let context = new_context()?;
    let arguments: [*mut PyObject; 3] = [object.as_ptr(), stack.as_ptr(), context.as_ptr()];
    // SAFETY: the thread is attached, and all objects are live during the call. The value of the one keyword follows the two
    // positional arguments. The result is a new reference or null.
    let result = unsafe {
        Ref::new(ffi::PyObject_VectorcallMethod(
            name.as_ptr(),
            arguments.as_ptr(),
            2,
            Stdlib::get().context_keyword.as_ptr(),
        ))
    }?;
    Ok(result.bind(yielded.py()).clone())
}

fn new_context() -> FfiResult<Ref> {
    // SAFETY: the thread is attached. The result is a new reference or null.
    unsafe { Ref::new(ffi::PyContext_New()) }
}

/// Sets the future that a task waits for: `task.cancel()` cancels it.
fn set_waiter(task: &Bound<'_, PyAny>, future: &Bound<'_, PyAny>) -> PyResult<()> {
    if task_fields::try_set_waiter(task, future) {
        return Ok(());
    }
    task.setattr("_fut_waiter", future)
}

/// Whether a cancellation of the task is still to be delivered.
fn must_cancel(task: &Bound<'_, PyAny>) -> PyResult<bool> {
    let name = as_name(task.py(), &Stdlib::get().names._must_cancel)?;
    task.getattr(name)?.is_truthy()
}
