//! Methods for the class of the loop, each with the signature that asyncio gives it on the Python that runs.

use std::ffi::CString;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::python::vectorcall::Method;

/// The signature that `asyncio.AbstractEventLoop` gives a method on the running Python.
pub const ASYNCIO: &str = "";

/// Makes method descriptors of (method, signature, documentation) and sets them on `class`.
pub fn install<const N: usize>(
    class: &Bound<'_, PyType>,
    methods: [(Method, &str, &str); N],
) -> PyResult<()> {
    let py = class.py();
    let asyncio_loop = py.import("asyncio.events")?.getattr("AbstractEventLoop")?;
    let signature_of = py.import("inspect")?.getattr("signature")?;
    for (method, signature, doc) in methods {
        let name = method.name.to_string_lossy().into_owned();
        let signature = if signature.is_empty() {
            let function = asyncio_loop.getattr(name.as_str())?;
            signature_of.call1((function,))?.to_string()
        } else {
            signature.to_owned()
        };
        let def = leak(&method, &name, &signature, doc)?;
        // SAFETY: the definition is complete and was leaked, so it lives as long as the class.
        let descriptor = unsafe {
            Bound::from_owned_ptr_or_err(py, ffi::PyDescr_NewMethod(class.as_type_ptr(), def))?
        };
        class.setattr(name, descriptor)?;
    }
    Ok(())
}

/// Makes functions of (function, signature, documentation) and sets them on `module`. The signatures begin with `self`.
pub fn install_functions<const N: usize>(
    module: &Bound<'_, PyModule>,
    functions: [(Method, &str, &str); N],
) -> PyResult<()> {
    let module_name = module.name()?;
    for (function, signature, doc) in functions {
        let name = function.name.to_string_lossy().into_owned();
        let def = leak(&function, &name, signature, doc)?;
        // SAFETY: the definition is complete and was leaked, so it lives as long as the function.
        let object = unsafe {
            let object = ffi::PyCFunction_NewEx(def, module.as_ptr(), module_name.as_ptr());
            Bound::from_owned_ptr_or_err(module.py(), object)?
        };
        module.add(name.as_str(), object)?;
    }
    Ok(())
}

/// The definition of a method, which CPython keeps a pointer to while the class lives.
fn leak(
    method: &Method,
    name: &str,
    signature: &str,
    doc: &str,
) -> PyResult<&'static mut ffi::PyMethodDef> {
    let signature = signature.replacen("(self", "($self", 1);
    let doc = CString::new(format!("{name}{signature}\n--\n\n{doc}"))?;
    let doc = Box::leak(doc.into_boxed_c_str());
    Ok(Box::leak(Box::new(method.def(doc))))
}
