//! The layout that the objects of all transport classes begin with.

use std::ffi::{c_int, c_void};
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::PyImportError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::python::typespec::{getset_end, method_end, Slots};
use crate::python::Ref;

/// The first fields of a transport object. The native state of its class follows.
#[repr(C)]
pub struct Header {
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

/// Sets `_extra`.
///
/// # Safety
/// `object` is a transport that was just allocated, and that no other code has seen.
pub unsafe fn set_extra(object: *mut PyObject, extra: Ref) {
    // SAFETY: the caller guarantees that nobody else uses the object. Its memory is zeroed, so there is nothing to drop.
    unsafe { (*object.cast::<Header>()).extra = extra.into_ptr() };
}

/// `tp_traverse`: visits the objects of the header, the class, and `more`, where null stands for none.
///
/// # Safety
/// `object` is a live transport, and `visit` and `arg` are the arguments of `tp_traverse`.
pub unsafe fn traverse(
    object: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
    more: impl IntoIterator<Item = *mut PyObject>,
) -> c_int {
    // SAFETY: the caller guarantees a live transport, which begins with a `Header`; the collector stops the threads that could
    // change it.
    unsafe {
        let header = object.cast::<Header>();
        let dict = (*header).dict.load(Ordering::Relaxed);
        let own = [(*header).extra, dict, ffi::Py_TYPE(object).cast()];
        let flow_control = (*header).flow_control;
        for field in own.into_iter().chain(flow_control).chain(more) {
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

/// `tp_clear`: drops the references of the header.
///
/// # Safety
/// `object` is a transport that is being deallocated, or that the collector has found to be garbage.
pub unsafe fn clear(object: *mut PyObject) {
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

/// The part of `tp_dealloc` that runs Python: calls back weak references, and drops the references of the header.
///
/// # Safety
/// `object` is a transport without references, which the loop and the collector cannot find any more.
pub unsafe fn dealloc(object: *mut PyObject) {
    // SAFETY: the caller guarantees that the object is being deallocated. The offset of its weak references is that of the
    // type.
    unsafe {
        ffi::PyObject_ClearWeakRefs(object);
        clear(object);
    }
}

/// Makes a transport class, a subclass of `asyncio.transports._FlowControlMixin`.
///
/// # Safety
/// The objects are `size` bytes long and begin with a [`Header`], and the functions in `slots` are for them.
pub unsafe fn make_class(
    py: Python<'_>,
    name: &'static std::ffi::CStr,
    size: usize,
    slots: Slots,
    methods: Vec<ffi::PyMethodDef>,
    mut attributes: Vec<ffi::PyGetSetDef>,
) -> PyResult<Ref> {
    let base = base_class(py)?;
    attributes.push(ffi::PyGetSetDef {
        name: c"__dict__".as_ptr(),
        get: Some(ffi::PyObject_GenericGetDict),
        set: Some(ffi::PyObject_GenericSetDict),
        doc: ptr::null(),
        closure: ptr::null_mut(),
    });
    let member = |name: &'static std::ffi::CStr, offset: usize| ffi::PyMemberDef {
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
    let slots = slots
        .table(ffi::Py_tp_methods, methods, method_end())
        .table(ffi::Py_tp_getset, attributes, getset_end())
        .table(ffi::Py_tp_members, members, members_end);
    // SAFETY: the header begins with the fields of the base, as `base_class` checks; the caller guarantees size and slots.
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
