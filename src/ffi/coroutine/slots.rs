//! The C slots and Python methods of coroutine objects.

use std::ffi::{c_int, c_void, CStr};
use std::mem::offset_of;
use std::ptr;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi::{self, PyObject, PySendResult};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::{
    already_executing, of, reused, Answer, CoroutineObject, Operation, Spare, State, SPARES,
};
use crate::ffi::fastcall::{guard, Method};
use crate::ffi::stop::{raise_stop, release_stop};
use crate::ffi::typespec::{getset, getset_end, method_end, Slots};
use crate::ffi::{Args, Ref, Res};

/// What makes a type a coroutine.
pub fn all<T: Operation>() -> Slots {
    let weakrefs = ffi::PyMemberDef {
        name: c"__weaklistoffset__".as_ptr(),
        type_code: ffi::Py_T_PYSSIZET,
        offset: offset_of!(CoroutineObject<T>, weakrefs).cast_signed(),
        flags: ffi::Py_READONLY,
        doc: ptr::null(),
    };
    // SAFETY: all-zero ends a table of members.
    let members_end = unsafe { std::mem::zeroed() };
    Slots::default()
        .add(ffi::Py_tp_traverse, traverse::<T> as *mut c_void)
        .add(ffi::Py_tp_clear, clear::<T> as *mut c_void)
        .add(ffi::Py_tp_dealloc, dealloc::<T> as *mut c_void)
        .add(ffi::Py_tp_repr, repr::<T> as *mut c_void)
        .add(ffi::Py_tp_iternext, next::<T> as *mut c_void)
        .add(ffi::Py_am_await, awaited::<T> as *mut c_void)
        .add(ffi::Py_am_send, send_slot::<T> as *mut c_void)
        .table(ffi::Py_tp_members, vec![weakrefs], members_end)
        .table(
            ffi::Py_tp_methods,
            vec![
                method(
                    c"send",
                    ffi::PyMethodDefPointer {
                        PyCFunction: send_entry::<T>,
                    },
                    ffi::METH_O,
                )
                .def(c"send($self, value, /)\n--\n\nGo on; raises StopIteration with the result."),
                method(
                    c"throw",
                    ffi::PyMethodDefPointer {
                        PyCFunctionFastWithKeywords: throw_entry::<T>,
                    },
                    ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
                )
                .def(c"throw($self, typ, val=None, tb=None, /)\n--\n\nEnd with an exception."),
                method(
                    c"close",
                    ffi::PyMethodDefPointer {
                        PyCFunction: close_entry::<T>,
                    },
                    ffi::METH_NOARGS,
                )
                .def(c"close($self, /)\n--\n\nEnd without a result."),
            ],
            method_end(),
        )
        .table(
            ffi::Py_tp_getset,
            vec![
                getset(c"__name__", get_name::<T>, None),
                getset(c"__qualname__", get_qualname::<T>, None),
                getset(c"cr_running", get_running::<T>, None),
                getset(c"cr_await", get_await::<T>, None),
            ],
            getset_end(),
        )
}

fn method(name: &'static CStr, meth: ffi::PyMethodDefPointer, flags: c_int) -> Method {
    Method { name, meth, flags }
}

/// `__await__`: the coroutine is its own iterator.
unsafe extern "C" fn awaited<T: Operation>(slf: *mut PyObject) -> *mut PyObject {
    // SAFETY: the slot gets a live coroutine.
    unsafe {
        if of::<T>(slf).state.get() == State::Waiting {
            return guard(|| {
                Err(PyRuntimeError::new_err("coroutine is being awaited already").into())
            });
        }
        ffi::Py_INCREF(slf);
    }
    slf
}

/// What `await` calls since Python 3.12.
unsafe extern "C" fn next<T: Operation>(slf: *mut PyObject) -> *mut PyObject {
    // SAFETY: the slot gets a live coroutine.
    guard(|| match unsafe { of::<T>(slf) }.resume()? {
        Answer::Yielded(value) => Ok(value),
        Answer::Returned(value) => Err(raise_stop(value)),
    })
}

