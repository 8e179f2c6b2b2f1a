//! `BufferGuards`: what keeps the memory of a job's arguments valid until its kernels have returned.

use pyo3::prelude::*;

use crate::allocator::out_of_memory;
use crate::kernels::arrays::Lent;
use crate::python::buffer::BufferGuard;
use crate::python::Ref;

/// Keeps the memory of one argument valid.
enum Guard {
    /// An exact `bytes`, which never changes: a reference suffices.
    Bytes(Ref),
    Buffer(#[allow(dead_code, reason = "dropping it releases the buffer")] BufferGuard),
    Lent(#[allow(dead_code, reason = "dropping it gives the memory back")] Lent),
}

/// The guards of all arguments of a job or batch. Dropping them may run Python code.
#[derive(Default)]
pub struct BufferGuards(Vec<Guard>);

impl BufferGuards {
    pub fn push_bytes(&mut self, bytes: Ref) -> PyResult<()> {
        self.push(Guard::Bytes(bytes))
    }

    pub fn push_buffer(&mut self, buffer: BufferGuard) -> PyResult<()> {
        self.push(Guard::Buffer(buffer))
    }

    pub fn push_lent(&mut self, lent: Lent) -> PyResult<()> {
        self.push(Guard::Lent(lent))
    }

    #[inline]
    fn push(&mut self, guard: Guard) -> PyResult<()> {
        self.0.try_reserve(1).map_err(out_of_memory)?;
        self.0.push(guard);
        Ok(())
    }

    /// Visits the objects, for the garbage collector. Buffers and arrays are not visited: they own their objects alone.
    pub fn traverse<E>(&self, mut visit: impl FnMut(&Ref) -> Result<(), E>) -> Result<(), E> {
        self.0.iter().try_for_each(|guard| match guard {
            Guard::Bytes(object) => visit(object),
            Guard::Buffer(_) | Guard::Lent(_) => Ok(()),
        })
    }
}
