//! `hybridloop.AsyncFunction`: functions and methods whose coroutines and async generators are written in C.

use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::{PyImportError, PyTypeError};
use pyo3::ffi::{self, PyObject, PyTypeObject, Py_ssize_t};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::awaitables::returned::{no_exception, occurred, raise, with_cause};
use crate::awaitables::step::{Checked, Spec, Steps};
use crate::awaitables::{generator, step};
use crate::python::coroutine::operation;
use crate::python::vectorcall::guard;
use crate::python::{FfiResult, Ref};

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
pub struct Function {
    ob_base: PyObject,
    pub vectorcall: ffi::vectorcallfunc,
    pub weakrefs: *mut PyObject,
    pub spec: Checked,
    init: Option<Init>,
    /// The qualified name of what it makes.
    pub name: &'static CStr,
    /// The class of `self`, for a method; otherwise the module, which is `self`.
    pub owner: Option<Ref>,
    pub is_method: bool,
    /// A function of C with the same name and documentation, which answers for them.
    pub prototype: Option<Ref>,
}

/// The class, made by [`function_class`](super::function_class).
pub static TYPE: AtomicPtr<PyTypeObject> = AtomicPtr::new(ptr::null_mut());

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
pub unsafe fn of<'a>(object: *mut PyObject) -> &'a Function {
    // SAFETY: the caller guarantees it.
    unsafe { &*object.cast::<Function>() }
}

impl Function {
    pub fn short_name(&self) -> String {
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
    pub fn attribute(&self, py: Python<'_>, name: &str) -> FfiResult<Ref> {
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
