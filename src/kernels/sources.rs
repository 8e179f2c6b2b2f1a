//! Registration of kernels from addresses, capsules and libraries. `hybridloop/native/sources.py` finds out which of these an
//! object is.

use std::any::Any;
use std::ffi::{c_void, CStr, CString, OsString};
use std::sync::Arc;

use hybridloop_kernels::{abi, find_symbol, load, Kernel as Native, Overrides};
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::kernels::deferred_drop::{drop_deferred, DeferredDrop};
use crate::kernels::exceptions::{new_error, registry_error};
use crate::kernels::kernel::{registry, Kernel};

/// The name of a capsule that holds a kernel entry.
const ENTRY: &CStr = c"hybridloop.kernel.v1";

/// The name, pointer and context of a capsule.
fn parts(capsule: &Bound<'_, PyAny>) -> PyResult<(Option<CString>, *mut c_void, *mut c_void)> {
    if !capsule.is_exact_instance_of::<PyCapsule>() {
        return Err(PyTypeError::new_err(format!(
            "expected a capsule, not {}",
            capsule.get_type().name()?
        )));
    }
    let object = capsule.as_ptr();
    // SAFETY: a `Bound` proves attachment, and the object is a capsule. Its name is null or a C string, which lives as long as
    // nothing renames the capsule; no Python code runs in between.
    unsafe {
        let name = ffi::PyCapsule_GetName(object);
        let pointer = ffi::PyCapsule_GetPointer(object, name);
        if pointer.is_null() {
            return Err(PyErr::fetch(capsule.py()));
        }
        let context = ffi::PyCapsule_GetContext(object);
        if context.is_null() && PyErr::occurred(capsule.py()) {
            return Err(PyErr::fetch(capsule.py()));
        }
        let name = (!name.is_null()).then(|| CStr::from_ptr(name).to_owned());
        Ok((name, pointer, context))
    }
}

fn add(py: Python<'_>, kernels: &[Arc<Native>], replace: bool) -> PyResult<Vec<Kernel>> {
    drop_deferred(py);
    registry()
        .add_all(kernels.to_vec(), replace)
        .map_err(|error| registry_error(py, &error))?;
    Ok(kernels.iter().cloned().map(Kernel::new).collect())
}

/// Name, address and context of a capsule.
#[pyfunction]
fn _read_capsule(capsule: &Bound<'_, PyAny>) -> PyResult<(Option<String>, usize, usize)> {
    let (name, pointer, context) = parts(capsule)?;
    let name = name.map(|name| name.to_string_lossy().into_owned());
    Ok((name, pointer.addr(), context.addr()))
}

fn from_capsule(capsule: &Bound<'_, PyAny>, overrides: &Overrides<'_>) -> PyResult<Arc<Native>> {
    let py = capsule.py();
    let (name, pointer, _) = parts(capsule)?;
    if name.as_deref() != Some(ENTRY) {
        let name = name.unwrap_or_default();
        let message = format!(
            "a capsule named {name:?} is not a kernel for interface {}",
            abi::ABI
        );
        return Err(new_error(py, |classes| &classes.abi, message));
    }
    let owner = DeferredDrop::new(capsule);
    // SAFETY: by the contract of `hybridloop.h`, a capsule with that name points to a kernel entry that is valid while the
    // capsule lives, and `owner` keeps it alive as long as the kernel.
    unsafe { Native::from_entry_as(pointer.cast(), overrides, Some(Box::new(owner))) }
        .map_err(|error| registry_error(py, &error))
}

/// Register the kernel in a capsule.
#[pyfunction]
fn _register_capsule(
    capsule: &Bound<'_, PyAny>,
    name: &str,
    signature: Option<&str>,
    doc: Option<&str>,
    replace: bool,
) -> PyResult<Kernel> {
    let overrides = Overrides {
        name: Some(name),
        signature,
        doc,
    };
    let kernel = from_capsule(capsule, &overrides)?;
    add(capsule.py(), std::slice::from_ref(&kernel), replace)?;
    Ok(Kernel::new(kernel))
}

/// Register the kernels in capsules; either all of them, or none.
#[pyfunction]
fn _register_capsules(
    py: Python<'_>,
    capsules: Vec<Bound<'_, PyAny>>,
    replace: bool,
) -> PyResult<Vec<Kernel>> {
    let kernels: Vec<_> = capsules
        .iter()
        .map(|capsule| from_capsule(capsule, &Overrides::default()))
        .collect::<PyResult<_>>()?;
    add(py, &kernels, replace)
}

/// Register the plain C function at an address; `owner` lives as long as the kernel does. If `data` is not 0, the function gets
/// that address as its last argument.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "the parts of a kernel")]
fn _register_address(
    name: &str,
    address: usize,
    signature: &str,
    doc: &str,
    owner: Bound<'_, PyAny>,
    replace: bool,
    data: usize,
) -> PyResult<Kernel> {
    let py = owner.py();
    let owner = DeferredDrop::new(&owner);
    let pointer = std::ptr::with_exposed_provenance::<c_void>(address);
    let data = (data != 0).then(|| std::ptr::with_exposed_provenance::<c_void>(data));
    let owner: Option<Box<dyn Any + Send + Sync>> = Some(Box::new(owner));
    // SAFETY: the documentation of `register_kernel()` requires that the address is that of a function with this signature, and
    // that its data may be used by any thread; the caller upholds it, as with `ctypes`.
    let kernel =
        unsafe { Native::from_address_with_data(name, pointer, data, signature, doc, owner) }
            .map_err(|error| registry_error(py, &error))?;
    add(py, std::slice::from_ref(&kernel), replace)?;
    Ok(Kernel::new(kernel))
}

/// The address of a function in a library, or in the process itself. The library is never unloaded.
#[pyfunction]
fn _find_symbol(py: Python<'_>, path: Option<OsString>, name: &str) -> PyResult<usize> {
    // SAFETY: loading a library runs its initializers; the caller chose to trust it, as with an import of an extension module.
    unsafe { find_symbol(path.as_deref(), name) }
        .map(<*const c_void>::expose_provenance)
        .map_err(|error| registry_error(py, &error))
}

/// Register the kernels of a library that exports a module; either all of them, or none. The library is never unloaded.
#[pyfunction]
fn _load_library(py: Python<'_>, path: OsString, replace: bool) -> PyResult<Vec<Kernel>> {
    // SAFETY: loading a library runs its initializers; the caller chose to trust it, as with an import of an extension module.
    let kernels = unsafe { load(&path) }.map_err(|error| registry_error(py, &error))?;
    add(py, &kernels, replace)
}

/// Adds the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_read_capsule, module)?)?;
    module.add_function(wrap_pyfunction!(_register_capsule, module)?)?;
    module.add_function(wrap_pyfunction!(_register_capsules, module)?)?;
    module.add_function(wrap_pyfunction!(_register_address, module)?)?;
    module.add_function(wrap_pyfunction!(_find_symbol, module)?)?;
    module.add_function(wrap_pyfunction!(_load_library, module)?)
}
