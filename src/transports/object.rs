//! The objects of all transport classes: their layout, and what Python needs to make and free them.

use std::ffi::{c_int, c_void, CStr};
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::{PyImportError, PyTypeError};
use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::python::typespec::{getset_end, method_end, Slots};
use crate::python::{FfiResult, Ref};
use crate::transports::lifecycle::Transport;

/// A transport: the fields of all classes, and the native state of its class.
#[repr(C)]
struct TransportObject<T> {
    header: Header,
    state: T,
}

#[repr(C)]
struct Header {
    object: PyObject,
    /// `_extra` of `asyncio.BaseTransport`: the dictionary behind `get_extra_info()`.
    extra: *mut PyObject,
    /// `_loop`, `_protocol_paused` and the water marks of `asyncio.transports._FlowControlMixin`. The transport classes define
    /// these attributes themselves. What a program stores here through the descriptors of the base is only kept.
    flow_control: [*mut PyObject; 4],
    weakrefs: *mut PyObject,
    /// `__dict__` of the instance, which Python creates when an attribute is first set.
    dict: AtomicPtr<PyObject>,
}

/// Whether the instance has a `__dict__`, in which functions may stand in for methods.
///
/// # Safety
/// `object` is a live transport.
#[inline]
pub unsafe fn has_instance_dict(object: *mut PyObject) -> bool {
    // SAFETY: the caller guarantees a live transport, which begins with a `Header`.
    unsafe {
        let dict = &(*object.cast::<Header>()).dict;
        !dict.load(Ordering::Relaxed).is_null()
    }
}

/// The state of a transport.
///
/// # Safety
/// `object` is a live transport whose class was made for `T`, or a subclass of it.
#[inline]
pub unsafe fn state<'a, T>(object: *mut PyObject) -> &'a T {
    // SAFETY: the caller guarantees the class, whose objects have this layout.
    unsafe { &(*object.cast::<TransportObject<T>>()).state }
}

/// Makes an object. If that fails, the state is dropped.
///
/// # Safety
/// `ty` is a class that was made for `T`, or a subclass of it.
pub unsafe fn new<T>(ty: *mut PyTypeObject, state: T, extra: Option<Ref>) -> FfiResult<Ref> {
    // SAFETY: the caller guarantees the class, which allocates a zeroed `TransportObject<T>`, or more. No Python runs until the
    // fields are written, so neither the collector nor other code sees the object before that.
    unsafe {
        let Some(alloc) = (*ty).tp_alloc else {
            return Err(PyTypeError::new_err("transports cannot be allocated").into());
        };
        let object = Ref::new(alloc(ty, 0))?;
        let fields = object.as_ptr().cast::<TransportObject<T>>();
        (&raw mut (*fields).state).write(state);
        if let Some(extra) = extra {
            (*fields).header.extra = extra.into_ptr();
        }
        Ok(object)
    }
}

unsafe extern "C" fn traverse<T: Transport>(
    object: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live object of a class that was made for `T`, and stops the threads that could change it.
    unsafe {
        let header = object.cast::<Header>();
        let dict = (*header).dict.load(Ordering::Relaxed);
        let own = [(*header).extra, dict, ffi::Py_TYPE(object).cast()];
        let flow_control = (*header).flow_control;
        let all = own.into_iter().chain(flow_control);
        for field in all.chain(state::<T>(object).objects()) {
            if !field.is_null() {
                let stop = visit(field, arg);
                if stop != 0 {
                    return stop;
                }
            }
        }
    }
    0
}

/// Drops the references of the header.
///
/// # Safety
/// `object` is a transport that is being deallocated, or that the collector has found to be garbage.
unsafe fn clear_header(object: *mut PyObject) {
    // SAFETY: each field is null or an owned reference, and is set to null before the reference is dropped, which may run
    // Python.
    unsafe {
        let header = object.cast::<Header>();
        let dict = (*header).dict.swap(ptr::null_mut(), Ordering::Relaxed);
        ffi::Py_XDECREF(dict);
        ffi::Py_XDECREF(ptr::replace(&raw mut (*header).extra, ptr::null_mut()));
        for index in 0..(*header).flow_control.len() {
            let field = &raw mut (*header).flow_control[index];
            ffi::Py_XDECREF(ptr::replace(field, ptr::null_mut()));
        }
    }
}

