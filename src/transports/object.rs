//! What the objects of all transports begin with.

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

/// The first words of a transport. The state of a kind of transports comes behind them.
#[repr(C)]
pub struct Header {
    object: PyObject,
    /// `_extra` of `asyncio.BaseTransport`, the dictionary behind `get_extra_info()`.
    extra: *mut PyObject,
    /// `_loop`, `_protocol_paused` and the water marks of `asyncio.transports._FlowControlMixin`. The classes of transports
    /// answer for these attributes themselves; what somebody puts here by the descriptors of the base is kept, and no more.
    flow_control: [*mut PyObject; 4],
    weak_references: *mut PyObject,
    /// The dictionary of the instance, made by Python when something is first put into it.
    attributes: AtomicPtr<PyObject>,
}

/// Whether the instance has a dictionary, which may have functions in the place of methods.
///
/// # Safety
/// `object` is a live transport.
#[inline]
pub unsafe fn has_instance_dict(object: *mut PyObject) -> bool {
    // SAFETY: the caller's promise; the word is null or a dictionary.
    unsafe {
        let attributes = &(*object.cast::<Header>()).attributes;
        !attributes.load(Ordering::Relaxed).is_null()
    }
}

/// Sets `_extra`.
///
/// # Safety
/// `object` is a transport that was just made and that nobody else has seen.
pub unsafe fn set_extra(object: *mut PyObject, extra: Ref) {
    // SAFETY: the caller's promise: the word is null still.
    unsafe { (*object.cast::<Header>()).extra = extra.into_ptr() };
}

/// Shows the collector the objects of the header, the class, and `more`; null stands for none.
///
/// # Safety
/// The collector's arguments.
pub unsafe fn traverse(
    object: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
    more: impl IntoIterator<Item = *mut PyObject>,
) -> c_int {
    // SAFETY: the collector passes a live transport, and nothing changes it meanwhile.
    unsafe {
        let header = object.cast::<Header>();
        let attributes = (*header).attributes.load(Ordering::Relaxed);
        let own = [(*header).extra, attributes, ffi::Py_TYPE(object).cast()];
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

/// Lets go of the objects of the header.
///
/// # Safety
/// `object` is a transport that is dying, or that the collector has found to be garbage.
pub unsafe fn clear(object: *mut PyObject) {
    // SAFETY: each word is null or a reference of its own, and null before its object may run Python.
    unsafe {
        let header = object.cast::<Header>();
        let attributes = (*header)
            .attributes
            .swap(ptr::null_mut(), Ordering::Relaxed);
        ffi::Py_XDECREF(attributes);
        ffi::Py_XDECREF(ptr::replace(&raw mut (*header).extra, ptr::null_mut()));
        for index in 0..(*header).flow_control.len() {
            let word = &raw mut (*header).flow_control[index];
            ffi::Py_XDECREF(ptr::replace(word, ptr::null_mut()));
        }
    }
}

/// Calls back weak references, and lets go of the objects of the header. This runs Python.
///
/// # Safety
/// `object` is a transport whose last reference is gone, which nothing can find any longer.
pub unsafe fn end(object: *mut PyObject) {
    // SAFETY: the caller's promise.
    unsafe {
        ffi::PyObject_ClearWeakRefs(object);
        clear(object);
    }
}

/// Makes a class of transports.
///
/// # Safety
/// `size` and the functions in `slots` are for objects that begin with a [`Header`].
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
        member(c"__weaklistoffset__", offset_of!(Header, weak_references)),
        member(c"__dictoffset__", offset_of!(Header, attributes)),
    ];
    // SAFETY: all-zero ends a table of members.
    let members_end = unsafe { std::mem::zeroed() };
    let slots = slots
        .table(ffi::Py_tp_methods, methods, method_end())
        .table(ffi::Py_tp_getset, attributes, getset_end())
        .table(ffi::Py_tp_members, members, members_end);
    // SAFETY: the header begins with the words of the base, as `base_class` has checked; the caller's promise.
    unsafe { slots.build(py, name, size, ffi::Py_TPFLAGS_BASETYPE, Some(&base)) }
}

/// asyncio's base class of transports with flow control, if this Python lays out its objects as the header does.
fn base_class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let base = py
        .import("asyncio.transports")?
        .getattr("_FlowControlMixin")?
        .cast_into::<PyType>()?;
    let size: usize = base.getattr("__basicsize__")?.extract()?;
    if size != offset_of!(Header, weak_references) {
        return Err(PyImportError::new_err(format!(
            "asyncio's transport of this Python is laid out in a way that hybridloop does not know ({size} bytes); please \
             upgrade hybridloop"
        )));
    }
    Ok(base)
}
