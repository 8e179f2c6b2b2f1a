//! The C slots and Python methods of coroutine objects.

use std::ffi::{c_int, c_void, CStr};
use std::mem::offset_of;
use std::ptr;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi::{self, PyObject, PySendResult, PyTypeObject};
use pyo3::prelude::*;

use crate::python::awaitable::ITERABLE_COROUTINE;
use crate::python::coroutine::wrapper::CoroutineWrapper;
use crate::python::coroutine::{
    already_executing, of, replace_stop_iteration, reused, thrown, view, CoroutineObject, Kind,
    Operation, Resumed, State,
};
use crate::python::stop_iteration::raise_stop;
use crate::python::typespec::{getset_end, method_end, Slots};
use crate::python::vectorcall::{guard, Method};
use crate::python::{ErrSet, FfiResult, Ref};

/// The slots of a type.
pub fn all<T: Operation>() -> Slots {
    let weakrefs = ffi::PyMemberDef {
        name: c"__weaklistoffset__".as_ptr(),
        type_code: ffi::Py_T_PYSSIZET,
        offset: offset_of!(CoroutineObject<T>, weakrefs).cast_signed(),
        flags: ffi::Py_READONLY,
        doc: ptr::null(),
    };
    // SAFETY: all zeros are a valid `PyMemberDef`, the one that ends a table.
    let members_end = unsafe { std::mem::zeroed() };
    let slots = Slots::default()
        .add(ffi::Py_tp_traverse, traverse::<T> as *mut c_void)
        .add(ffi::Py_tp_clear, clear::<T> as *mut c_void)
        .add(ffi::Py_tp_finalize, finalize::<T> as *mut c_void)
        .add(ffi::Py_tp_dealloc, dealloc::<T> as *mut c_void)
        .add(ffi::Py_am_send, send_slot::<T> as *mut c_void)
        .table(ffi::Py_tp_members, vec![weakrefs], members_end)
        .table(ffi::Py_tp_methods, methods::<T>(), method_end());
    match T::KIND {
        Kind::Coroutine => slots
            .add(ffi::Py_am_await, am_await::<T> as *mut c_void)
            .add(ffi::Py_tp_repr, view::repr::<T> as *mut c_void)
            .table(ffi::Py_tp_getset, view::attributes::<T>(), getset_end()),
        Kind::Iterator => slots
            .add(ffi::Py_tp_iter, return_self as *mut c_void)
            .add(ffi::Py_tp_iternext, next::<T> as *mut c_void),
    }
}

/// Sets the iterator slots of a new type without entries in its dictionary.
///
/// `await` calls `tp_iternext`. With `__next__` and `__iter__` in its dictionary, a coroutine would be an iterator, and
/// Python's coroutines are none.
///
/// # Safety
/// The type was made of the slots of [`all`] for the same operation, and no other thread uses it yet.
pub unsafe fn set_iterator_slots<T: Operation>(ty: *mut PyTypeObject) {
    if T::KIND == Kind::Coroutine {
        // SAFETY: the caller guarantees a type of this operation that no other thread uses yet.
        unsafe {
            (*ty).tp_iternext = Some(next::<T>);
            (*ty).tp_iter = Some(iterate);
        }
    }
}

fn methods<T: Operation>() -> Vec<ffi::PyMethodDef> {
    let mut methods = vec![
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
                PyCFunctionFast: throw_entry::<T>,
            },
            ffi::METH_FASTCALL,
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
    ];
    if T::KIND == Kind::Coroutine {
        methods.push(
            method(
                c"__await__",
                ffi::PyMethodDefPointer { PyCFunction: wrap },
                // It replaces the slot's own wrapper.
                ffi::METH_NOARGS | ffi::METH_COEXIST,
            )
            .def(c"__await__($self, /)\n--\n\nAn iterator that drives the coroutine."),
        );
    }
    methods
}

fn method(name: &'static CStr, meth: ffi::PyMethodDefPointer, flags: c_int) -> Method {
    Method { name, meth, flags }
}

/// `await`: the coroutine is its own iterator.
unsafe extern "C" fn am_await<T: Operation>(slf: *mut PyObject) -> *mut PyObject {
    // SAFETY: `slf` is a live coroutine of `T`: CPython passes the receiver of a slot of its class.
    unsafe {
        if of::<T>(slf).state.get().is_suspended() {
            return guard(|| {
                Err(PyRuntimeError::new_err("coroutine is being awaited already").into())
            });
        }
        return_self(slf)
    }
}

unsafe extern "C" fn return_self(slf: *mut PyObject) -> *mut PyObject {
    // SAFETY: CPython calls slots attached, with a live receiver.
    unsafe {
        ffi::Py_INCREF(slf);
    }
    slf
}

/// `__await__()`, when Python calls it.
unsafe extern "C" fn wrap(slf: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: CPython calls methods attached, with a live receiver.
    guard(|| Ok(CoroutineWrapper::wrap(unsafe { Ref::borrowed(slf) })?))
}

