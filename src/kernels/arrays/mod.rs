//! Arrays of other libraries as the memory of arguments and of blocks.
//!
//! An object is taken by the first of these protocols that it has: the buffer protocol, Arrow's `__arrow_c_array__()`, DLPack's
//! `__dlpack__()`.

mod arrow;
mod buffer;
mod dlpack;
mod shape;

pub use arrow::{export as to_arrow, export_schema as to_arrow_schema};
pub use buffer::describe;
pub use dlpack::{export as to_dlpack, Request as DlpackRequest};
pub use shape::ArrayError;

use arrow::ImportedArray;
use dlpack::ManagedTensor;
use hybridloop_kernels::Buffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;

/// What keeps the memory of another library's array. It is dropped by a thread that is attached to the interpreter.
pub enum Lent {
    Arrow(#[allow(dead_code, reason = "dropping it releases the array")] ImportedArray),
    Dlpack(ManagedTensor),
}

impl Lent {
    /// Whether the memory is a constant: arrays of Arrow are, and tensors that say that they are read-only.
    pub fn never_changes(&self) -> bool {
        match self {
            Self::Arrow(_) => true,
            Self::Dlpack(tensor) => tensor.is_read_only(),
        }
    }

    /// The memory of an object that has one of the protocols, and what keeps it; `None` for other objects.
    ///
    /// # Errors
    /// `BufferError`, if kernels cannot use the memory; the errors of the object.
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Option<(Self, Buffer)>> {
        let class = object.get_type();
        if class.hasattr("__arrow_c_array__")? {
            let array = arrow::import(object)?;
            let buffer = array.describe()?;
            return Ok(Some((Self::Arrow(array), buffer)));
        }
        if class.hasattr("__dlpack__")? {
            let tensor = dlpack::import(object)?;
            let buffer = tensor.describe()?;
            return Ok(Some((Self::Dlpack(tensor), buffer)));
        }
        if class.hasattr("__arrow_c_stream__")? {
            return Err(PyBufferError::new_err(
                "the memory of a chunked Arrow array is in several places; pass one of its chunks",
            ));
        }
        Ok(None)
    }
}
