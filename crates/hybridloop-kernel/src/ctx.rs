//! What a running kernel can ask of the host.

use std::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::ptr;

use crate::abi::{self, Host, RawCtx};
use crate::error::{Code, Error};
use crate::memory::Memory;
use crate::results::IntoResult;
use crate::value::{Buf, Element, Value};

/// One call of a kernel. May be shared with threads that end before the kernel returns.
pub struct Ctx {
    host: *const Host,
    raw: *mut RawCtx,
}

// SAFETY: the host's functions may be called by any thread while the kernel runs.
unsafe impl Send for Ctx {}
// SAFETY: as above.
unsafe impl Sync for Ctx {}

impl Ctx {
    /// # Safety
    /// Both come from the host and are live until the value is gone.
    pub(crate) unsafe fn new(host: *const Host, raw: *mut RawCtx) -> Self {
        Self { host, raw }
    }

    pub(crate) fn host(&self) -> &Host {
        // SAFETY: see `new`.
        unsafe { &*self.host }
    }

    pub(crate) fn raw(&self) -> *mut RawCtx {
        self.raw
    }

    /// An error when the job was cancelled or its deadline has passed: call it now and then, with `?`.
    ///
    /// # Errors
    /// [`Code::Cancelled`] or [`Code::TimedOut`].
    #[inline]
    pub fn check(&self) -> Result<(), Error> {
        // SAFETY: the context is live.
        Error::check(unsafe { (self.host().cancelled)(self.raw) })
    }

    /// Whether the job was cancelled or its deadline has passed.
    #[inline]
    #[must_use]
    pub fn cancelled(&self) -> bool {
        // SAFETY: the context is live.
        unsafe { (self.host().cancelled)(self.raw) != 0 }
    }

    /// Tells how far the job is, in whatever unit. Cheap; Python hears of the latest state.
    #[inline]
    pub fn progress(&self, done: u64, total: u64) {
        // SAFETY: the context is live.
        unsafe { (self.host().progress)(self.raw, done, total) };
    }

    /// Hands a value to whoever iterates over the job.
    ///
    /// # Errors
    /// [`Code::Memory`] when too much is waiting to be taken.
    pub fn emit<'a>(&'a self, value: impl IntoResult<'a>) -> Result<(), Error> {
        value.with_val(|val| {
            // SAFETY: the context is live and so is the value.
            Error::check(unsafe { (self.host().emit)(self.raw, val) })
        })
    }

    /// Zeroed memory for `len` elements that can be returned without a copy.
    ///
    /// # Errors
    /// [`Code::Memory`] when a limit of the engine would be passed.
    pub fn memory<T: Element>(&self, len: usize) -> Result<Memory<'_, T>, Error> {
        Memory::new(self, len)
    }

    /// The job's number.
    #[must_use]
    pub fn job_id(&self) -> u64 {
        // SAFETY: the context is live.
        unsafe { (self.host().job_id)(self.raw) }
    }

    /// The memory bus of the engine.
    #[must_use]
    pub fn bus(&self) -> Bus<'_> {
        Bus {
            ctx: self,
            flags: 0,
        }
    }

    pub(crate) fn fail(&self, error: &Error) -> i32 {
        let (message, status) = (error.message(), error.code().status());
        if message.is_empty() {
            return status;
        }
        // SAFETY: the context is live; the host copies the text.
        unsafe { (self.host().fail)(self.raw, status, message.as_ptr().cast(), message.len()) }
    }
}

/// The memory bus: immutable blocks under keys of up to 255 bytes.
#[derive(Clone, Copy)]
pub struct Bus<'a> {
    ctx: &'a Ctx,
    flags: u32,
}

impl<'a> Bus<'a> {
    /// The same bus, where what is written belongs to the job and goes with its handle.
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
    /// [`Code::Memory`] when the bus has no room, [`Code::Invalid`] for a bad key.
    pub fn push(self, key: impl AsRef<[u8]>, data: &[u8]) -> Result<(), Error> {
        let key = key.as_ref();
        // SAFETY: the context is live; the host copies both.
        Error::check(unsafe {
            (self.ctx.host().bus_push)(
                self.ctx.raw,
                key.as_ptr().cast(),
                key.len(),
                data.as_ptr().cast(),
                data.len(),
                self.flags,
            )
        })
    }

