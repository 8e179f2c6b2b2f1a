//! `hybridloop.AsyncFunction`: functions and methods whose coroutines and async generators are written in C.

use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::{PyAttributeError, PyImportError, PyTypeError};
use pyo3::ffi::{self, PyObject, PyTypeObject, Py_ssize_t};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyType};

use crate::awaitables::returned::{no_exception, occurred, raise, with_cause};
use crate::awaitables::step::{Checked, Spec, Steps};
use crate::awaitables::{generator, step};
use crate::noargs;
use crate::python::coroutine::operation;
use crate::python::typespec::{getset, getset_end, method_end, Slots};
use crate::python::vectorcall::guard;
use crate::python::{FfiResult, Ref};

extern "C" {
    fn PyMethod_New(function: *mut PyObject, slf: *mut PyObject) -> *mut PyObject;
}

type Init = unsafe extern "C" fn(
    *mut c_void,
    *mut PyObject,
    *const *mut PyObject,
    Py_ssize_t,
    *mut PyObject,
) -> c_int;

/// `hla_function`
#[repr(C)]
pub struct Definition {
    name: *const c_char,
    spec: *const Spec,
    doc: *const c_char,
    init: Option<Init>,
}

/// A coroutine or an async generator.
pub struct Made {
    pub object: Ref,
    is_generator: bool,
}

impl Made {
    pub fn new(spec: Checked, name: &'static CStr) -> FfiResult<Self> {
        let is_generator = spec.is_generator();
        let object = if is_generator {
            generator::new(spec, name)?
        } else {
            step::new(spec, name)?
        };
        Ok(Self {
            object,
            is_generator,
        })
    }

    /// The state of the program.
    pub fn state(&self) -> *mut c_void {
        let object = self.object.as_ptr();
        // SAFETY: `new` has made the object, which nobody else has yet.
        unsafe {
            if self.is_generator {
                generator::of(object).user_state()
            } else {
                operation::<Steps>(object).map_or(ptr::null_mut(), |steps| steps.body.state())
            }
        }
    }

    /// The call that has made it fails.
    fn give_up(&self) {
        // SAFETY: `new` has made the object, which nobody else has.
        if let (false, Ok(steps)) = (self.is_generator, unsafe {
            operation::<Steps>(self.object.as_ptr())
        }) {
            steps.has_failed.set(true);
        }
    }
}

#[repr(C)]
struct Function {
    ob_base: PyObject,
    vectorcall: ffi::vectorcallfunc,
    weakrefs: *mut PyObject,
    spec: Checked,
    init: Option<Init>,
    /// The qualified name of what it makes.
    name: &'static CStr,
    /// The class of `self`, for a method; otherwise the module, which is `self`.
    owner: Option<Ref>,
    is_method: bool,
    /// A function of C with the same name and documentation, which answers for them.
    prototype: Option<Ref>,
}

static TYPE: AtomicPtr<PyTypeObject> = AtomicPtr::new(ptr::null_mut());

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
        getset(c"__doc__", get_doc, None),
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

/// Adds the functions of a table to a module.
///
/// # Safety
/// The table is null or constant, and ends with a null name.
pub unsafe fn add_functions(module: &Ref, table: *const Definition) -> FfiResult<()> {
    // SAFETY: the holder of a `Ref` is attached. The caller guarantees the table.
    unsafe {
        let py = Python::assume_attached();
        let owner = module.bind(py).cast::<PyModule>().map_err(PyErr::from)?;
        let owner_name = owner.name()?;
        for_each(table, |definition, name| {
            let prototype = Ref::new(ffi::PyCFunction_NewEx(
                prototype(definition),
                module.as_ptr(),
                owner_name.as_ptr(),
            ))?;
            let function = new(definition, name, module.clone(), false, prototype)?;
            Ok(owner.setattr(text(name)?, function.bind(py))?)
        })
    }
}

