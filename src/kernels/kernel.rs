//! `Kernel`, and the registry of kernels by name.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use hybridloop_kernels::{Arg, Param, Registry, Signature};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyGenericAlias, PyString, PyTuple, PyType};

use crate::kernels::exceptions::{cannot_pickle, kernel_not_found, new_error};
use crate::python::{package, Ref};

/// What a call of a kernel does. It is given by the layer above.
pub type CallFn =
    fn(&Bound<'_, Kernel>, &Bound<'_, PyTuple>, Option<&Bound<'_, PyDict>>) -> PyResult<Ref>;

static CALL: OnceLock<CallFn> = OnceLock::new();

/// Sets what a call of a kernel does.
pub fn set_call(call: CallFn) {
    let _ = CALL.set(call);
}

/// A native function that workers run: see `hybridloop.kernels` and `register_kernel()`.
///
/// A call submits a job, like `hybridloop.run_native()`, and returns it.
#[pyclass(frozen, eq, hash, module = "hybridloop._core")]
#[derive(Clone)]
pub struct Kernel(Arc<hybridloop_kernels::Kernel>);

/// The kernels of this process, at first the built-in ones.
pub fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(Registry::with_builtins)
}

impl Kernel {
    pub fn new(kernel: Arc<hybridloop_kernels::Kernel>) -> Self {
        Self(kernel)
    }

    /// The kernel of a `Kernel` or of a name.
    ///
    /// # Errors
    /// `LookupError` if no kernel has that name, `TypeError` for any other object.
    pub fn find(target: &Bound<'_, PyAny>) -> PyResult<Arc<hybridloop_kernels::Kernel>> {
        if let Ok(kernel) = target.cast::<Self>() {
            return Ok(kernel.get().0.clone());
        }
        let Ok(name) = target.cast::<PyString>() else {
            return Err(PyTypeError::new_err(format!(
                "expected a Kernel or the name of one, not {}",
                target.get_type().name()?
            )));
        };
        let name = name.to_str()?;
        if let Some(kernel) = registry().get(name) {
            return Ok(kernel);
        }
        // Kernels of installed packages are discovered on first use.
        package::discover_kernels(target.py())?.call0()?;
        registry()
            .get(name)
            .ok_or_else(|| not_found(target.py(), name))
    }
}

#[cold]
fn not_found(py: Python<'_>, name: &str) -> PyErr {
    let all = registry().all();
    kernel_not_found(py, name, all.iter().map(|kernel| kernel.name()).collect())
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Hash for Kernel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

#[pymethods]
impl Kernel {
    /// Raises `TypeError`: the object belongs to this process.
    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        Err(cannot_pickle(slf.as_any()))
    }

    #[classmethod]
    #[pyo3(signature = (item, /))]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyGenericAlias>> {
        PyGenericAlias::new(cls.py(), cls, item)
    }

    /// Submit a job, like `hybridloop.run_native()`.
    #[pyo3(signature = (*args, **keywords))]
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        keywords: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Some(call) = CALL.get() else {
            return Err(PyRuntimeError::new_err("kernels cannot be called yet"));
        };
        Ok(call(slf, args, keywords)?.into_bound(slf.py()))
    }

    /// For `inspect.signature()`.
    #[getter]
    fn __signature__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        package::kernel_signature(slf.py())?.call1((slf,))
    }

    #[getter]
    fn __name__(&self) -> &str {
        self.0.name()
    }

    /// The type of the result, and the parameters, as `_parse_signature()` gives them; None without a signature.
    fn _types<'py>(&self, py: Python<'py>) -> PyResult<Option<Types<'py>>> {
        self.0
            .signature()
            .map(|signature| types(py, signature))
            .transpose()
    }

    /// Its name in `hybridloop.kernels`.
    #[getter]
    fn name(&self) -> &str {
        self.0.name()
    }

    /// The signature it was registered with; None if it checks its arguments itself.
    #[getter]
    fn signature(&self) -> Option<&str> {
        self.0.signature_text()
    }

    /// Its documentation; empty if it has none.
    #[getter]
    fn doc(&self) -> &str {
        self.0.doc()
    }

    fn __repr__(&self) -> String {
        match self.0.signature_text() {
            Some(signature) => format!("<Kernel '{}': {signature}>", self.0.name()),
            None => format!("<Kernel '{}'>", self.0.name()),
        }
    }
}

/// The type of a result, and for each parameter: its name, its type, whether the kernel writes to it, whether it may be None,
/// and a tuple that has its default.
type Types<'py> = (
    String,
    Vec<(String, String, bool, bool, Bound<'py, PyTuple>)>,
);

fn types<'py>(py: Python<'py>, signature: &Signature) -> PyResult<Types<'py>> {
    let parameter = |param: &Param| {
        let default = match &param.default {
            Some(default) => PyTuple::new(py, [literal(py, default)?])?,
            None => PyTuple::empty(py),
        };
        let ty = param.ty.to_string();
        Ok((param.name.clone(), ty, param.out, param.optional, default))
    };
    let params = signature.params.iter().map(parameter);
    Ok((
        signature.result.to_string(),
        params.collect::<PyResult<_>>()?,
    ))
}

/// The Python object of a default.
fn literal<'py>(py: Python<'py>, value: &Arg) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Arg::Bool(value) => value.into_pyobject(py)?.to_owned().into_any(),
        Arg::Int(value) => value.into_pyobject(py)?.into_any(),
        Arg::UInt(value) => value.into_pyobject(py)?.into_any(),
        Arg::Float(value) => value.into_pyobject(py)?.into_any(),
        Arg::Str(value) => value.into_pyobject(py)?.into_any(),
        Arg::Key(key) => String::from_utf8_lossy(key.as_bytes())
            .into_pyobject(py)?
            .into_any(),
        // There is no literal for the others.
        Arg::None | Arg::Buffer(_) | Arg::View(_) | Arg::Channel(_) => py.None().into_bound(py),
    })
}

/// The types in a signature.
#[pyfunction]
fn _parse_signature<'py>(py: Python<'py>, text: &str) -> PyResult<Types<'py>> {
    let signature = Signature::parse(text).map_err(|error| {
        new_error(
            py,
            |classes| &classes.signature,
            format!("signature {text:?}: {error}"),
        )
    })?;
    types(py, &signature)
}

/// The error for a name that no kernel has.
#[pyfunction]
fn _kernel_not_found(py: Python<'_>, name: &str) -> Py<PyAny> {
    not_found(py, name).into_value(py).into_any()
}

/// The kernel with that name, or None.
#[pyfunction]
fn _get_kernel(name: &str) -> Option<Kernel> {
    registry().get(name).map(Kernel)
}

/// The names of all kernels.
#[pyfunction]
fn _kernel_names() -> Vec<String> {
    let all = registry().all();
    all.iter().map(|kernel| kernel.name().to_owned()).collect()
}

/// Adds the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_get_kernel, module)?)?;
    module.add_function(wrap_pyfunction!(_kernel_not_found, module)?)?;
    module.add_function(wrap_pyfunction!(_parse_signature, module)?)?;
    module.add_function(wrap_pyfunction!(_kernel_names, module)?)
}
