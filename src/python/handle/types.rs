//! The classes of handles.

use std::ffi::{c_int, c_void, CStr};
use std::mem::{offset_of, size_of};
use std::ptr;
use std::sync::atomic::{AtomicIsize, AtomicPtr, Ordering};

use pyo3::exceptions::PyImportError;
use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::python::handle::{fields, is_plain, HandleObject, FIELDS, PLAIN_FIELDS, RUNNING};
use crate::python::nested_drop;
use crate::python::refs::Ref;
use crate::python::typespec::{getset_end, method_end, Slots};

/// The classes of handles, by the asyncio method that makes them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// For `call_soon()`.
    Plain,
    /// For `call_later()` and `call_at()`.
    Timer,
    /// For `call_soon_threadsafe()`, since Python 3.14: `cancel()` and `cancelled()` wait for the callback if it runs in
    /// another thread.
    ThreadSafe,
}

pub const CLASSES: usize = 3;

static TYPES: [AtomicPtr<PyTypeObject>; CLASSES] =
    [const { AtomicPtr::new(ptr::null_mut()) }; CLASSES];
/// The offset of the list of weak references, the same in all classes.
static WEAKREFS: AtomicIsize = AtomicIsize::new(0);

impl Class {
    #[inline]
    pub fn ty(self) -> *mut PyTypeObject {
        TYPES[self as usize].load(Ordering::Relaxed)
    }

    /// The class of handles of `call_soon_threadsafe()` on this Python.
    #[inline]
    pub fn of_other_threads() -> Self {
        if Self::ThreadSafe.ty().is_null() {
            Self::Plain
        } else {
            Self::ThreadSafe
        }
    }

    /// The name in `asyncio.events`, the native class's name, and the size of asyncio's objects. The native fields are behind
    /// that.
    fn description(self) -> (&'static str, &'static CStr, usize) {
        match self {
            Self::Plain => (
                "Handle",
                c"hybridloop._core.Handle",
                offset_of!(HandleObject, subclass),
            ),
            Self::Timer => (
                "TimerHandle",
                c"hybridloop._core.TimerHandle",
                offset_of!(HandleObject, args),
            ),
            Self::ThreadSafe => (
                "_ThreadSafeHandle",
                c"hybridloop._core._ThreadSafeHandle",
                offset_of!(HandleObject, subclass) + size_of::<*mut PyObject>(),
            ),
        }
    }
}

/// Whether there are weak references to a handle.
///
/// # Safety
/// The handle is live.
pub unsafe fn has_weakrefs(this: *mut HandleObject) -> bool {
    // SAFETY: the caller guarantees a live handle. `make_type` has stored the offset of its class.
    unsafe {
        !this
            .cast::<u8>()
            .offset(WEAKREFS.load(Ordering::Relaxed))
            .cast::<*mut PyObject>()
            .read_unaligned()
            .is_null()
    }
}

unsafe extern "C" fn traverse(
    object: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    let this = object.cast::<HandleObject>();
    // SAFETY: the collector passes a live handle.
    unsafe {
        let fields = fields(this);
        // Nearly all handles are plain, and there may be many.
        let count = if is_plain(this) { PLAIN_FIELDS } else { FIELDS };
        for &field in &fields[..count] {
            if !(*field).is_null() {
                let stop = visit(*field, arg);
                if stop != 0 {
                    return stop;
                }
            }
        }
        visit(ffi::Py_TYPE(object).cast(), arg)
    }
}

unsafe extern "C" fn clear(object: *mut PyObject) -> c_int {
    let this = object.cast::<HandleObject>();
    // SAFETY: the collector or `dealloc` passes a live handle. A handle that runs is reachable and keeps its references.
    unsafe {
        if (*this).has(RUNNING) {
            return 0;
        }
        HandleObject::release(this);
        let event_loop = ptr::replace(&raw mut (*this).event_loop, ptr::null_mut());
        ffi::Py_XDECREF(event_loop);
        if !is_plain(this) {
            drop(take_all(this));
        }
    }
    0
}

