//! Memory of the host.

use std::mem::{align_of, size_of, ManuallyDrop};
use std::ops::{Deref, DerefMut};

use crate::ctx::Ctx;
use crate::element::Element;
use crate::error::{Code, Error};

/// Elements in memory of the host, which counts towards the limits of the engine. A kernel can return it without a copy.
pub struct Memory<'a, T: Element> {
    ctx: &'a Ctx,
    data: *mut T,
    len: usize,
    capacity: usize,
}

// SAFETY: it owns its elements, which are `Send`, and any thread may call the functions of the host.
unsafe impl<T: Element> Send for Memory<'_, T> {}
// SAFETY: a shared reference only reads the elements, which are `Sync`.
unsafe impl<T: Element> Sync for Memory<'_, T> {}

impl<'a, T: Element> Memory<'a, T> {
    pub(crate) fn new(ctx: &'a Ctx, len: usize) -> Result<Self, Error> {
        let bytes = Self::bytes(len)?;
        // SAFETY: the context is valid, as `Ctx::new` demands.
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

    /// Changes the length to `len` elements; new ones are zero.
    ///
    /// # Errors
    /// [`Code::Memory`] when a limit would be exceeded; then nothing has changed.
    pub fn resize(&mut self, len: usize) -> Result<(), Error> {
        if len > self.capacity {
            let bytes = Self::bytes(len)?;
            // SAFETY: the context is valid, as `Ctx::new` demands; `data` was allocated by it and not freed.
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

    /// Frees the memory beyond the length.
    pub fn shrink(&mut self) {
        if self.len == self.capacity {
            return;
        }
        // SAFETY: the context is valid, as `Ctx::new` demands; `data` was allocated by it and not freed. The product does not
        // overflow, because that for the capacity did not.
        let data = unsafe {
            (self.ctx.host().resize)(self.ctx.raw(), self.data.cast(), self.len * size_of::<T>())
                .cast::<T>()
        };
        if !data.is_null() {
            (self.data, self.capacity) = (data, self.len);
        }
    }

    /// The address and number of elements, which the host frees when the kernel returns, or takes as the result.
    pub(crate) fn into_raw(self) -> (*mut T, usize) {
        let this = ManuallyDrop::new(self);
        (this.data, this.len)
    }
}

impl Ctx {
    /// Zeroed memory for `len` elements, which can be returned without a copy.
    ///
    /// # Errors
    /// [`Code::Memory`] when a limit of the engine would be exceeded.
    pub fn memory<T: Element>(&self, len: usize) -> Result<Memory<'_, T>, Error> {
        Memory::new(self, len)
    }
}

impl<T: Element> Drop for Memory<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the context is valid, as `Ctx::new` demands; `data` was allocated by it and is freed once, here.
        unsafe { (self.ctx.host().free)(self.ctx.raw(), self.data.cast()) };
    }
}

impl<T: Element> Deref for Memory<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `data` points to at least `len` aligned elements, which the host has zeroed; zero is a value of every
        // element.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

impl<T: Element> DerefMut for Memory<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: `data` points to at least `len` aligned and initialised elements, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.len) }
    }
}