/// `iter(coroutine)`, for `yield from` in a generator that `types.coroutine()` has made. For other code a coroutine is not
/// iterable.
unsafe extern "C" fn iterate(slf: *mut PyObject) -> *mut PyObject {
    guard(|| {
        // SAFETY: CPython calls slots attached. The frame is borrowed, or null if no Python code runs.
        let frame = unsafe {
            let py = Python::assume_attached();
            Bound::from_borrowed_ptr_or_opt(py, ffi::PyEval_GetFrame().cast())
        };
        let flags = match frame {
            Some(frame) => frame.getattr("f_code")?.getattr("co_flags")?.extract()?,
            None => 0,
        };
        // SAFETY: CPython calls slots attached, with a live receiver.
        unsafe {
            if flags & ITERABLE_COROUTINE == 0 {
                let kind = Bound::from_borrowed_ptr(Python::assume_attached(), slf).get_type();
                let text = format!("'{}' object is not iterable", kind.name()?);
                return Err(PyTypeError::new_err(text).into());
            }
            Ok(Ref::borrowed(slf))
        }
    })
}

/// `tp_iternext`, which `await` calls from Python 3.12 to 3.14.
unsafe extern "C" fn next<T: Operation>(slf: *mut PyObject) -> *mut PyObject {
    guard(|| {
        // SAFETY: `slf` is a live coroutine of `T`: CPython passes the receiver of a slot of its class.
        match unsafe { (of::<T>(slf).resume(ffi::Py_None())?, ffi::Py_None()) } {
            (Resumed::Yielded(value), _) => Ok(value),
            // An iterator that ends without an exception returns `None`.
            (Resumed::Returned(value), none) if value.as_ptr() == none => Err(ErrSet),
            (Resumed::Returned(value), _) => Err(raise_stop(&value)),
        }
    })
}

/// `am_send`, which tasks call, and `await` up to Python 3.11 and since 3.15.
unsafe extern "C" fn send_slot<T: Operation>(
    slf: *mut PyObject,
    value: *mut PyObject,
    result: *mut *mut PyObject,
) -> PySendResult {
    let mut returned = false;
    let object = guard(|| {
        // SAFETY: `slf` is a live coroutine of `T`: CPython passes the receiver of a slot of its class.
        let this = unsafe { of::<T>(slf) };
        refuse_value(this, value)?;
        match this.resume(value)? {
            Resumed::Yielded(value) => Ok(value),
            Resumed::Returned(value) => {
                returned = true;
                Ok(value)
            }
        }
    });
    // SAFETY: CPython passes a valid pointer for the result of `am_send`.
    unsafe { *result = object };
    match (object.is_null(), returned) {
        (true, _) => PySendResult::PYGEN_ERROR,
        (false, true) => PySendResult::PYGEN_RETURN,
        (false, false) => PySendResult::PYGEN_NEXT,
    }
}

fn refuse_value<T: Operation>(this: &CoroutineObject<T>, value: *mut PyObject) -> FfiResult<()> {
    // SAFETY: `None` is always live.
    let has_value = value != unsafe { ffi::Py_None() };
    if has_value && T::KIND == Kind::Coroutine && this.state.get() == State::Fresh {
        return Err(
            PyTypeError::new_err("can't send non-None value to a just-started coroutine").into(),
        );
    }
    Ok(())
}

unsafe fn send<T: Operation>(slf: *mut PyObject, value: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live coroutine of `T`: CPython passes the method's receiver, whose class the descriptor has checked.
    let this = unsafe { of::<T>(slf) };
    refuse_value(this, value)?;
    yielded(this.resume(value)?)
}

/// The result of `send()` and `throw()`.
fn yielded(resumed: Resumed) -> FfiResult<Ref> {
    match resumed {
        Resumed::Yielded(value) => Ok(value),
        Resumed::Returned(value) => Err(raise_stop(&value)),
    }
}

