//! Memory of the host, which can become a result without a copy.

use std::mem::{align_of, size_of, ManuallyDrop};
use std::ops::{Deref, DerefMut};

use crate::ctx::Ctx;
use crate::error::{Code, Error};
use crate::value::Element;

/// Elements in memory that is charged to the engine. Returned from a kernel, it becomes the result without a copy.
pub struct Memory<'a, T: Element> {
    ctx: &'a Ctx,
    data: *mut T,
    len: usize,
    capacity: usize,
}

// SAFETY: it owns its elements, which are plain numbers, and the host's functions may be called by any thread.
unsafe impl<T: Element> Send for Memory<'_, T> {}
// SAFETY: as above; a shared reference only reads.
unsafe impl<T: Element> Sync for Memory<'_, T> {}

impl<'a, T: Element> Memory<'a, T> {
    pub(crate) fn new(ctx: &'a Ctx, len: usize) -> Result<Self, Error> {
        let bytes = Self::bytes(len)?;
        // SAFETY: the context is live.
        let data = unsafe { (ctx.host().alloc)(ctx.raw(), bytes, align_of::<T>()) }.cast::<T>();
        if data.is_null() {
            return Err(Code::Memory.into());
        }
        Ok(Self {
            ctx,
            data,
            len,
            capacity: len,
        })
    }

    fn bytes(len: usize) -> Result<usize, Error> {
        len.checked_mul(size_of::<T>())
            .filter(|bytes| isize::try_from(*bytes).is_ok())
            .ok_or_else(|| Code::Memory.into())
    }

    /// Makes it `len` elements long; new ones are zero.
    ///
    /// # Errors
    /// [`Code::Memory`] when a limit would be passed; then nothing has changed.
    pub fn resize(&mut self, len: usize) -> Result<(), Error> {
        if len > self.capacity {
            let bytes = Self::bytes(len)?;
            // SAFETY: the context is live and the memory is its own.
            let data = unsafe {
                (self.ctx.host().resize)(self.ctx.raw(), self.data.cast(), bytes).cast::<T>()
            };
            if data.is_null() {
                return Err(Code::Memory.into());
            }
            (self.data, self.capacity) = (data, len);
        }
        let old = std::mem::replace(&mut self.len, len);
        if len > old {
            self[old..].fill(T::default());
        }
        Ok(())
    }

    /// Gives back what lies beyond the length.
    pub fn shrink(&mut self) {
        if self.len == self.capacity {
            return;
        }
        // SAFETY: the context is live and the memory is its own; the product was checked for a greater length.
        let data = unsafe {
            (self.ctx.host().resize)(self.ctx.raw(), self.data.cast(), self.len * size_of::<T>())
                .cast::<T>()
        };
        if !data.is_null() {
            (self.data, self.capacity) = (data, self.len);
        }
    }

    /// Where the elements are and how many; the host gives them back when the job ends.
    pub(crate) fn into_raw(self) -> (*mut T, usize) {
        let this = ManuallyDrop::new(self);
        (this.data, this.len)
    }
}

impl<T: Element> Drop for Memory<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the context is live and the memory is its own.
        unsafe { (self.ctx.host().free)(self.ctx.raw(), self.data.cast()) };
    }
}

impl<T: Element> Deref for Memory<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements, aligned and first zeroed by the host; zeroes are a value of every element type.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

impl<T: Element> DerefMut for Memory<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.len) }
    }
}