/// Adds the methods of a table to a class.
///
/// # Safety
/// The table is null or constant, and ends with a null name.
pub unsafe fn add_methods(class: &Ref, table: *const Definition) -> FfiResult<()> {
    // SAFETY: the holder of a `Ref` is attached. The caller guarantees the table.
    unsafe {
        let py = Python::assume_attached();
        let owner = class.bind(py).cast::<PyType>().map_err(PyErr::from)?;
        let owner_name = owner.qualname()?.to_string();
        for_each(table, |definition, name| {
            let method = text(name)?;
            let prototype = Ref::new(ffi::PyDescr_NewMethod(
                class.as_ptr().cast(),
                prototype(definition),
            ))?;
            let qualname = CString::new(format!("{owner_name}.{method}")).map_err(PyErr::from)?;
            // As constant as the table.
            let qualname = Box::leak(qualname.into_boxed_c_str());
            let function = new(definition, qualname, class.clone(), true, prototype)?;
            Ok(owner.setattr(method, function.bind(py))?)
        })
    }
}

fn text(name: &CStr) -> FfiResult<&str> {
    // SAFETY: exception classes are never released.
    let class = unsafe { ffi::PyExc_ValueError };
    name.to_str()
        .map_err(|_| raise(class, c"the name of a function is no UTF-8"))
}

/// Calls `add` with each entry of a table and its name.
///
/// # Safety
/// The table is null or constant, and ends with a null name.
unsafe fn for_each(
    table: *const Definition,
    mut add: impl FnMut(&'static Definition, &'static CStr) -> FfiResult<()>,
) -> FfiResult<()> {
    if table.is_null() {
        // SAFETY: exception classes are never released.
        return Err(raise(
            unsafe { ffi::PyExc_ValueError },
            c"the table of functions is NULL",
        ));
    }
    let mut at = table;
    // SAFETY: the callers guarantee a constant table that ends with a null name.
    unsafe {
        while !(*at).name.is_null() {
            add(&*at, CStr::from_ptr((*at).name))?;
            at = at.add(1);
        }
    }
    Ok(())
}

/// The definition of a function of C with the same name and documentation. It lives as long as the process.
fn prototype(definition: &Definition) -> *mut ffi::PyMethodDef {
    unsafe extern "C" fn never(
        _: *mut PyObject,
        _: *mut PyObject,
        _: *mut PyObject,
    ) -> *mut PyObject {
        // SAFETY: CPython calls functions attached. The class is never released.
        let _ = raise(unsafe { ffi::PyExc_SystemError }, c"a prototype was called");
        ptr::null_mut()
    }
    Box::into_raw(Box::new(ffi::PyMethodDef {
        ml_name: definition.name,
        ml_meth: ffi::PyMethodDefPointer {
            PyCFunctionWithKeywords: never,
        },
        // Python does not know the signature of such functions if the documentation has none.
        ml_flags: ffi::METH_VARARGS | ffi::METH_KEYWORDS,
        ml_doc: definition.doc,
    }))
}

fn new(
    definition: &'static Definition,
    name: &'static CStr,
    owner: Ref,
    is_method: bool,
    prototype: Ref,
) -> FfiResult<Ref> {
    // SAFETY: the header demands a constant.
    let spec = unsafe { Checked::new(definition.spec)? };
    let ty = TYPE.load(Ordering::Relaxed);
    // SAFETY: the type was made at import. All fields are written before the object is tracked or returned.
    unsafe {
        let Some(alloc) = (*ty).tp_alloc else {
            return Err(PyImportError::new_err("functions cannot be allocated").into());
        };
        let object = Ref::new(alloc(ty, 0))?.into_ptr();
        ffi::PyObject_GC_UnTrack(object.cast());
        let this = object.cast::<Function>();
        (&raw mut (*this).vectorcall).write(vectorcall);
        (&raw mut (*this).weakrefs).write(ptr::null_mut());
        (&raw mut (*this).spec).write(spec);
        (&raw mut (*this).init).write(definition.init);
        (&raw mut (*this).name).write(spec.name(name));
        (&raw mut (*this).owner).write(Some(owner));
        (&raw mut (*this).is_method).write(is_method);
        (&raw mut (*this).prototype).write(Some(prototype));
        ffi::PyObject_GC_Track(object.cast());
        Ref::new(object)
    }
}

