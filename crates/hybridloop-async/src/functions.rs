//! Functions and methods of Python with a body in Rust.

use std::cell::RefCell;
use std::ffi::{c_int, c_void, CStr, CString};
use std::future::Future;
use std::ptr;
use std::sync::OnceLock;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi::{self, PyObject, Py_ssize_t};
use pyo3::prelude::*;
use pyo3::type_object::PyTypeInfo;
use pyo3::PyClass;

use crate::abi::{self, table, Init, PyObject_Vectorcall};
use crate::cx::body;
use crate::panics;
use crate::task::{Body, State, SPEC};

/// PyO3's function, which takes the arguments and gives the future to [`deliver`].
pub type Target = OnceLock<Py<PyAny>>;

thread_local! {
    /// The futures of the calls that run, the innermost last.
    static CALLS: RefCell<Vec<Option<Body>>> = const { RefCell::new(Vec::new()) };
}

/// A function with the attribute `#[function]`.
pub trait Function {
    /// Its name.
    const NAME: &'static CStr;
    /// Makes the future.
    const INIT: Init;
    /// Where PyO3's function is kept.
    fn target() -> &'static Target;
    /// PyO3's function.
    ///
    /// # Errors
    /// Those of PyO3.
    fn wrap<'py>(module: &Bound<'py, PyModule>) -> PyResult<Bound<'py, PyAny>>;
}

/// An async method.
pub struct Method {
    /// Its name.
    pub name: &'static CStr,
    /// Makes the future.
    pub init: Init,
    /// Where PyO3's method is kept.
    pub target: &'static Target,
}

/// A class whose methods have the attribute `#[methods]`.
pub trait Methods {
    /// The async ones.
    const METHODS: &'static [Method];
}

/// Imports hybridloop, for modules that only use [`into_awaitable`](crate::into_awaitable), so that an import fails early.
///
/// # Errors
/// `ImportError`, which names the versions, if hybridloop is missing or too old.
pub fn import(py: Python<'_>) -> PyResult<()> {
    table(py).map(drop)
}

/// Adds a function to a module.
///
/// # Errors
/// `ImportError` if hybridloop is missing or too old; those of PyO3.
pub fn add<F: Function>(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let functions = definitions([(F::NAME, F::INIT, F::wrap(module)?, F::target())])?;
    // SAFETY: the table of functions is constant, and ends with a null name.
    let status = unsafe { (table(py)?.add_functions)(module.as_ptr(), functions) };
    check(py, status)
}

/// Adds a class with the attribute [`methods`](crate::methods) to a module, as `module.add_class()` does.
///
/// # Errors
/// `ImportError` if hybridloop is missing or too old; those of PyO3.
pub fn add_class<T: PyClass + Methods>(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let table = table(py)?;
    let class = <T as PyTypeInfo>::type_object(py);
    let mut found = Vec::new();
    for method in T::METHODS
        .iter()
        .filter(|method| method.target.get().is_none())
    {
        let target = class.getattr(method.name.to_string_lossy().as_ref())?;
        found.push((method.name, method.init, target, method.target));
    }
    if !found.is_empty() {
        let methods = definitions(found)?;
        // SAFETY: the table of methods is constant, and ends with a null name.
        check(py, unsafe {
            (table.add_methods)(class.as_type_ptr(), methods)
        })?;
    }
    module.add_class::<T>()
}

fn check(py: Python<'_>, status: c_int) -> PyResult<()> {
    if status < 0 {
        Err(PyErr::fetch(py))
    } else {
        Ok(())
    }
}

/// A table for hybridloop, which has to be constant.
fn definitions<'py>(
    functions: impl IntoIterator<Item = (&'static CStr, Init, Bound<'py, PyAny>, &'static Target)>,
) -> PyResult<*const abi::Function> {
    let mut definitions = Vec::new();
    for (name, init, target, keep) in functions {
        let doc = documentation(name, &target)?;
        // A second module of the same process has the same functions.
        let _ = keep.set(target.unbind());
        definitions.push(abi::Function {
            name: name.as_ptr(),
            spec: &raw const SPEC,
            doc: Box::leak(doc.into_boxed_c_str()).as_ptr(),
            init: Some(init),
        });
    }
    definitions.push(abi::Function {
        name: ptr::null(),
        spec: ptr::null(),
        doc: ptr::null(),
        init: None,
    });
    Ok(Vec::leak(definitions).as_ptr())
}

