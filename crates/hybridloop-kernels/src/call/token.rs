//! Completion tokens: calls that go on when their kernels have returned, and who ends them.
//!
//! The context of a kernel that may return `HL_PENDING` is on the heap. Two end its call: the worker, when the kernel has returned,
//! and whoever completes the token. The first leaves its reference to the call for the second, which is then the only one to have
//! the call, and gives the job its result.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard as StdMutexGuard, PoisonError, Weak};
use std::time::Instant;

use hybridloop_kernel::abi::{code, DropFn, RawCtx, StopFn, Val};
use hybridloop_sync::fork::PerProcess;
use hybridloop_sync::primitives::{lock, Mutex};

use crate::arg::Arg;
use crate::call::arguments::arg_to_val;
use crate::call::context::{stop_code, CallContext, Deferrable, Handler};
use crate::call::finish::{finish, job_result, output};
use crate::job::deferred::DeferredCall;
use crate::job::result::KernelError;
use crate::job::Job;
use crate::value::Value;

/// The tokens that were not used, with their calls.
#[derive(Default)]
struct Tokens(StdMutex<BTreeMap<u64, Arc<DeferrableCall>>>);

impl Tokens {
    /// The tokens of this process. The child of a fork has no call of its parent.
    fn of_process() -> &'static Self {
        static TOKENS: PerProcess<Tokens> = PerProcess::new();
        TOKENS.get()
    }

    fn lock(&self) -> StdMutexGuard<'_, BTreeMap<u64, Arc<DeferrableCall>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses a token up; `None` if it was used, or never was one.
    fn take(token: u64) -> Option<Arc<DeferrableCall>> {
        Self::of_process().lock().remove(&token)
    }
}

/// The call of a kernel that may return `HL_PENDING`.
#[repr(C)]
pub(super) struct DeferrableCall {
    /// The first field, because the kernel gets a pointer to the call as that to its context.
    context: CallContext,
    vals: Vec<Val>,
    /// What there is since the kernel has asked for its token.
    deferral: Mutex<Option<Arc<Deferral>>>,
}

// SAFETY: the values point to the arguments, which live as long as they and are not changed, and which any thread may use.
unsafe impl Send for DeferrableCall {}
// SAFETY: the values are only read; the rest is made to be shared.
unsafe impl Sync for DeferrableCall {}

impl DeferrableCall {
    pub fn new(job: Arc<Job>, args: Vec<Arg>) -> Arc<Self> {
        Arc::new_cyclic(|call: &Weak<Self>| {
            let deferrable: Weak<dyn Deferrable> = call.clone();
            // The values point to what the vector owns, which stays where it is when the vector moves.
            let vals = args.iter().map(arg_to_val).collect();
            Self {
                context: CallContext::new(job, args, Some(deferrable)),
                vals,
                deferral: Mutex::new(None),
            }
        })
    }

    /// The pointer that the kernel gets as its context.
    pub fn as_raw(self: &Arc<Self>) -> *mut RawCtx {
        Arc::as_ptr(self).cast_mut().cast()
    }

    pub fn vals(&self) -> &[Val] {
        &self.vals
    }

    /// The kernel has returned.
    pub fn returned(self: Arc<Self>, status: i32, out: &Val) {
        let deferral = lock(&self.deferral).clone();
        match deferral {
            Some(deferral) if status == code::PENDING => deferral.wait_for_token(self),
            deferral => {
                // SAFETY: a kernel that returns OK has set a valid result.
                let returned = unsafe { output(&self.context, status, out) };
                if let Some(deferral) = &deferral {
                    drop(Tokens::take(deferral.job.id()));
                    let before = std::mem::replace(&mut *lock(&deferral.phase), Phase::Ended);
                    drop(before);
                }
                self.end(returned);
            }
        }
    }

    /// Gives the job its result. Nobody else has the call, or soon nobody will.
    pub fn end(self: Arc<Self>, returned: Result<Value, KernelError>) {
        let job = self.context.job.clone();
        let deferral = lock(&self.deferral).take();
        // With the memory of the kernel and its arguments.
        drop(self);
        let result = job_result(&job, returned);
        if let Some(deferral) = deferral {
            deferral.release();
        }
        finish(&job, result);
    }
}

impl Deferrable for DeferrableCall {
    fn defer(self: Arc<Self>, handler: Handler) -> Option<u64> {
        let job = self.context.job.clone();
        let token = job.id();
        let mut deferral = lock(&self.deferral);
        if deferral.is_some() || (handler.stop.is_some() && !job.resources.deferred.start()) {
            return None;
        }
        *deferral = Some(Arc::new(Deferral {
            job,
            handler,
            phase: Mutex::new(Phase::Running),
            stop: Mutex::new(Stop::NotCalled),
        }));
        drop(deferral);
        Tokens::of_process().lock().insert(token, self);
        Some(token)
    }
}

