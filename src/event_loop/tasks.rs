//! `create_task()` and `create_future()`.

use std::ptr;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::event_loop::LoopCore;
use crate::python::stdlib::{current, Stdlib};
use crate::python::{Args, FfiResult, Ref};

pub unsafe fn create_future(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked.
    unsafe { LoopCore::of(slf).new_future(slf) }
}

/// `create_task(coro, **kwargs)`: calls `asyncio.Task` directly. The inherited method is called if a task factory is set, in
/// debug mode, and for unusual arguments.
pub unsafe fn create_task(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    const MAX_KEYWORDS: usize = 2;
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe {
        let core = LoopCore::of(slf);
        let stdlib = Stdlib::get();
        let keywords = args.keyword_count();
        if args.positional.len() != 1
            || keywords > MAX_KEYWORDS
            // The inherited method checks other keywords.
            || !args.keywords().all(|(keyword, _)| is_name_or_context(keyword))
            || core.is_debug()
            || core.is_closed()
            || core.task_factory.is_some()
        {
            return inherited_create_task(slf, &args);
        }
        // The arguments of the vectorcall: a scratch slot, the coroutine, then `loop` and the caller's keyword values.
        let mut values = [ptr::null_mut(); MAX_KEYWORDS + 3];
        values[1] = args.positional[0];
        values[2] = slf;
        let names = if keywords == 0 {
            stdlib.loop_keyword.clone()
        } else {
            let names = Ref::new(ffi::PyTuple_New((keywords + 1).cast_signed()))?;
            ffi::PyTuple_SET_ITEM(
                names.as_ptr(),
                0,
                Ref::borrowed(ffi::PyTuple_GET_ITEM(stdlib.loop_keyword.as_ptr(), 0)).into_ptr(),
            );
            for (i, (name, value)) in args.keywords().enumerate() {
                values[i + 3] = value;
                ffi::PyTuple_SET_ITEM(
                    names.as_ptr(),
                    (i + 1).cast_signed(),
                    Ref::borrowed(name).into_ptr(),
                );
            }
            names
        };
        Ref::new(ffi::PyObject_Vectorcall(
            current(&stdlib.tasks, &stdlib.names.Task)?.as_ptr(),
            values.as_ptr().add(1),
            1 | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            names.as_ptr(),
        ))
    }
}

#[inline]
fn is_name_or_context(keyword: *mut PyObject) -> bool {
    // SAFETY: CPython passes names of keywords as live strings.
    [c"name", c"context"]
        .iter()
        .any(|name| unsafe { ffi::PyUnicode_CompareWithASCIIString(keyword, name.as_ptr()) } == 0)
}

#[cold]
unsafe fn inherited_create_task(slf: *mut PyObject, args: &Args<'_>) -> FfiResult<Ref> {
    // SAFETY: the caller is a method of the live `LoopCore` `slf`; CPython calls it attached and keeps its arguments alive.
    unsafe {
        let py = Python::assume_attached();
        let kwargs = pyo3::types::PyDict::new(py);
        for (name, value) in args.keywords() {
            kwargs.set_item(
                Bound::from_borrowed_ptr(py, name),
                Bound::from_borrowed_ptr(py, value),
            )?;
        }
        let positional = std::iter::once(slf)
            .chain(args.positional.iter().copied())
            .map(|object| Bound::from_borrowed_ptr(py, object));
        let positional = pyo3::types::PyTuple::new(py, positional.collect::<Vec<_>>())?;
        Ok(Stdlib::get()
            .base_create_task
            .bind(py)
            .call(positional, Some(&kwargs))?
            .into())
    }
}
