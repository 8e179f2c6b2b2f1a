//! Driving an awaitable in place, as a task does: an ordinary function waits for each future that it yields.

use std::ptr;

use pyo3::exceptions::PyStopIteration;
use pyo3::ffi::{self, PyObject, PySendResult};
use pyo3::prelude::*;

use crate::event_loop::waiting::{Stack, StacksCore};
use crate::python::stdlib::{as_name, Stdlib};
use crate::python::unstable::task_fields;
use crate::python::{ErrSet, FfiResult, Ref};

/// Runs what `await` would run, and returns its result.
///
/// A switch copies what is on the stack that is left. So the functions that a wait is below hold little, and what is done before
/// and after the wait is in functions of their own.
pub fn drive(
    stacks: &Bound<'_, StacksCore>,
    greenlet: &Bound<'_, PyAny>,
    task: &Bound<'_, PyAny>,
    iterator: &Bound<'_, PyAny>,
) -> FfiResult<Ref> {
    let mut error: Option<Ref> = None;
    loop {
        let step = match error.take() {
            None => send_none(iterator)?,
            Some(error) => throw(iterator, error)?,
        };
        let yielded = match step {
            Step::Yielded(yielded) => yielded,
            Step::Returned(value) => return Ok(value),
        };
        error = match begin(stacks, greenlet, task, yielded)? {
            Ok(wait) => {
                let waited = StacksCore::wait_on(stacks, &wait.stack, None);
                end(stacks, task, wait, waited)?
            }
            Err(error) => Some(error),
        };
    }
}

enum Step {
    Yielded(Ref),
    Returned(Ref),
}

#[inline(never)]
fn send_none(iterator: &Bound<'_, PyAny>) -> FfiResult<Step> {
    let mut value = ptr::null_mut();
    // SAFETY: the thread is attached and the objects are live. The call gives a new reference, unless it has raised.
    unsafe {
        match ffi::PyIter_Send(iterator.as_ptr(), ffi::Py_None(), &raw mut value) {
            PySendResult::PYGEN_NEXT => Ref::new(value).map(Step::Yielded),
            PySendResult::PYGEN_RETURN => Ref::new(value).map(Step::Returned),
            PySendResult::PYGEN_ERROR => Err(ErrSet),
        }
    }
}

#[cold]
#[inline(never)]
fn throw(iterator: &Bound<'_, PyAny>, error: Ref) -> FfiResult<Step> {
    let py = iterator.py();
    let error = error.bind(py);
    let Some(throw) = iterator.getattr_opt("throw")? else {
        return Err(PyErr::from_value(error.clone()).into());
    };
    match throw.call1((error,)) {
        Ok(yielded) => Ok(Step::Yielded(yielded.into())),
        Err(stop) if stop.is_instance_of::<PyStopIteration>(py) => {
            Ok(Step::Returned(stop.value(py).getattr("value")?.into()))
        }
        Err(error) => Err(error.into()),
    }
}

/// A wait that has begun.
struct Wait<'py> {
    stack: Bound<'py, Stack>,
    /// What was yielded: a future, or `None`.
    future: Ref,
    /// The handle of the callback, if that is not of a future.
    handle: Ref,
}

/// Has the stack be called when what was yielded is done. Returns the exception to throw if that is nothing to wait for.
#[inline(never)]
fn begin<'py>(
    stacks: &Bound<'py, StacksCore>,
    greenlet: &Bound<'py, PyAny>,
    task: &Bound<'py, PyAny>,
    future: Ref,
) -> FfiResult<Result<Wait<'py>, Ref>> {
    let py = stacks.py();
    let yielded = future.bind(py);
    let event_loop = stacks.get().get_loop(py);
    if !is_to_wait_for(yielded, &event_loop, task)? {
        let error = stacks.call_method1("_bad_yield", (task, yielded))?;
        return Ok(Err(error.into()));
    }
    let stack = Stack::of(stacks, greenlet, task, yielded)?;
    // A new context for each: an idle runner stays inside the one in which it has become idle.
    let handle = call_in_new_context(yielded, &event_loop, &stack)?;
    if !task.is_none() && !yielded.is_none() {
        set_waiter(task, yielded)?;
        if must_cancel(task)? {
            stacks.call_method1("_cancel_future", (task, yielded))?;
        }
    }
    Ok(Ok(Wait {
        stack,
        future,
        handle: handle.into(),
    }))
}

/// Returns the exception to throw.
#[inline(never)]
fn end(
    stacks: &Bound<'_, StacksCore>,
    task: &Bound<'_, PyAny>,
    wait: Wait<'_>,
    waited: FfiResult<()>,
) -> FfiResult<Option<Ref>> {
    let py = stacks.py();
    let future = wait.future.bind(py);
    let in_task = !task.is_none();
    if let Err(raised) = waited {
        let error = PyErr::from(raised).into_value(py).into_bound(py);
        if future.is_none() {
            wait.handle.bind(py).call_method0("cancel")?;
        } else {
            future.call_method1("remove_done_callback", (wait.stack,))?;
        }
        if in_task {
            set_waiter(task, py.None().bind(py))?;
        }
        return Ok(Some(error.into()));
    }
    let mut error = None;
    if !future.is_none() {
        let result = as_name(py, &Stdlib::get().names.result)?;
        if let Err(raised) = future.call_method0(result) {
            error = Some(raised.into_value(py).into_bound(py));
        }
        if in_task {
            set_waiter(task, py.None().bind(py))?;
        }
    }
    if in_task && must_cancel(task)? {
        let cancelled = stacks.call_method1("_cancelled", (task, error))?;
        return Ok(Some(cancelled.into()));
    }
    Ok(error.map(Ref::from))
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
