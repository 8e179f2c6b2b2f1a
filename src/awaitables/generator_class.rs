//! The class of async generators: slots, methods and attributes.

use std::ffi::{c_int, c_void};
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::Ordering;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::awaitables::generator::{of, Generator, State, TYPE};
use crate::awaitables::generator_call::{self, Request};
use crate::python::awaitable::{self, Sent};
use crate::python::coroutine::{code_of, frame_of, last_part};
use crate::python::typespec::{getset, getset_end, method_end, Slots};
use crate::python::vectorcall::guard;
use crate::python::{Args, FfiResult, Ref};
use crate::{fastcall, noargs, onearg};

/// Makes the class, at import.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    const { assert!(align_of::<Generator>() <= 16) };
    generator_call::register(module)?;
    if !TYPE.load(Ordering::Relaxed).is_null() {
        return Ok(());
    }
    let weakrefs = ffi::PyMemberDef {
        name: c"__weaklistoffset__".as_ptr(),
        type_code: ffi::Py_T_PYSSIZET,
        offset: offset_of!(Generator, weakrefs).cast_signed(),
        flags: ffi::Py_READONLY,
        doc: ptr::null(),
    };
    let methods = vec![
        onearg!(c"asend", asend)
            .def(c"asend($self, value, /)\n--\n\nGive a value to the generator; await its next item."),
        fastcall!(c"athrow", athrow)
            .def(c"athrow($self, typ, val=None, tb=None, /)\n--\n\nRaise an exception in the generator; await its next item."),
        noargs!(c"aclose", aclose).def(c"aclose($self, /)\n--\n\nEnd the generator."),
    ];
    let attributes = vec![
        getset(c"__name__", get_name, None),
        getset(c"__qualname__", get_qualname, None),
        getset(c"ag_await", get_await, None),
        getset(c"ag_code", get_code, None),
        getset(c"ag_frame", get_frame, None),
        getset(c"ag_running", get_running, None),
    ];
    // SAFETY: all zeros are a valid `PyMemberDef`, the one that ends a table.
    let members_end = unsafe { std::mem::zeroed() };
    let slots = Slots::default()
        .add(ffi::Py_tp_traverse, traverse as *mut c_void)
        .add(ffi::Py_tp_clear, clear as *mut c_void)
        .add(ffi::Py_tp_finalize, finalize as *mut c_void)
        .add(ffi::Py_tp_dealloc, dealloc as *mut c_void)
        .add(ffi::Py_tp_repr, repr as *mut c_void)
        .add(ffi::Py_am_aiter, aiter as *mut c_void)
        .add(ffi::Py_am_anext, anext as *mut c_void)
        .table(ffi::Py_tp_members, vec![weakrefs], members_end)
        .table(ffi::Py_tp_methods, methods, method_end())
        .table(ffi::Py_tp_getset, attributes, getset_end());
    let name = c"hybridloop._core.StepGenerator";
    // SAFETY: `Generator` is `repr(C)` and begins with a `PyObject`, and the slots are for objects of this layout.
    let class = unsafe { slots.build(module.py(), name, size_of::<Generator>(), 0, None)? };
    TYPE.store(class.into_ptr().cast(), Ordering::Relaxed);
    Ok(())
}

fn call(slf: *mut PyObject, request: Request) -> FfiResult<Ref> {
    // SAFETY: CPython calls methods attached, with a live receiver of this class.
    let generator = unsafe { Ref::borrowed(slf) };
    // SAFETY: the receiver is of this class.
    unsafe { of(slf) }.announce(&generator)?;
    generator_call::new(generator, request)
}

unsafe extern "C" fn aiter(slf: *mut PyObject) -> *mut PyObject {
    // SAFETY: CPython calls slots attached, with a live receiver.
    unsafe { Ref::borrowed(slf) }.into_ptr()
}

unsafe extern "C" fn anext(slf: *mut PyObject) -> *mut PyObject {
    guard(|| call(slf, Request::Next))
}

unsafe fn asend(slf: *mut PyObject, value: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: CPython passes a live argument.
    call(slf, Request::Send(unsafe { Ref::borrowed(value) }))
}

unsafe fn athrow(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: CPython calls methods attached, with live arguments.
    let py = unsafe { Python::assume_attached() };
    if args.has_keywords() {
        return Err(PyTypeError::new_err("athrow() takes no keyword arguments").into());
    }
    call(slf, Request::throw(py, args.positional)?)
}

unsafe fn aclose(slf: *mut PyObject) -> FfiResult<Ref> {
    call(slf, Request::Close)
}