/// The documentation with the signature in front, as in `PyMethodDef`.
fn documentation(name: &CStr, target: &Bound<'_, PyAny>) -> PyResult<CString> {
    let text = |name| -> PyResult<Option<String>> { target.getattr(name)?.extract() };
    let doc = text("__doc__")?.unwrap_or_default();
    let doc = match text("__text_signature__")? {
        Some(signature) => format!("{}{signature}\n--\n\n{doc}", name.to_string_lossy()),
        None => doc,
    };
    Ok(CString::new(doc)?)
}

/// Fills the state of a new coroutine: calls PyO3's function with the arguments.
///
/// # Safety
/// The arguments are those of `init` in `hla_function`; `slf` is null for functions.
pub unsafe fn init(
    target: &Target,
    state: *mut c_void,
    slf: *mut PyObject,
    args: *const *mut PyObject,
    n: Py_ssize_t,
    kwnames: *mut PyObject,
) -> c_int {
    // SAFETY: hybridloop calls it in an attached thread.
    let py = unsafe { Python::assume_attached() };
    let called = panics::catch(|| {
        // SAFETY: as of this function.
        unsafe { call(py, target, slf, args, n, kwnames) }
    });
    match called {
        Ok(Ok(body)) => {
            // SAFETY: the state is that of a new coroutine.
            unsafe { State::fill(state, body) };
            0
        }
        Ok(Err(error)) | Err(error) => {
            error.restore(py);
            -1
        }
    }
}

unsafe fn call(
    py: Python<'_>,
    target: &Target,
    slf: *mut PyObject,
    args: *const *mut PyObject,
    n: Py_ssize_t,
    kwnames: *mut PyObject,
) -> PyResult<Body> {
    let not_added = || PyRuntimeError::new_err("the function was added to no module");
    let target = target.get().ok_or_else(not_added)?;
    let n = n.unsigned_abs();
    CALLS.with_borrow_mut(|calls| calls.push(None));
    // SAFETY: the caller guarantees the arguments: `n` of them, and one for each name.
    let result = unsafe {
        if slf.is_null() {
            PyObject_Vectorcall(target.as_ptr(), args, n, kwnames)
        } else {
            let named = if kwnames.is_null() {
                0
            } else {
                ffi::PyTuple_Size(kwnames).unsigned_abs()
            };
            let mut all = Vec::with_capacity(1 + n + named);
            all.push(slf);
            all.extend((0..n + named).map(|i| *args.add(i)));
            PyObject_Vectorcall(target.as_ptr(), all.as_ptr(), 1 + n, kwnames)
        }
    };
    let body = CALLS.with_borrow_mut(Vec::pop).flatten();
    // SAFETY: the result is a new reference, or null after an error.
    unsafe { Bound::from_owned_ptr_or_err(py, result)? };
    body.ok_or_else(not_added)
}

/// The future of a call: PyO3's function calls it.
///
/// # Errors
/// `RuntimeError` if hybridloop has not called the function.
pub fn deliver<T, E>(future: impl Future<Output = Result<T, E>> + 'static) -> PyResult<()>
where
    T: for<'py> IntoPyObject<'py> + 'static,
    PyErr: From<E>,
{
    let is_delivered = CALLS.with_borrow_mut(|calls| match calls.last_mut() {
        Some(call @ None) => {
            *call = Some(body(future));
            true
        }
        _ => false,
    });
    if is_delivered {
        return Ok(());
    }
    Err(PyRuntimeError::new_err(
        "add functions with hybridloop_async::add_functions!() and classes with hybridloop_async::add_class()",
    ))
}