unsafe extern "C" fn clear<T: Transport>(object: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live object of a class that was made for `T`, which is garbage.
    unsafe {
        clear_header(object);
        state::<T>(object).clear_references();
    }
    0
}

unsafe extern "C" fn dealloc<T: Transport>(object: *mut PyObject) {
    // SAFETY: CPython calls this when the last reference is gone, after the deallocation of what a subclass adds. Nothing uses
    // the object any more once the loop and the collector do not know it.
    unsafe {
        let ty = ffi::Py_TYPE(object);
        ffi::PyObject_GC_UnTrack(object.cast());
        state::<T>(object).finalize();
        // Weak references call back.
        ffi::PyObject_ClearWeakRefs(object);
        clear_header(object);
        state::<T>(object).clear_references();
        ptr::drop_in_place(&raw mut (*object.cast::<TransportObject<T>>()).state);
        if let Some(free) = (*ty).tp_free {
            free(object.cast());
        }
        ffi::Py_DECREF(ty.cast());
    }
}

/// Makes the transport class with the state `T`, a subclass of `asyncio.transports._FlowControlMixin`.
///
/// # Safety
/// The functions are for objects of this class.
pub unsafe fn make_class<T: Transport>(
    py: Python<'_>,
    name: &'static CStr,
    methods: Vec<ffi::PyMethodDef>,
    mut attributes: Vec<ffi::PyGetSetDef>,
) -> PyResult<Ref> {
    // Python's allocator aligns objects to 16 bytes and no more.
    const { assert!(align_of::<TransportObject<T>>() <= 16) };
    let base = base_class(py)?;
    attributes.push(ffi::PyGetSetDef {
        name: c"__dict__".as_ptr(),
        get: Some(ffi::PyObject_GenericGetDict),
        set: Some(ffi::PyObject_GenericSetDict),
        doc: ptr::null(),
        closure: ptr::null_mut(),
    });
    let member = |name: &'static CStr, offset: usize| ffi::PyMemberDef {
        name: name.as_ptr(),
        type_code: ffi::Py_T_PYSSIZET,
        offset: offset.cast_signed(),
        flags: ffi::Py_READONLY,
        doc: ptr::null(),
    };
    let members = vec![
        member(c"__weaklistoffset__", offset_of!(Header, weakrefs)),
        member(c"__dictoffset__", offset_of!(Header, dict)),
    ];
    // SAFETY: all zeros are a valid `PyMemberDef`, the one that ends a table.
    let members_end = unsafe { std::mem::zeroed() };
    let slots = Slots::default()
        .add(ffi::Py_tp_traverse, traverse::<T> as *mut c_void)
        .add(ffi::Py_tp_clear, clear::<T> as *mut c_void)
        .add(ffi::Py_tp_dealloc, dealloc::<T> as *mut c_void)
        .table(ffi::Py_tp_methods, methods, method_end())
        .table(ffi::Py_tp_getset, attributes, getset_end())
        .table(ffi::Py_tp_members, members, members_end);
    let size = size_of::<TransportObject<T>>();
    // SAFETY: the header begins with the fields of the base, as `base_class` checks. The slots are for this size; the caller
    // guarantees the methods and attributes.
    unsafe { slots.build(py, name, size, ffi::Py_TPFLAGS_BASETYPE, Some(&base)) }
}

/// asyncio's base class of transports with flow control, if this Python lays out its objects as the header does.
fn base_class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let base = py
        .import("asyncio.transports")?
        .getattr("_FlowControlMixin")?
        .cast_into::<PyType>()?;
    let size: usize = base.getattr("__basicsize__")?.extract()?;
    if size != offset_of!(Header, weakrefs) {
        return Err(PyImportError::new_err(format!(
            "unsupported object layout: asyncio.transports._FlowControlMixin has {size} bytes on this Python; please upgrade \
             hybridloop"
        )));
    }
    Ok(base)
}
