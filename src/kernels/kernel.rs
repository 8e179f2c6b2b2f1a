//! `Kernel`, and the registry of kernels by name.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use hybridloop_kernels::Registry;
use pyo3::exceptions::{PyLookupError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::kernels::exceptions::cannot_pickle;
use crate::python::package;

/// A native function that workers run: see `hybridloop.kernels` and `register_kernel()`.
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
        registry().get(name).ok_or_else(|| {
            PyLookupError::new_err(format!(
                "no kernel is named '{name}'; hybridloop.kernels has those there are"
            ))
        })
    }
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
    module.add_function(wrap_pyfunction!(_kernel_names, module)?)
}
