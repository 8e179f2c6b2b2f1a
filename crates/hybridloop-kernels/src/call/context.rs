//! The context of a call: what the host keeps for a kernel until the call ends.

use std::ffi::c_void;
use std::mem::size_of;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::{Arc, OnceLock, Weak};

use hybridloop_kernel::abi::{self, code, DropFn, RawCtx, StopFn};
use hybridloop_sync::primitives::{lock, Mutex, RwLock};

use crate::arg::Arg;
use crate::bus::{BusError, Key, Writer};
use crate::call::arguments::view_to_buf;
use crate::job::result::JobResult;
use crate::job::Job;
use crate::memory::block::{BlockBuilder, View};
use crate::memory::limit::{MemoryLimit, Reservation};

/// A list of what a kernel has asked for. A kernel decides how long it gets, so it counts towards a limit.
pub(super) struct Kept<T> {
    list: Vec<T>,
    reservation: Reservation,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            reservation: Reservation::default(),
        }
    }
}

impl<T> Kept<T> {
    /// Makes room for one more; `false` if there is not enough memory.
    pub fn reserve(&mut self, limit: &Arc<MemoryLimit>) -> bool {
        let capacity = self.list.capacity();
        if self.list.len() < capacity {
            return true;
        }
        // The first few are not worth counting.
        let more = (2 * capacity).max(4);
        if more > 4 {
            let Some(reservation) = limit.reserve(more * size_of::<T>()) else {
                return false;
            };
            self.reservation = reservation;
        }
        self.list.try_reserve_exact(more - capacity).is_ok()
    }
}

impl<T> Deref for Kept<T> {
    type Target = Vec<T>;
    fn deref(&self) -> &Vec<T> {
        &self.list
    }
}

impl<T> DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.list
    }
}

/// What a kernel has asked the host for. It is dropped when the call ends.
#[derive(Default)]
pub(super) struct CallState {
    /// Memory that the kernel has allocated.
    pub builders: Kept<BlockBuilder>,
    /// Open writes on the bus.
    pub writers: Kept<Writer>,
    /// Blocks that the kernel reads.
    pub views: Kept<View>,
    /// The last error that was reported: its status and message.
    pub message: Option<(i32, String)>,
}

/// The functions of a kernel for its token, and their data.
pub(super) struct Handler {
    pub data: *mut c_void,
    pub stop: Option<StopFn>,
    pub drop: Option<DropFn>,
}

// SAFETY: the interface demands that any thread may call the functions with the data.
unsafe impl Send for Handler {}
// SAFETY: a shared reference only copies the pointers.
unsafe impl Sync for Handler {}

impl Handler {
    /// Releases the data, which is not used afterwards.
    pub fn release(&self) {
        if let Some(drop) = self.drop {
            // SAFETY: the function is that of the kernel for its data, and the caller calls it once.
            unsafe { drop(self.data) };
        }
    }
}

/// A call that may go on when its kernel has returned.
pub(super) trait Deferrable: Send + Sync {
    /// The token of the call; `None` if it has one already, or there is no thread.
    fn defer(self: Arc<Self>, handler: Handler) -> Option<u64>;
}

/// The host's side of a [`RawCtx`].
pub(super) struct CallContext {
    pub job: Arc<Job>,
    pub args: Vec<Arg>,
    pub state: Mutex<CallState>,
    /// Held, with others, while a value is copied and queued by a kernel that waits.
    pub emitting: RwLock<()>,
    /// What the job may allocate, if that is less than the engine's limit.
    own_limit: OnceLock<Arc<MemoryLimit>>,
    /// The call, if its kernel may return before it ends.
    deferrable: Option<Weak<dyn Deferrable>>,
}

impl CallContext {
    pub fn new(job: Arc<Job>, args: Vec<Arg>, deferrable: Option<Weak<dyn Deferrable>>) -> Self {
        Self {
            job,
            args,
            state: Mutex::new(CallState::default()),
            emitting: RwLock::new(()),
            own_limit: OnceLock::new(),
            deferrable,
        }
    }

    /// The job and its arguments, without what the kernel has asked for.
    pub fn into_parts(self) -> (Arc<Job>, Vec<Arg>) {
        (self.job, self.args)
    }

    pub fn deferrable(&self) -> Option<Arc<dyn Deferrable>> {
        self.deferrable.as_ref()?.upgrade()
    }

    /// What everything counts towards that the kernel allocates, emits or pushes to a channel.
    pub fn memory(&self) -> &Arc<MemoryLimit> {
        let resources = &self.job.resources;
        match resources.job_memory {
            usize::MAX => &resources.memory,
            limit => self
                .own_limit
                .get_or_init(|| MemoryLimit::within(&resources.memory, limit)),
        }
    }

    /// The pointer that a kernel gets.
    pub fn as_raw(&self) -> *mut RawCtx {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// The context behind a pointer.
    ///
    /// # Safety
    /// `ctx` is the pointer that a kernel got, and its call has not ended.
    pub unsafe fn from_raw<'a>(ctx: *const RawCtx) -> &'a Self {
        // SAFETY: the pointer is to a context that lives until the call ends, and contexts are only shared.
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
}

impl CallState {
    /// Keeps a view, for which there is room, until the call ends.
    pub fn keep_view(&mut self, view: View) -> abi::Buf {
        self.views.push(view);
        // The buffer borrows from the view where it stays, because moving a box ends borrows from it (stacked borrows).
        self.views
            .last()
            .map_or(abi::Buf::bytes(ptr::null(), 0, 0), view_to_buf)
    }
}

/// The status code of a reason to stop.
pub(super) fn stop_code(reason: &JobResult) -> i32 {
    match reason {
        JobResult::TimedOut => code::ETIMEDOUT,
        _ => code::ECANCELED,
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
