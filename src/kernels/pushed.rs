//! `Pushed`: an object on its way to the bus or a channel.

use std::sync::Arc;

use hybridloop_kernels::{has_objects, Block, Buffer, MemoryLimit, View};
use pyo3::exceptions::PyException;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::kernels::arrays::{describe, ArrayError, Lent};
use crate::kernels::buffer::{copy_bytes, NativeBuffer};
use crate::kernels::deferred_drop::DeferredDrop;
use crate::python::buffer::BufferGuard;

/// What keeps memory that is copied.
enum Source {
    Buffer(#[allow(dead_code, reason = "dropping it releases the buffer")] BufferGuard),
    Lent(Lent),
}

enum Memory {
    /// Immutable memory, which is shared.
    Shared(View),
    Described(Source, Buffer),
}

/// An object's memory with its type and shape. Memory that never changes is shared, all other memory is copied.
pub struct Pushed(Memory);

impl Pushed {
    /// The memory of an object that has one of the protocols; `None` for other objects.
    ///
    /// # Errors
    /// `BufferError`, if the memory has gaps or refers to Python objects; the errors of the object.
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        if let Ok(buffer) = object.cast::<NativeBuffer>() {
            return Ok(Some(Self(Memory::Shared(buffer.get().view().clone()))));
        }
        // SAFETY: a `Bound` proves attachment and is live.
        let (source, buffer) = if unsafe { ffi::PyObject_CheckBuffer(object.as_ptr()) } != 0 {
            let acquire = |flags| {
                // SAFETY: a `Bound` proves attachment and is live.
                unsafe { BufferGuard::acquire(object.as_ptr(), flags, describe) }
            };
            let (guard, buffer) = match acquire(ffi::PyBUF_ND | ffi::PyBUF_FORMAT) {
                Ok(acquired) => acquired,
                Err(error) => {
                    let error = PyErr::from(error);
                    if !error.is_instance_of::<PyException>(object.py()) {
                        return Err(error);
                    }
                    // Some types have no format, such as numpy's times: these are bytes.
                    let (guard, mut bytes) = acquire(ffi::PyBUF_SIMPLE)?;
                    (bytes.itemsize, bytes.shape) = (1, None);
                    (guard, bytes)
                }
            };
            (Source::Buffer(guard), buffer)
        } else {
            let Some((lent, buffer)) = Lent::of(object)? else {
                return Ok(None);
            };
            (Source::Lent(lent), buffer)
        };
        if !buffer.contiguous {
            return Err(ArrayError::NotContiguous.into());
        }
        if has_objects(&buffer.format) {
            let format = buffer.format.to_string_lossy().into_owned();
            return Err(ArrayError::Objects(format).into());
        }
        Ok(Some(Self(Memory::Described(source, buffer))))
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        match &self.0 {
            Memory::Shared(view) => view.len(),
            Memory::Described(_, buffer) => buffer.len(),
        }
    }

    /// The first `len` bytes, without a type and a shape; `None` if there are fewer.
    #[must_use]
    pub fn first_bytes(self, len: usize) -> Option<Self> {
        Some(Self(match self.0 {
            Memory::Shared(view) => {
                Memory::Shared(view.part(0, len)?.with_shape(c"B".into(), 1, None)?)
            }
            Memory::Described(source, buffer) => {
                if len > buffer.len() {
                    return None;
                }
                // SAFETY: it is a part of memory that the source keeps, and whose owner has promised what the first buffer needs.
                let mut bytes = unsafe { Buffer::new(0, buffer.as_ptr(), len) };
                bytes.immutable = buffer.immutable;
                Memory::Described(source, bytes)
            }
        }))
    }

    /// A view of memory that never changes; `None` if the limit or the system has not enough memory. Copies of many bytes run
    /// detached.
    pub fn into_view(self, py: Python<'_>, limit: &Arc<MemoryLimit>) -> Option<View> {
        match self.0 {
            Memory::Shared(view) => Some(view),
            Memory::Described(Source::Lent(lent), buffer) if lent.never_changes() => {
                let owner = Box::new(DeferredDrop::of(lent));
                // SAFETY: the memory is valid until its owner is dropped, and its producer says that nobody writes to it.
                let block = unsafe { Block::foreign(buffer.as_ptr(), buffer.len(), owner, limit) }?;
                Some(buffer.in_block(block))
            }
            Memory::Described(_source, buffer) => {
                copy_bytes(py, buffer.len(), || buffer.copy(limit))
            }
        }
    }
}
