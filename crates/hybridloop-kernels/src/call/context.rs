//! The context of a call: what the host keeps for a kernel until it returns.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use hybridloop_kernel::abi::{self, code, RawCtx};
use hybridloop_sync::primitives::{lock, Mutex};

use crate::arg::Arg;
use crate::bus::{BusError, Key, Writer};
use crate::call::arguments::view_to_buf;
use crate::job::Job;
use crate::memory::block::{BlockBuilder, View};

/// What a kernel has asked the host for. It is dropped when the kernel returns.
#[derive(Default)]
pub(super) struct CallState {
    /// Memory that the kernel has allocated.
    pub builders: Vec<BlockBuilder>,
    /// The total length of `builders`.
    pub allocated: usize,
    /// Open writes on the bus.
    pub writers: Vec<Writer>,
    /// Blocks that the kernel reads.
    pub views: Vec<View>,
    /// Texts from channels that the kernel reads.
    pub texts: Vec<Box<str>>,
    /// The last error that was reported: its status and message.
    pub message: Option<(i32, String)>,
}

/// The host's side of a [`RawCtx`].
pub(super) struct CallContext<'a> {
    pub job: &'a Arc<Job>,
    pub args: &'a [Arg],
    pub state: Mutex<CallState>,
}

impl<'a> CallContext<'a> {
    pub fn new(job: &'a Arc<Job>, args: &'a [Arg]) -> Self {
        Self {
            job,
            args,
            state: Mutex::new(CallState::default()),
        }
    }

    /// The pointer that a kernel gets.
    pub fn as_raw(&self) -> *mut RawCtx {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// The context behind a pointer.
    ///
    /// # Safety
    /// `ctx` comes from [`CallContext::as_raw`], and the kernel that got it has not returned.
    pub unsafe fn from_raw(ctx: *const RawCtx) -> &'a Self {
        // SAFETY: the pointer is to a context that lives until the kernel returns, and contexts are only shared.
        unsafe { &*ctx.cast::<Self>() }
    }

    /// The status of an operation on the bus; keeps the message of an error.
    pub fn report(&self, result: Result<(), BusError>) -> i32 {
        match result {
            Ok(()) => code::OK,
            Err(error) => {
                let status = bus_status(&error);
                lock(&self.state).message = Some((status, error.to_string()));
                status
            }
        }
    }

    /// A key for writing; with the flag `BUS_JOB` one that is removed with the job.
    pub fn key(&self, name: &[u8], flags: u32) -> Result<Key, BusError> {
        if flags & abi::BUS_JOB == 0 {
            return Key::new(name);
        }
        let key = Key::of_job(self.job.id(), name)?;
        self.job.add_key(key.clone());
        Ok(key)
    }

    /// Keeps a view until the kernel returns.
    pub fn keep_view(&self, view: View) -> abi::Buf {
        let mut state = lock(&self.state);
        state.views.push(view);
        // The buffer borrows from the view where it stays, because moving a box ends borrows from it (stacked borrows).
        state
            .views
            .last()
            .map_or(abi::Buf::bytes(ptr::null(), 0, 0), view_to_buf)
    }
}

/// The status code of an error of the bus.
pub(super) fn bus_status(error: &BusError) -> i32 {
    match error {
        BusError::NotFound => code::ENOTFOUND,
        BusError::Capacity { .. } | BusError::Memory => code::ENOMEM,
        BusError::Closed => code::ECLOSED,
        _ => code::EINVAL,
    }
}

/// A slice of bytes that a kernel passes.
///
/// # Safety
/// `data` is null, or `len` bytes at `data` are valid for `'a` and not written meanwhile.
pub(super) unsafe fn bytes<'a>(data: *const c_void, len: usize) -> &'a [u8] {
    if len == 0 || data.is_null() {
        return &[];
    }
    // SAFETY: the pointer is not null, so the caller passes `len` valid bytes.
    unsafe { std::slice::from_raw_parts(data.cast(), len) }
}
