//! The context of a running kernel.

use std::mem::size_of;
use std::sync::{OnceLock, Weak};

use crate::abi::{CompleteFn, DeferFn, Host, HostBase, RawCtx};
use crate::error::Error;

/// The context of a call. It may be shared with threads that end before the kernel returns.
pub struct Ctx {
    host: *const Host,
    raw: *mut RawCtx,
    /// Alive as long as the token of the call, if it has one.
    pub(crate) token: OnceLock<Weak<()>>,
}

// SAFETY: any thread may call the functions of the host until the call ends.
unsafe impl Send for Ctx {}
// SAFETY: several threads may call them at the same time.
unsafe impl Sync for Ctx {}

impl Ctx {
    /// # Safety
    /// `host` and `raw` are those that the host has passed to a kernel, and the call does not end before the value is dropped.
    pub(crate) unsafe fn new(host: *const Host, raw: *mut RawCtx) -> Self {
        Self {
            host,
            raw,
            token: OnceLock::new(),
        }
    }

    pub(crate) fn host(&self) -> &HostBase {
        // SAFETY: `new` demands a table that is valid as long as `self`, and every table begins with these fields.
        unsafe { &*self.host.cast() }
    }

    pub(crate) fn table(&self) -> *const Host {
        self.host
    }

    /// The functions for tokens; `None` if the host is older.
    pub(crate) fn token_functions(&self) -> Option<(DeferFn, CompleteFn)> {
        if (self.host().size as usize) < size_of::<Host>() {
            return None;
        }
        // SAFETY: `new` demands a valid table, and its size says that it has all fields.
        Some(unsafe { ((*self.host).defer, (*self.host).complete) })
    }

    /// The pointer for calls of the functions of the host by hand.
    #[must_use]
    pub fn raw(&self) -> *mut RawCtx {
        self.raw
    }

    /// An error if the job was cancelled or its deadline has passed. A long kernel calls it regularly, with `?`.
    ///
    /// # Errors
    /// [`Code::Cancelled`](crate::Code::Cancelled) or [`Code::TimedOut`](crate::Code::TimedOut).
    #[inline]
    pub fn check(&self) -> Result<(), Error> {
        // SAFETY: the context is valid, as `new` demands.
        Error::check(unsafe { (self.host().cancelled)(self.raw) })
    }

    /// Whether the job was cancelled or its deadline has passed.
    #[inline]
    #[must_use]
    pub fn cancelled(&self) -> bool {
        // SAFETY: the context is valid, as `new` demands.
        unsafe { (self.host().cancelled)(self.raw) != 0 }
    }

    /// Reports progress, in any unit. It is cheap; Python sees the latest state.
    #[inline]
    pub fn progress(&self, done: u64, total: u64) {
        // SAFETY: the context is valid, as `new` demands.
        unsafe { (self.host().progress)(self.raw, done, total) };
    }

    /// The job's number.
    #[must_use]
    pub fn job_id(&self) -> u64 {
        // SAFETY: the context is valid, as `new` demands.
        unsafe { (self.host().job_id)(self.raw) }
    }

    pub(crate) fn fail(&self, error: &Error) -> i32 {
        let (message, status) = (error.message(), error.code().status());
        if message.is_empty() {
            return status;
        }
        // SAFETY: the context is valid, as `new` demands, and the host copies the text during the call.
        unsafe { (self.host().fail)(self.raw, status, message.as_ptr().cast(), message.len()) }
    }
}