/// What tasks call, and `await` up to Python 3.11.
unsafe extern "C" fn send_slot<T: Operation>(
    slf: *mut PyObject,
    value: *mut PyObject,
    result: *mut *mut PyObject,
) -> PySendResult {
    let mut returned = false;
    let object = guard(|| {
        // SAFETY: the slot gets a live coroutine and a live value.
        let this = unsafe { of::<T>(slf) };
        refuse_value(this, value)?;
        match this.resume()? {
            Answer::Yielded(value) => Ok(value),
            Answer::Returned(value) => {
                returned = true;
                Ok(value)
            }
        }
    });
    // SAFETY: the caller's place for the result.
    unsafe { *result = object };
    match (object.is_null(), returned) {
        (true, _) => PySendResult::PYGEN_ERROR,
        (false, true) => PySendResult::PYGEN_RETURN,
        (false, false) => PySendResult::PYGEN_NEXT,
    }
}

fn refuse_value<T>(this: &CoroutineObject<T>, value: *mut PyObject) -> Res<()> {
    // SAFETY: `None` is always live.
    if this.state.get() == State::Fresh && value != unsafe { ffi::Py_None() } {
        return Err(
            PyTypeError::new_err("can't send non-None value to a just-started coroutine").into(),
        );
    }
    Ok(())
}

unsafe fn send<T: Operation>(slf: *mut PyObject, value: *mut PyObject) -> Res<Ref> {
    // SAFETY: the method descriptor has checked `self`.
    let this = unsafe { of::<T>(slf) };
    refuse_value(this, value)?;
    match this.resume()? {
        Answer::Yielded(value) => Ok(value),
        Answer::Returned(value) => {
            // SAFETY: attached.
            let py = unsafe { Python::assume_attached() };
            let value = value.bind(py).clone().unbind();
            Err(pyo3::exceptions::PyStopIteration::new_err((value,)).into())
        }
    }
}

unsafe fn throw<T: Operation>(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe {
        let py = Python::assume_attached();
        let this = of::<T>(slf);
        let argument = |at: usize| {
            let object = args.positional.get(at).copied()?;
            (object != ffi::Py_None()).then(|| Bound::from_borrowed_ptr(py, object))
        };
        let Some(kind) = argument(0) else {
            return Err(PyTypeError::new_err("throw() needs an exception").into());
        };
        let error = exception_of(&kind, argument(1).as_ref())?;
        if let Some(traceback) = argument(2) {
            ffi::PyException_SetTraceback(error.value(py).as_ptr(), traceback.as_ptr());
        }
        match this.claim() {
            State::Running => Err(already_executing()),
            State::Finished => Err(reused()),
            State::Fresh => {
                this.finish();
                Err(error.into())
            }
            State::Waiting => {
                this.end_abandoned();
                Err(error.into())
            }
        }
    }
}

/// The exception that `throw(kind, value)` means.
fn exception_of(kind: &Bound<'_, PyAny>, value: Option<&Bound<'_, PyAny>>) -> PyResult<PyErr> {
    let py = kind.py();
    let base = py.get_type::<pyo3::exceptions::PyBaseException>();
    if kind.is_instance(&base)? {
        return Ok(PyErr::from_value(kind.clone()));
    }
    let is_class = kind
        .cast::<pyo3::types::PyType>()
        .is_ok_and(|class| class.is_subclass(&base).unwrap_or(false));
    if !is_class {
        return Err(PyTypeError::new_err(format!(
            "exceptions must be classes or instances deriving from BaseException, not {}",
            kind.get_type().name()?
        )));
    }
    let made = match value {
        Some(value) if value.is_instance(kind)? => value.clone(),
        Some(value) => kind.call1((value,))?,
        None => kind.call0()?,
    };
    Ok(PyErr::from_value(made))
}

unsafe fn close<T: Operation>(slf: *mut PyObject) -> Res<Ref> {
    // SAFETY: the method descriptor has checked `self`.
    let this = unsafe { of::<T>(slf) };
    match this.claim() {
        State::Running => return Err(already_executing()),
        State::Waiting => this.end_abandoned(),
        State::Fresh => this.finish(),
        State::Finished => {}
    }
    Ok(Ref::none())
}

// The macros of `fastcall` make functions that cannot be generic.

unsafe extern "C" fn send_entry<T: Operation>(
    slf: *mut PyObject,
    value: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: CPython passes a live `self` and argument.
    guard(|| unsafe { send::<T>(slf, value) })
}

unsafe extern "C" fn throw_entry<T: Operation>(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    n: isize,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: CPython passes what the convention says.
    guard(|| unsafe { throw::<T>(slf, Args::new(args, n, names)) })
}

unsafe extern "C" fn close_entry<T: Operation>(
    slf: *mut PyObject,
    _: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: CPython passes a live `self`.
    guard(|| unsafe { close::<T>(slf) })
}