/// Which of the two that end a call has done its part.
enum Phase {
    /// The kernel runs, and nobody has completed the token.
    Running,
    /// The kernel has returned.
    Returned(Arc<DeferrableCall>),
    /// The token was completed.
    Completed(Arc<DeferrableCall>, Result<Value, KernelError>),
    /// Both.
    Ended,
}

enum Stop {
    NotCalled,
    Running,
    /// The call has ended meanwhile: who runs it releases the data.
    RunningReleases,
    Over,
}

/// A call whose kernel has asked for a token.
struct Deferral {
    job: Arc<Job>,
    handler: Handler,
    phase: Mutex<Phase>,
    stop: Mutex<Stop>,
}

impl Deferral {
    /// The kernel has returned `HL_PENDING`.
    fn wait_for_token(self: Arc<Self>, call: Arc<DeferrableCall>) {
        let mut phase = lock(&self.phase);
        match std::mem::replace(&mut *phase, Phase::Ended) {
            Phase::Completed(other, returned) => {
                drop(phase);
                drop(other);
                call.end(returned);
            }
            _ => {
                let deadline = self.deadline();
                let deferred = &self.job.resources.deferred;
                // Before the call can be completed, which removes it.
                deferred.add(self.job.id(), self.clone(), deadline);
                *phase = Phase::Returned(call);
                drop(phase);
                // Whoever has cancelled the job before did not find it there.
                self.stop();
            }
        }
    }

    /// The token was used; `false` if the kernel has returned a result instead.
    fn completed(
        self: Arc<Self>,
        call: Arc<DeferrableCall>,
        returned: Result<Value, KernelError>,
    ) -> bool {
        let mut phase = lock(&self.phase);
        match std::mem::replace(&mut *phase, Phase::Ended) {
            Phase::Running => {
                *phase = Phase::Completed(call, returned);
                true
            }
            Phase::Returned(other) => {
                drop(phase);
                drop(other);
                let deferred = self.job.resources.deferred.clone();
                deferred.remove(self.job.id(), self.deadline());
                call.end(returned);
                // Whoever closes the engine finds that nobody has the job.
                drop(self);
                deferred.ended();
                true
            }
            Phase::Completed(..) | Phase::Ended => false,
        }
    }

    /// When it is to be stopped.
    fn deadline(&self) -> Option<Instant> {
        self.job.deadline().filter(|_| self.handler.stop.is_some())
    }

    /// The call has ended: the data is released, now or when `stop` has returned.
    fn release(&self) {
        let mut stop = lock(&self.stop);
        if matches!(*stop, Stop::Running) {
            *stop = Stop::RunningReleases;
            return;
        }
        *stop = Stop::Over;
        drop(stop);
        self.handler.release();
    }
}

impl DeferredCall for Deferral {
    fn cancel(&self) {
        self.job.cancel();
    }

    fn stop(&self) {
        let Some(function) = self.handler.stop else {
            return;
        };
        let Some(reason) = self.job.stop_reason() else {
            return;
        };
        let mut stop = lock(&self.stop);
        if !matches!(*stop, Stop::NotCalled) {
            return;
        }
        *stop = Stop::Running;
        drop(stop);
        // SAFETY: the function is that of the kernel for its data, which is released later: `release()` sees that it runs. The
        // job keeps the kernel, and so its code.
        unsafe { function(self.handler.data, stop_code(&reason)) };
        let after = std::mem::replace(&mut *lock(&self.stop), Stop::Over);
        if matches!(after, Stop::RunningReleases) {
            self.handler.release();
        }
    }

    fn kernel(&self) -> String {
        self.job.kernel().name().to_owned()
    }
}

/// Completes the call of a token.
///
/// # Safety
/// `out` is null, or points to a value that is valid as `hybridloop.h` describes it.
pub(super) unsafe extern "C" fn complete(token: u64, status: i32, out: *const Val) -> i32 {
    let Some(call) = Tokens::take(token) else {
        return code::ECLOSED;
    };
    let deferral = lock(&call.deferral).clone();
    let Some(deferral) = deferral else {
        // The kernel has just returned a result.
        return code::ECLOSED;
    };
    // SAFETY: the caller passes null or a valid value.
    let returned = unsafe { output(&call.context, status, out.as_ref().unwrap_or(&Val::NONE)) };
    if deferral.completed(call, returned) {
        code::OK
    } else {
        code::ECLOSED
    }
}

/// Makes the token of a call; 0 if it gets none.
///
/// # Safety
/// `ctx` is the context of a call that has not ended; `stop` and `drop` may be called with `data` as `hybridloop.h` describes it.
pub(super) unsafe extern "C" fn defer(
    ctx: *mut RawCtx,
    data: *mut c_void,
    stop: Option<StopFn>,
    drop: Option<DropFn>,
) -> u64 {
    // SAFETY: the kernel passes its own context, and the call has not ended.
    let call = unsafe { CallContext::from_raw(ctx) };
    let handler = Handler { data, stop, drop };
    call.deferrable()
        .and_then(|call| call.defer(handler))
        .unwrap_or(0)
}