    /// Opens `key` for writing `len` bytes in place. Until [`BusWriter::seal`] or the writer's end the key is busy for
    /// Python, and other kernels see what was there before.
    ///
    /// # Errors
    /// [`Code::Memory`] when the bus has no room, [`Code::Invalid`] for a bad key.
    pub fn open(self, key: impl AsRef<[u8]>, len: usize) -> Result<BusWriter<'a>, Error> {
        let key = key.as_ref();
        let mut data = ptr::null_mut();
        // SAFETY: the context is live; the host copies the key.
        Error::check(unsafe {
            (self.ctx.host().bus_open)(
                self.ctx.raw,
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

    /// What is sealed under `key`; it stays valid whatever happens to the key.
    ///
    /// # Errors
    /// [`Code::NotFound`]
    pub fn get(self, key: impl AsRef<[u8]>) -> Result<Buf<'a>, Error> {
        self.read(key.as_ref(), self.ctx.host().bus_get)
    }

    /// Takes what is sealed under `key` off the bus; of several callers one wins.
    ///
    /// # Errors
    /// [`Code::NotFound`]
    pub fn pop(self, key: impl AsRef<[u8]>) -> Result<Buf<'a>, Error> {
        self.read(key.as_ref(), self.ctx.host().bus_pop)
    }

    fn read(
        self,
        key: &[u8],
        read: unsafe extern "C" fn(*mut RawCtx, *const c_void, usize, *mut abi::Buf) -> i32,
    ) -> Result<Buf<'a>, Error> {
        let mut buf = abi::Buf::bytes(ptr::null(), 0, 0);
        // SAFETY: the context is live; the host copies the key and pins the block until the kernel returns.
        unsafe {
            Error::check(read(
                self.ctx.raw,
                key.as_ptr().cast(),
                key.len(),
                &raw mut buf,
            ))?;
            Ok(Buf::new(buf))
        }
    }
}

/// A key of the bus that is being written; aborted unless sealed.
pub struct BusWriter<'a> {
    ctx: &'a Ctx,
    data: *mut c_void,
    len: usize,
}

// SAFETY: it owns its bytes, and the host's functions may be called by any thread.
unsafe impl Send for BusWriter<'_> {}

impl BusWriter<'_> {
    /// Publishes all of it.
    ///
    /// # Errors
    /// [`Code::Closed`] when the bus was closed meanwhile.
    pub fn seal(self) -> Result<(), Error> {
        let len = self.len;
        self.seal_first(len)
    }

    /// Publishes the first `len` bytes.
    ///
    /// # Errors
    /// As for [`BusWriter::seal`]; [`Code::Invalid`] when `len` is more than was opened.
    pub fn seal_first(self, len: usize) -> Result<(), Error> {
        if len > self.len {
            return Err(Error::invalid("more than was opened"));
        }
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the context is live, the writer open, and it is not used any more.
        Error::check(unsafe { (this.ctx.host().bus_seal)(this.ctx.raw, this.data, len) })
    }
}

impl Drop for BusWriter<'_> {
    fn drop(&mut self) {
        // SAFETY: the context is live, the writer open.
        unsafe { (self.ctx.host().bus_abort)(self.ctx.raw, self.data) };
    }
}

impl Deref for BusWriter<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes of this writer alone, zeroed by the host.
        unsafe { std::slice::from_raw_parts(self.data.cast(), self.len) }
    }
}

impl DerefMut for BusWriter<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.data.cast(), self.len) }
    }
}

/// A channel that was passed as an argument. It copies what is pushed.
#[derive(Clone, Copy)]
pub struct Channel<'a> {
    pub(crate) ctx: &'a Ctx,
    pub(crate) id: u64,
}

impl<'a> Channel<'a> {
    /// Adds a copy of a value.
    ///
    /// # Errors
    /// [`Code::Closed`], or [`Code::Memory`] when a limit would be passed.
    pub fn push(self, value: impl IntoResult<'a>) -> Result<(), Error> {
        value.with_val(|val| {
            // SAFETY: the context is live and so is the value.
            Error::check(unsafe { (self.ctx.host().chan_push)(self.ctx.raw, self.id, val) })
        })
    }

    /// Takes a value, the first or the last by the channel's order; `None` if there is none now.
    ///
    /// # Errors
    /// [`Code::Closed`] when the channel is closed and empty.
    pub fn pop(self) -> Result<Option<Value<'a>>, Error> {
        let mut val = abi::Val::NONE;
        // SAFETY: the context is live.
        let status = unsafe { (self.ctx.host().chan_pop)(self.ctx.raw, self.id, &raw mut val) };
        match Error::check(status) {
            // SAFETY: what the host gave is valid until the kernel returns.
            Ok(()) => unsafe { Value::from_val(self.ctx, &val) }.map(Some),
            Err(error) if error.code() == Code::Empty => Ok(None),
            Err(error) => Err(error),
        }
    }
}