/// An attribute of the generator.
///
/// # Safety
/// `slf` is a live generator of this class.
unsafe fn get(
    slf: *mut PyObject,
    make: impl FnOnce(Python<'_>, &Generator) -> FfiResult<Ref>,
) -> *mut PyObject {
    // SAFETY: the caller guarantees a generator, and CPython calls getters attached.
    guard(|| unsafe { make(Python::assume_attached(), of(slf)) })
}

unsafe extern "C" fn get_name(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: the descriptor has checked the class of the live receiver.
    unsafe {
        get(slf, |py, this| {
            Ok(PyString::new(py, &last_part(this.name)).into())
        })
    }
}

unsafe extern "C" fn get_qualname(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: the descriptor has checked the class of the live receiver.
    unsafe {
        get(slf, |py, this| {
            Ok(PyString::new(py, &this.name.to_string_lossy()).into())
        })
    }
}

/// What the call that runs awaits.
unsafe extern "C" fn get_await(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: the descriptor has checked the class of the live receiver. A call that runs is live.
    unsafe {
        get(slf, |py, this| {
            let call = this.call.get().cast::<PyObject>().cast_mut();
            if call.is_null() {
                return Ok(Ref::none());
            }
            let call = Ref::borrowed(call);
            Ok(call.bind(py).getattr("cr_await")?.into())
        })
    }
}

unsafe extern "C" fn get_code(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: the descriptor has checked the class of the live receiver.
    unsafe { get(slf, |py, this| Ok(code_of(py, this.name)?.into())) }
}

unsafe extern "C" fn get_frame(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: the descriptor has checked the class of the live receiver.
    unsafe {
        get(slf, |py, this| match this.state() {
            State::Closed | State::Ignored => Ok(Ref::none()),
            _ => Ok(frame_of(py, this.name)?.into()),
        })
    }
}

unsafe extern "C" fn get_running(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: the descriptor has checked the class of the live receiver.
    unsafe { get(slf, |_, this| Ok(Ref::bool(this.state() == State::Running))) }
}

unsafe extern "C" fn repr(slf: *mut PyObject) -> *mut PyObject {
    // SAFETY: CPython passes a live receiver of this class.
    unsafe {
        get(slf, |py, this| {
            let name = this.name.to_string_lossy();
            let text = format!("<async_generator object {name} at {slf:p}>");
            Ok(PyString::new(py, &text).into())
        })
    }
}

unsafe extern "C" fn traverse(
    object: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live generator, in an attached thread.
    unsafe {
        let this = of(object);
        let stop = visit(ffi::Py_TYPE(object).cast(), arg);
        if stop != 0 {
            return stop;
        }
        if let Some(finalizer) = this.finalizer.as_ptr() {
            let stop = visit(finalizer, arg);
            if stop != 0 {
                return stop;
            }
        }
        let mut show = |object: &Ref| visit(object.as_ptr(), arg);
        this.body().map_or(0, |body| body.traverse(&mut show))
    }
}

/// Ends a generator that nobody can reach any more. An exception that is set stays.
unsafe extern "C" fn finalize(object: *mut PyObject) {
    // SAFETY: CPython passes a live generator, in an attached thread.
    let (py, this) = unsafe { (Python::assume_attached(), of(object)) };
    let state = this.state();
    if matches!(state, State::Closed | State::Ignored | State::Running) {
        return;
    }
    let error = PyErr::take(py);
    // SAFETY: the object is live.
    let slf = unsafe { Ref::borrowed(object) };
    let finished = match this.finalizer.take() {
        Some(finalizer) => finalizer.bind(py).call1((slf.bind(py),)).map(drop),
        None if state == State::Suspended => close_now(&slf).map_err(PyErr::from),
        None => Ok(()),
    };
    if let Err(raised) = finished {
        raised.write_unraisable(py, Some(slf.bind(py)));
    }
    if let Some(error) = error {
        error.restore(py);
    }
}

/// Closes a generator without an event loop: it cannot wait.
fn close_now(slf: &Ref) -> FfiResult<()> {
    let call = generator_call::new(slf.clone(), Request::Close)?;
    // SAFETY: `None` is always live.
    match awaitable::send(&call, unsafe { ffi::Py_None() }) {
        Sent::Returned(_) => Ok(()),
        Sent::Raised(raised) => Err(raised),
        Sent::Yielded(_) => {
            awaitable::close(&call)?;
            Err(PyRuntimeError::new_err("async generator ignored GeneratorExit").into())
        }
    }
}

unsafe extern "C" fn clear(object: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live generator that nobody uses, in an attached thread.
    let this = unsafe { of(object) };
    drop(this.finalizer.take());
    this.close();
    0
}

unsafe extern "C" fn dealloc(object: *mut PyObject) {
    // SAFETY: CPython passes a generator without references. Each field is dropped once, and the memory is freed last.
    unsafe {
        let ty = ffi::Py_TYPE(object);
        let this = of(object);
        ffi::PyObject_GC_UnTrack(object.cast());
        if !this.weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(object);
        }
        ffi::PyObject_GC_Track(object.cast());
        if ffi::PyObject_CallFinalizerFromDealloc(object) != 0 {
            return;
        }
        ffi::PyObject_GC_UnTrack(object.cast());
        this.close();
        Generator::drop_fields(object);
        if let Some(free) = (*ty).tp_free {
            free(object.cast());
        }
        ffi::Py_DECREF(ty.cast());
    }
}
