//! `create_task()` and `create_future()`.

use std::ffi::CStr;
use std::ptr;

use pyo3::ffi::{self, PyObject};

use crate::event_loop::LoopCore;
use crate::python::stdlib::{current, Stdlib};
use crate::python::{Args, FfiResult, Ref};

pub unsafe fn create_future(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked.
    unsafe { LoopCore::of(slf).new_future(slf) }
}

/// `create_task(coro, **kwargs)`: calls `asyncio.Task` directly, from Python 3.14 on also the task factory. The inherited method
/// is called in debug mode, for unusual arguments, and for a task factory of an earlier release, which does more than to call it.
pub unsafe fn create_task(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    const MAX_KEYWORDS: usize = 3;
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe {
        let core = LoopCore::of(slf);
        let stdlib = Stdlib::get();
        let keywords = args.keyword_count();
        let is_usual = args.positional.len() == 1 && !core.is_debug() && !core.is_closed();
        if let Some(factory) = core.task_factory.get() {
            if cfg!(Py_3_14) && is_usual {
                return match &stdlib.eager_factory {
                    Some((eager, class)) if factory.as_ptr() == eager.as_ptr() && keywords == 0 => {
                        new_eager_task(class, args.positional[0], slf, ffi::Py_True())
                    }
                    _ => args.call_method(factory.as_ptr(), slf),
                };
            }
            return args.call_method(stdlib.base_create_task.as_ptr(), slf);
        }
        if !is_usual
            || keywords > MAX_KEYWORDS
            // The inherited method checks other keywords.
            || !args.keywords().all(|(keyword, _)| is_of_task(keyword))
        {
            return args.call_method(stdlib.base_create_task.as_ptr(), slf);
        }
        let class = current(&stdlib.tasks, &stdlib.names.Task)?;
        if let (1, Some((name, value))) = (keywords, args.keywords().next()) {
            // Names of keywords in a program are interned.
            if name == stdlib.names.eager_start.as_ptr() {
                return new_eager_task(&class, args.positional[0], slf, value);
            }
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
            class.as_ptr(),
            values.as_ptr().add(1),
            1 | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            names.as_ptr(),
        ))
    }
}

/// `Task(coro, loop=loop, eager_start=eager_start)`.
unsafe fn new_eager_task(
    class: &Ref,
    coroutine: *mut PyObject,
    event_loop: *mut PyObject,
    eager_start: *mut PyObject,
) -> FfiResult<Ref> {
    // SAFETY: the caller is a method of the loop, called attached and keeps the objects alive during the call. The values of the two
    // keywords follow the positional argument, in front of which is a scratch slot.
    unsafe {
        let values = [ptr::null_mut(), coroutine, event_loop, eager_start];
        Ref::new(ffi::PyObject_Vectorcall(
            class.as_ptr(),
            values.as_ptr().add(1),
            1 | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            Stdlib::get().eager_keywords.as_ptr(),
        ))
    }
}

/// Whether `create_task()` passes the keyword on to `asyncio.Task`.
#[inline]
fn is_of_task(keyword: *mut PyObject) -> bool {
    let names: &[&CStr] = if cfg!(Py_3_14) {
        &[c"name", c"context", c"eager_start"]
    } else {
        &[c"name", c"context"]
    };
    // SAFETY: CPython passes names of keywords as live strings.
    names
        .iter()
        .any(|name| unsafe { ffi::PyUnicode_CompareWithASCIIString(keyword, name.as_ptr()) } == 0)
}