/// Raises the exception of the arguments inside of the coroutine.
///
/// Making the exception may run Python, and may fail. A suspended coroutine of Python passes the arguments on to the awaited
/// object while it is running. Since Python 3.15 every coroutine checks its state first. Before, coroutines that are not
/// suspended, and iterators, make the exception first.
unsafe fn throw<T: Operation>(slf: *mut PyObject, arguments: &[*mut PyObject]) -> FfiResult<Ref> {
    thrown::check_count(arguments.len())?;
    // SAFETY: `slf` is a live coroutine of `T`: CPython passes the method's receiver, whose class the descriptor has checked.
    // It keeps the arguments alive.
    let (py, this) = unsafe { (Python::assume_attached(), of::<T>(slf)) };
    let checks_state_first =
        T::KIND == Kind::Coroutine && (cfg!(Py_3_15) || this.state.get().is_suspended());
    let exception = if checks_state_first {
        None
    } else {
        Some(thrown::exception(py, arguments)?)
    };
    let before = this.transition_to_running();
    match before {
        State::Running => return Err(already_executing()),
        State::Finished if T::KIND == Kind::Coroutine => return Err(reused()),
        State::Waiting | State::Awaiting if T::AWAITS => {
            return yielded(this.throw_into(before, arguments)?);
        }
        State::Fresh | State::Waiting | State::Awaiting | State::Finished => {}
    }
    let exception = match exception.map_or_else(|| thrown::exception(py, arguments), Ok) {
        Ok(exception) => exception,
        Err(refused) => {
            // The awaited object raises for bad arguments, which ends the coroutine. One that has not started stays as it is.
            if before.is_suspended() {
                this.end_abandoned();
            } else {
                this.state.replace(before);
            }
            return Err(refused.into());
        }
    };
    match before {
        State::Fresh => this.finish(),
        State::Waiting | State::Awaiting => this.end_abandoned(),
        State::Running | State::Finished => {}
    }
    let error = PyErr::from_value(exception);
    Err(match T::KIND {
        Kind::Coroutine => replace_stop_iteration(py, error).into(),
        Kind::Iterator => error.into(),
    })
}

unsafe fn close<T: Operation>(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live coroutine of `T`: CPython passes the method's receiver, whose class the descriptor has checked.
    let this = unsafe { of::<T>(slf) };
    match this.transition_to_running() {
        State::Running => return Err(already_executing()),
        before @ (State::Waiting | State::Awaiting) if T::AWAITS => {
            return this.close_suspended(before);
        }
        State::Waiting | State::Awaiting => this.end_abandoned(),
        State::Fresh => this.finish(),
        State::Finished => {}
    }
    Ok(Ref::none())
}

// The macros such as `fastcall` cannot make generic functions.

unsafe extern "C" fn send_entry<T: Operation>(
    slf: *mut PyObject,
    value: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: CPython calls methods attached, with a live receiver and argument.
    guard(|| unsafe { send::<T>(slf, value) })
}

unsafe extern "C" fn throw_entry<T: Operation>(
    slf: *mut PyObject,
    arguments: *mut *mut PyObject,
    count: isize,
) -> *mut PyObject {
    guard(|| {
        let arguments = if count == 0 {
            &[]
        } else {
            // SAFETY: CPython passes an array of `count` live arguments.
            unsafe { std::slice::from_raw_parts(arguments, count.unsigned_abs()) }
        };
        // SAFETY: CPython calls methods attached, with a live receiver and arguments.
        unsafe { throw::<T>(slf, arguments) }
    })
}

unsafe extern "C" fn close_entry<T: Operation>(
    slf: *mut PyObject,
    _: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: CPython calls methods attached, with a live receiver.
    guard(|| unsafe { close::<T>(slf) })
}

unsafe extern "C" fn traverse<T: Operation>(
    object: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live coroutine of `T`, in an attached thread.
    unsafe {
        let this = of::<T>(object);
        let mut show = |object: &Ref| visit(object.as_ptr(), arg);
        let stop = visit(ffi::Py_TYPE(object).cast(), arg);
        if stop != 0 {
            return stop;
        }
        let future = this.future.as_ptr().unwrap_or(ptr::null_mut());
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

/// Called by the collector before it clears objects. A running coroutine is reachable, so it is not garbage.
unsafe extern "C" fn finalize<T: Operation>(object: *mut PyObject) {
    // SAFETY: the collector passes a live coroutine of `T`, in an attached thread.
    let this = unsafe { of::<T>(object) };
    if T::AWAITS {
        this.close_unreachable();
    } else {
        this.end();
    }
}

unsafe extern "C" fn clear<T: Operation>(object: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live coroutine of `T`, in an attached thread.
    unsafe { of::<T>(object).end() }
    0
}

unsafe extern "C" fn dealloc<T: Operation>(object: *mut PyObject) {
    // SAFETY: CPython passes a coroutine of `T` without references. Each field is dropped once, and the memory is freed last.
    unsafe {
        let ty = ffi::Py_TYPE(object);
        let this = of::<T>(object);
        ffi::PyObject_GC_UnTrack(object.cast());
        if !this.weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(object);
        }
        if T::AWAITS {
            // What it awaits is closed, and its code runs: a reference to the coroutine may be left behind.
            ffi::PyObject_GC_Track(object.cast());
            if ffi::PyObject_CallFinalizerFromDealloc(object) != 0 {
                return;
            }
            ffi::PyObject_GC_UnTrack(object.cast());
        }
        this.end();
        ptr::drop_in_place(&raw mut (*object.cast::<CoroutineObject<T>>()).future);
        ptr::drop_in_place(&raw mut (*object.cast::<CoroutineObject<T>>()).operation);
        if let Some(free) = (*ty).tp_free {
            free(object.cast());
        }
        ffi::Py_DECREF(ty.cast());
    }
}
