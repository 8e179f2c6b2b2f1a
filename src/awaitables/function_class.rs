//! The class `hybridloop.AsyncFunction`: slots, methods and attributes.

use std::ffi::{c_int, c_void, CStr};
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::Ordering;

use pyo3::exceptions::PyAttributeError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::awaitables::function::{of, Function, TYPE};
use crate::noargs;
use crate::python::typespec::{getset, getset_end, method_end, Slots};
use crate::python::vectorcall::guard;
use crate::python::{FfiResult, Ref};

extern "C" {
    fn PyMethod_New(function: *mut PyObject, slf: *mut PyObject) -> *mut PyObject;
}

const DOC: &CStr =
    c"A function or method written in C, whose calls give coroutines or async generators.";

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    const { assert!(align_of::<Function>() <= 16) };
    let py = module.py();
    if TYPE.load(Ordering::Relaxed).is_null() {
        TYPE.store(make_class(py)?.into_ptr().cast(), Ordering::Relaxed);
    }
    // SAFETY: the type was just made, and lives as long as the process.
    let class = unsafe { Bound::from_borrowed_ptr(py, TYPE.load(Ordering::Relaxed).cast()) };
    module.add("AsyncFunction", class)
}

fn make_class(py: Python<'_>) -> PyResult<Ref> {
    let member = |name: &'static CStr, offset: usize| ffi::PyMemberDef {
        name: name.as_ptr(),
        type_code: ffi::Py_T_PYSSIZET,
        offset: offset.cast_signed(),
        flags: ffi::Py_READONLY,
        doc: ptr::null(),
    };
    let members = vec![
        member(c"__vectorcalloffset__", offset_of!(Function, vectorcall)),
        member(c"__weaklistoffset__", offset_of!(Function, weakrefs)),
    ];
    let methods =
        vec![noargs!(c"__reduce__", reduce).def(c"__reduce__($self, /)\n--\n\nThe name.")];
    let attributes = vec![
        getset(c"__name__", get_name, None),
        getset(c"__qualname__", get_qualname, None),
        getset(c"__module__", get_module, None),
        getset(c"__text_signature__", get_text_signature, None),
        getset(c"__signature__", get_signature, None),
        // With these it passes for a function of Python, and its code tells that it makes coroutines.
        getset(c"__code__", get_code, None),
        getset(c"__defaults__", get_none, None),
        getset(c"__kwdefaults__", get_none, None),
        getset(c"__annotations__", get_annotations, None),
    ];
    // SAFETY: all zeros are a valid `PyMemberDef`, the one that ends a table.
    let members_end = unsafe { std::mem::zeroed() };
    let slots = Slots::default()
        .add(ffi::Py_tp_call, ffi::PyVectorcall_Call as *mut c_void)
        .add(ffi::Py_tp_doc, DOC.as_ptr().cast_mut().cast())
        .add(ffi::Py_tp_getattro, getattro as *mut c_void)
        .add(ffi::Py_tp_descr_get, bind as *mut c_void)
        .add(ffi::Py_tp_repr, repr as *mut c_void)
        .add(ffi::Py_tp_traverse, traverse as *mut c_void)
        .add(ffi::Py_tp_clear, clear as *mut c_void)
        .add(ffi::Py_tp_dealloc, dealloc as *mut c_void)
        .table(ffi::Py_tp_members, members, members_end)
        .table(ffi::Py_tp_methods, methods, method_end())
        .table(ffi::Py_tp_getset, attributes, getset_end());
    let flags = ffi::Py_TPFLAGS_HAVE_VECTORCALL
        | ffi::Py_TPFLAGS_METHOD_DESCRIPTOR
        | ffi::Py_TPFLAGS_IMMUTABLETYPE;
    let name = c"hybridloop.AsyncFunction";
    // SAFETY: `Function` is `repr(C)` and begins with a `PyObject`, and the slots are for objects of this layout.
    unsafe { slots.build(py, name, size_of::<Function>(), flags, None) }
}

/// Attributes. The documentation of a function is not that of the class, which has `__doc__` in its dictionary.
unsafe extern "C" fn getattro(slf: *mut PyObject, name: *mut PyObject) -> *mut PyObject {
    // SAFETY: CPython passes a live receiver of this class, and a string.
    unsafe {
        if ffi::PyUnicode_CompareWithASCIIString(name, c"__doc__".as_ptr()) == 0 {
            return get(slf, |py, this| this.attribute(py, "__doc__"));
        }
        ffi::PyObject_GenericGetAttr(slf, name)
    }
}

/// `__get__`: a bound method, as with functions of Python.
unsafe extern "C" fn bind(
    function: *mut PyObject,
    object: *mut PyObject,
    _class: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: CPython passes live objects; `None` is always live.
    guard(|| unsafe {
        if object.is_null() || object == ffi::Py_None() {
            return Ok(Ref::borrowed(function));
        }
        Ref::new(PyMethod_New(function, object))
    })
}