unsafe extern "C" fn repr<T: Operation>(slf: *mut PyObject) -> *mut PyObject {
    guard(|| {
        // SAFETY: the slot gets a live coroutine.
        unsafe {
            let name = of::<T>(slf).name;
            let py = Python::assume_attached();
            let text = format!("<coroutine object {} at {slf:p}>", name.to_string_lossy());
            Ok(PyString::new(py, &text).into())
        }
    })
}

unsafe extern "C" fn get_qualname<T: Operation>(
    slf: *mut PyObject,
    _: *mut c_void,
) -> *mut PyObject {
    // SAFETY: the descriptor has checked `self`.
    unsafe { ffi::PyUnicode_FromString(of::<T>(slf).name.as_ptr()) }
}

unsafe extern "C" fn get_name<T: Operation>(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    guard(|| {
        // SAFETY: the descriptor has checked `self`.
        let name = unsafe { of::<T>(slf) }.name.to_string_lossy();
        let name = name.rsplit('.').next().unwrap_or_default();
        // SAFETY: attached.
        Ok(PyString::new(unsafe { Python::assume_attached() }, name).into())
    })
}

unsafe extern "C" fn get_running<T: Operation>(
    slf: *mut PyObject,
    _: *mut c_void,
) -> *mut PyObject {
    // SAFETY: the descriptor has checked `self`.
    Ref::bool(unsafe { of::<T>(slf) }.state.get() == State::Running).into_ptr()
}

unsafe extern "C" fn get_await<T: Operation>(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: the descriptor has checked `self`.
    unsafe { of::<T>(slf) }
        .future
        .get()
        .unwrap_or_else(Ref::none)
        .into_ptr()
}

unsafe extern "C" fn traverse<T: Operation>(
    object: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live coroutine.
    unsafe {
        let this = of::<T>(object);
        let mut show = |it: &Ref| visit(it.as_ptr(), arg);
        let stop = visit(ffi::Py_TYPE(object).cast(), arg);
        if stop != 0 {
            return stop;
        }
        let future = this
            .future
            .with(|future| future.as_ref().map_or(ptr::null_mut(), Ref::as_ptr));
        if !future.is_null() {
            let stop = visit(future, arg);
            if stop != 0 {
                return stop;
            }
        }
        this.operation()
            .map_or(0, |operation| operation.traverse(&mut show))
    }
}

unsafe extern "C" fn clear<T: Operation>(object: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live coroutine; one that runs is reachable, so it is not cleared.
    unsafe {
        let this = of::<T>(object);
        match this.claim() {
            State::Waiting => this.end_abandoned(),
            State::Fresh => this.finish(),
            State::Running | State::Finished => {}
        }
    }
    0
}

/// `RuntimeWarning`, as for coroutines of Python.
#[cold]
fn never_awaited(name: &'static CStr) {
    // SAFETY: attached. A warning that became an exception is shown, for want of a caller.
    unsafe {
        let py = Python::assume_attached();
        let error = PyErr::take(py);
        let text = format!("coroutine '{}' was never awaited\0", name.to_string_lossy());
        if ffi::PyErr_WarnEx(ffi::PyExc_RuntimeWarning, text.as_ptr().cast(), 1) != 0 {
            PyErr::fetch(py).write_unraisable(py, None);
        }
        if let Some(error) = error {
            error.restore(py);
        }
    }
}

unsafe extern "C" fn dealloc<T: Operation>(object: *mut PyObject) {
    // SAFETY: the last reference is gone.
    unsafe {
        let ty = ffi::Py_TYPE(object);
        let this = of::<T>(object);
        ffi::PyObject_GC_UnTrack(object.cast());
        if !this.weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(object);
        }
        match this.claim() {
            State::Fresh => {
                never_awaited(this.name);
                this.finish();
            }
            State::Waiting => this.end_abandoned(),
            State::Running | State::Finished => {}
        }
        release_stop();
        ptr::drop_in_place(&raw mut (*object.cast::<CoroutineObject<T>>()).future);
        ptr::drop_in_place(&raw mut (*object.cast::<CoroutineObject<T>>()).operation);
        let class = T::class();
        let kept = !cfg!(Py_GIL_DISABLED)
            && class.spares.with(|spares| {
                let room = spares.len() < SPARES;
                if room {
                    spares.push(Spare(object));
                }
                room
            });
        if !kept {
            if let Some(free) = (*ty).tp_free {
                free(object.cast());
            }
        }
        ffi::Py_DECREF(ty.cast());
    }
}
