//! The memory bus of the engine.

use std::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::ptr;

use crate::abi::{self, RawCtx};
use crate::buf::Buf;
use crate::ctx::Ctx;
use crate::error::Error;

/// A key of the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key<'a>(pub &'a [u8]);

impl Deref for Key<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl AsRef<[u8]> for Key<'_> {
    fn as_ref(&self) -> &[u8] {
        self.0
    }
}

impl Ctx {
    /// The memory bus of the engine.
    #[must_use]
    pub fn bus(&self) -> Bus<'_> {
        Bus {
            ctx: self,
            flags: 0,
        }
    }
}

/// The memory bus: immutable blocks under keys of up to 255 bytes.
#[derive(Clone, Copy)]
pub struct Bus<'a> {
    ctx: &'a Ctx,
    flags: u32,
}

impl<'a> Bus<'a> {
    /// The same bus for keys of the job: they are removed when the last handle of the job is dropped.
    #[must_use]
    pub fn of_job(self) -> Self {
        Self {
            flags: abi::BUS_JOB,
            ..self
        }
    }

    /// Creates or overwrites `key` in one step.
    ///
    /// # Errors
    /// [`Code::Memory`](crate::Code::Memory) when the bus has no room, [`Code::Invalid`](crate::Code::Invalid) for a bad key.
    pub fn push(self, key: impl AsRef<[u8]>, data: &[u8]) -> Result<(), Error> {
        let key = key.as_ref();
        // SAFETY: the context is valid, as `Ctx::new` demands, and the host copies key and data during the call.
        Error::check(unsafe {
            (self.ctx.host().bus_push)(
                self.ctx.raw(),
                key.as_ptr().cast(),
                key.len(),
                data.as_ptr().cast(),
                data.len(),
                self.flags,
            )
        })
    }

    /// Opens `key` for writing `len` bytes in place. Until the writer is sealed or dropped the key is busy for Python, and
    /// other kernels see what was sealed before.
    ///
    /// # Errors
    /// [`Code::Memory`](crate::Code::Memory) when the bus has no room, [`Code::Invalid`](crate::Code::Invalid) for a bad key.
    pub fn open(self, key: impl AsRef<[u8]>, len: usize) -> Result<BusWriter<'a>, Error> {
        let key = key.as_ref();
        let mut data = ptr::null_mut();
        // SAFETY: the context is valid, as `Ctx::new` demands; the host copies the key and writes to `data`.
        Error::check(unsafe {
            (self.ctx.host().bus_open)(
                self.ctx.raw(),
                key.as_ptr().cast(),
                key.len(),
                len,
                self.flags,
                &raw mut data,
            )
        })?;
        Ok(BusWriter {
            ctx: self.ctx,
            data,
            len,
        })
    }

    /// What is sealed under `key`. It stays valid whatever happens to the key.
    ///
    /// # Errors
    /// [`Code::NotFound`](crate::Code::NotFound)
    pub fn get(self, key: impl AsRef<[u8]>) -> Result<Buf<'a>, Error> {
        self.read(key.as_ref(), self.ctx.host().bus_get)
    }

    /// Removes what is sealed under `key`; one of several callers gets it.
    ///
    /// # Errors
    /// [`Code::NotFound`](crate::Code::NotFound)
    pub fn pop(self, key: impl AsRef<[u8]>) -> Result<Buf<'a>, Error> {
        self.read(key.as_ref(), self.ctx.host().bus_pop)
    }

    fn read(
        self,
        key: &[u8],
        read: unsafe extern "C" fn(*mut RawCtx, *const c_void, usize, *mut abi::Buf) -> i32,
    ) -> Result<Buf<'a>, Error> {
        let mut buf = abi::Buf::bytes(ptr::null(), 0, 0);
        // SAFETY: the context is valid, as `Ctx::new` demands. The host keeps the block until the kernel returns, which `'a`
        // does not outlive, and nobody writes to a block.
        unsafe {
            Error::check(read(
                self.ctx.raw(),
                key.as_ptr().cast(),
                key.len(),
                &raw mut buf,
            ))?;
            Ok(Buf::new(buf))
        }
    }
}

/// An open write of a key; aborted unless it is sealed.
pub struct BusWriter<'a> {
    ctx: &'a Ctx,
    data: *mut c_void,
    len: usize,
}

// SAFETY: a writer owns its bytes, and any thread may call the functions of the host.
unsafe impl Send for BusWriter<'_> {}

impl BusWriter<'_> {
    /// Publishes all bytes.
    ///
    /// # Errors
    /// [`Code::Closed`](crate::Code::Closed) when the bus was closed meanwhile.
    pub fn seal(self) -> Result<(), Error> {
        let len = self.len;
        self.seal_first(len)
    }

    /// Publishes the first `len` bytes.
    ///
    /// # Errors
    /// [`Code::Closed`](crate::Code::Closed) when the bus was closed meanwhile; [`Code::Invalid`](crate::Code::Invalid) when
    /// `len` is more than was opened.
    pub fn seal_first(self, len: usize) -> Result<(), Error> {
        if len > self.len {
            return Err(Error::invalid("more than was opened"));
        }
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the context is valid, as `Ctx::new` demands. The write is open, and `this` is not used or dropped afterwards.
        Error::check(unsafe { (this.ctx.host().bus_seal)(this.ctx.raw(), this.data, len) })
    }
}

impl Drop for BusWriter<'_> {
    fn drop(&mut self) {
        // SAFETY: the context is valid, as `Ctx::new` demands. The write is open: sealing it forgets the writer.
        unsafe { (self.ctx.host().bus_abort)(self.ctx.raw(), self.data) };
    }
}

impl Deref for BusWriter<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the host has opened `len` zeroed bytes at `data`, which belong to this writer.
        unsafe { std::slice::from_raw_parts(self.data.cast(), self.len) }
    }
}

impl DerefMut for BusWriter<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the host has opened `len` zeroed bytes at `data`, which belong to this writer.
        unsafe { std::slice::from_raw_parts_mut(self.data.cast(), self.len) }
    }
}