/// By its name, as functions of C.
unsafe fn reduce(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: CPython calls methods attached, with a live receiver of this class.
    let (py, this) = unsafe { (Python::assume_attached(), of(slf)) };
    match &this.prototype {
        Some(prototype) => Ok(prototype.bind(py).call_method0("__reduce__")?.into()),
        None => Ok(Ref::none()),
    }
}

/// An attribute of the function.
///
/// # Safety
/// `slf` is a live function of this class.
unsafe fn get(
    slf: *mut PyObject,
    make: impl FnOnce(Python<'_>, &Function) -> FfiResult<Ref>,
) -> *mut PyObject {
    // SAFETY: the caller guarantees a function, and CPython calls getters attached.
    guard(|| unsafe { make(Python::assume_attached(), of(slf)) })
}

macro_rules! delegated {
    ($($getter:ident: $name:literal),* $(,)?) => {
        $(unsafe extern "C" fn $getter(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
            // SAFETY: the descriptor has checked the class of the live receiver.
            unsafe { get(slf, |py, this| this.attribute(py, $name)) }
        })*
    };
}

delegated!(
    get_name: "__name__",
    get_qualname: "__qualname__",
    get_text_signature: "__text_signature__",
);

unsafe extern "C" fn get_none(_: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    Ref::none().into_ptr()
}

unsafe extern "C" fn get_annotations(_: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: CPython calls getters attached.
    unsafe { ffi::PyDict_New() }
}

/// The module of the class, for a method.
unsafe extern "C" fn get_module(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: the descriptor has checked the class of the live receiver.
    unsafe {
        get(slf, |py, this| match &this.owner {
            Some(owner) if this.is_method => Ok(owner.bind(py).getattr("__module__")?.into()),
            _ => this.attribute(py, "__module__"),
        })
    }
}

unsafe extern "C" fn get_signature(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: the descriptor has checked the class of the live receiver.
    unsafe {
        get(slf, |py, this| {
            let Some(prototype) = &this.prototype else {
                return Ok(Ref::none());
            };
            if prototype.bind(py).getattr("__text_signature__")?.is_none() {
                let text = "the documentation does not begin with a signature";
                return Err(PyAttributeError::new_err(text).into());
            }
            let signature = py.import("inspect")?.getattr("signature")?;
            Ok(signature.call1((prototype.bind(py),))?.into())
        })
    }
}

/// A code object that tells whether calls make coroutines or async generators.
unsafe extern "C" fn get_code(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: the descriptor has checked the class of the live receiver.
    unsafe {
        get(slf, |py, this| {
            let source = if this.spec.is_generator() {
                c"async def function(*args, **kwargs): yield"
            } else {
                c"async def function(*args, **kwargs): pass"
            };
            let namespace = PyDict::new(py);
            py.run(source, Some(&namespace), None)?;
            let code = namespace
                .as_any()
                .get_item("function")?
                .getattr("__code__")?;
            let names = PyDict::new(py);
            names.set_item("co_filename", "<hybridloop>")?;
            names.set_item("co_name", this.short_name())?;
            names.set_item("co_qualname", this.name.to_string_lossy())?;
            Ok(code.call_method("replace", (), Some(&names))?.into())
        })
    }
}

unsafe extern "C" fn repr(slf: *mut PyObject) -> *mut PyObject {
    // SAFETY: CPython passes a live receiver of this class.
    unsafe {
        get(slf, |py, this| {
            let name = this.attribute(py, "__qualname__")?;
            let text = format!("<async function {}>", name.bind(py).str()?);
            Ok(PyString::new(py, &text).into())
        })
    }
}

unsafe extern "C" fn traverse(
    object: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live function, in an attached thread.
    unsafe {
        let this = of(object);
        let objects = [&this.owner, &this.prototype];
        let stop = visit(ffi::Py_TYPE(object).cast(), arg);
        if stop != 0 {
            return stop;
        }
        for object in objects.into_iter().flatten() {
            let stop = visit(object.as_ptr(), arg);
            if stop != 0 {
                return stop;
            }
        }
    }
    0
}

unsafe extern "C" fn clear(object: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live function that nobody uses, in an attached thread.
    unsafe {
        let this = object.cast::<Function>();
        drop((*this).owner.take());
        drop((*this).prototype.take());
    }
    0
}

unsafe extern "C" fn dealloc(object: *mut PyObject) {
    // SAFETY: CPython passes a function without references. Each field is dropped once, and the memory is freed last.
    unsafe {
        let ty = ffi::Py_TYPE(object);
        let this = object.cast::<Function>();
        ffi::PyObject_GC_UnTrack(object.cast());
        if !(*this).weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(object);
        }
        drop((*this).owner.take());
        drop((*this).prototype.take());
        if let Some(free) = (*ty).tp_free {
            free(object.cast());
        }
        ffi::Py_DECREF(ty.cast());
    }
}