/// The function of an object.
///
/// # Safety
/// `object` is a live function of this class.
unsafe fn of<'a>(object: *mut PyObject) -> &'a Function {
    // SAFETY: the caller guarantees it.
    unsafe { &*object.cast::<Function>() }
}

impl Function {
    fn short_name(&self) -> String {
        let name = self.name.to_string_lossy();
        name.rsplit('.').next().unwrap_or_default().to_owned()
    }

    /// `self` for `init`, of the first argument of a method.
    fn check_self(&self, py: Python<'_>, slf: Option<*mut PyObject>) -> FfiResult<*mut PyObject> {
        let Some(owner) = &self.owner else {
            return Err(PyTypeError::new_err("the function was cleared").into());
        };
        let Some(slf) = slf else {
            let name = self.name.to_string_lossy();
            let text = format!("unbound method {name}() needs an argument");
            return Err(PyTypeError::new_err(text).into());
        };
        // SAFETY: CPython passes live arguments.
        let object = unsafe { Bound::from_borrowed_ptr(py, slf) };
        let class = owner.bind(py).cast::<PyType>().map_err(PyErr::from)?;
        if !object.is_instance(class)? {
            return Err(PyTypeError::new_err(format!(
                "descriptor '{}' for '{}' objects doesn't apply to a '{}' object",
                self.short_name(),
                class.name()?,
                object.get_type().name()?
            ))
            .into());
        }
        Ok(slf)
    }

    fn call(
        &self,
        arguments: *const *mut PyObject,
        n: usize,
        keywords: *mut PyObject,
    ) -> FfiResult<Ref> {
        // SAFETY: CPython calls functions attached.
        let py = unsafe { Python::assume_attached() };
        let (slf, arguments, n) = if self.is_method {
            // SAFETY: CPython passes `n` live arguments.
            let first = (n > 0).then(|| unsafe { *arguments });
            let slf = self.check_self(py, first)?;
            (slf, arguments.wrapping_add(1), n - 1)
        } else {
            let module = self.owner.as_ref().map_or(ptr::null_mut(), Ref::as_ptr);
            (module, arguments, n)
        };
        let Some(init) = self.init else {
            // SAFETY: CPython passes a tuple or null.
            let has_keywords =
                !keywords.is_null() && unsafe { ffi::PyTuple_GET_SIZE(keywords) } > 0;
            if n > 0 || has_keywords {
                let name = self.short_name();
                return Err(PyTypeError::new_err(format!("{name}() takes no arguments")).into());
            }
            return Made::new(self.spec, self.name).map(|made| made.object);
        };
        let made = Made::new(self.spec, self.name)?;
        // SAFETY: the program has given the function for this state. CPython passes live arguments.
        let status = unsafe { init(made.state(), slf, arguments, n.cast_signed(), keywords) };
        let failed = match (status, occurred()) {
            (0.., false) => return Ok(made.object),
            (0.., true) => with_cause(c"init returned without an error, but an exception is set"),
            (_, true) => crate::python::ErrSet,
            (_, false) => no_exception(),
        };
        made.give_up();
        Err(failed)
    }

    /// An attribute of the prototype.
    fn attribute(&self, py: Python<'_>, name: &str) -> FfiResult<Ref> {
        match &self.prototype {
            Some(prototype) => Ok(prototype.bind(py).getattr(name)?.into()),
            None => Ok(Ref::none()),
        }
    }
}

unsafe extern "C" fn vectorcall(
    function: *mut PyObject,
    arguments: *const *mut PyObject,
    n: usize,
    keywords: *mut PyObject,
) -> *mut PyObject {
    guard(|| {
        // SAFETY: CPython passes a live function of this class.
        let this = unsafe { of(function) };
        // SAFETY: it only clears a bit.
        let n = unsafe { ffi::PyVectorcall_NARGS(n) }.unsigned_abs();
        this.call(arguments, n, keywords)
    })
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
    get_doc: "__doc__",
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