/// Takes all references out of a handle.
///
/// # Safety
/// The handle is live, and no other code uses it during the call.
unsafe fn take_all(this: *mut HandleObject) -> [Option<Ref>; FIELDS] {
    // SAFETY: the caller guarantees a live handle. A field that is set is an owned reference, which is moved out.
    unsafe {
        (*this).count = 0;
        fields(this).map(|field| Ref::new(ptr::replace(field, ptr::null_mut())).ok())
    }
}

unsafe extern "C" fn dealloc(object: *mut PyObject) {
    // SAFETY: CPython passes a handle without references. The order of calls is that of CPython's own types.
    unsafe {
        let ty = ffi::Py_TYPE(object);
        ffi::PyObject_GC_UnTrack(object.cast());
        if has_weakrefs(object.cast()) {
            ffi::PyObject_ClearWeakRefs(object);
        }
        let this = object.cast::<HandleObject>();
        if (*this).callback.is_null() && is_plain(this) {
            // It has run or is cancelled: only the loop is still set.
            ffi::Py_XDECREF((*this).event_loop);
        } else if let Some(_level) = nested_drop::enter() {
            clear(object);
        } else {
            nested_drop::defer(take_all(this));
        }
        ffi::PyObject_GC_Del(object.cast());
        ffi::Py_DECREF(ty.cast());
    }
}

/// Makes a class with the given methods and attributes, if this Python has one like it.
pub fn make_type(
    py: Python<'_>,
    class: Class,
    methods: Vec<ffi::PyMethodDef>,
    attributes: Vec<ffi::PyGetSetDef>,
) -> PyResult<Option<Ref>> {
    let (base, name, size) = class.description();
    let Some(base) = py.import("asyncio.events")?.getattr_opt(base)? else {
        return Ok(None);
    };
    let base = base.cast_into::<PyType>()?;
    let found: usize = base.getattr("__basicsize__")?.extract()?;
    if found != size {
        return Err(PyImportError::new_err(format!(
            "unsupported object layout: {base} has {found} bytes on this Python; please upgrade hybridloop"
        )));
    }
    WEAKREFS.store(
        base.getattr("__weakrefoffset__")?.extract()?,
        Ordering::Relaxed,
    );
    // PyType_FromSpec does not inherit this flag.
    #[cfg(Py_3_12)]
    let flags = ffi::Py_TPFLAGS_MANAGED_WEAKREF;
    #[cfg(not(Py_3_12))]
    let flags = 0;
    let slots = Slots::default()
        .add(ffi::Py_tp_traverse, traverse as *mut c_void)
        .add(ffi::Py_tp_clear, clear as *mut c_void)
        .add(ffi::Py_tp_dealloc, dealloc as *mut c_void)
        .table(ffi::Py_tp_methods, methods, method_end())
        .table(ffi::Py_tp_getset, attributes, getset_end());
    // SAFETY: the layout begins with the fields of the base, whose size was just checked.
    let class_object =
        unsafe { slots.build(py, name, size_of::<HandleObject>(), flags, Some(&base)) }?;
    TYPES[class as usize].store(class_object.clone().into_ptr().cast(), Ordering::Relaxed);
    Ok(Some(class_object))
}

/// The native handle of an object, if its class is a native one.
pub fn downcast(object: *mut PyObject) -> Option<*mut HandleObject> {
    // SAFETY: the callers pass a live object.
    let ty = unsafe { ffi::Py_TYPE(object) };
    TYPES
        .iter()
        .any(|known| known.load(Ordering::Relaxed) == ty)
        .then_some(object.cast())
}

/// The class of a handle.
#[inline]
pub fn class_of(handle: *mut HandleObject) -> Class {
    // SAFETY: the callers pass a live handle.
    let ty = unsafe { ffi::Py_TYPE(handle.cast()) };
    if ty == Class::Plain.ty() {
        Class::Plain
    } else if ty == Class::Timer.ty() {
        Class::Timer
    } else {
        Class::ThreadSafe
    }
}
