//! The call of a kernel by a worker, and what becomes of its result.

mod arguments;
mod context;
mod finish;
mod host;
mod results;
mod token;

use std::ffi::c_void;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, OnceLock};

use hybridloop_kernel::abi::{code, KernelFn, RawCtx, Val};
use hybridloop_kernel::Code;

use crate::call::arguments::arg_to_val;
use crate::call::context::CallContext;
use crate::call::finish::{finish, job_result, output};
use crate::call::host::HOST;
use crate::call::token::DeferrableCall;
use crate::job::result::KernelError;
use crate::job::Job;
use crate::registry::kernel::Target;
use crate::value::Value;

/// Reserves bytes that a built-in kernel, or a library that it calls, allocates itself.
#[cfg(not(loom))]
pub(crate) fn reserve(
    ctx: &hybridloop_kernel::Ctx,
    bytes: usize,
) -> Option<crate::memory::limit::Reservation> {
    // SAFETY: only built-in kernels call this, which only `call_kernel` calls, with a context of its own.
    unsafe { CallContext::from_raw(ctx.raw()) }
        .memory()
        .reserve(bytes)
}

/// Called before and after each call of a kernel, in debug builds.
static CALL_CHECK: OnceLock<fn() -> bool> = OnceLock::new();

/// Sets a function that debug builds assert before and after each call of a kernel. The binding checks with it that workers do
/// not hold Python's interpreter lock. Only the first call has an effect.
pub fn set_call_check(check: fn() -> bool) {
    let _ = CALL_CHECK.set(check);
}

fn assert_check() {
    debug_assert!(
        CALL_CHECK.get().is_none_or(|check| check()),
        "a worker holds Python's interpreter lock"
    );
}

/// Calls the function of a kernel, and gives its status.
///
/// # Safety
/// The function has the type of the interface, `user` is its own, and `ctx` and `vals` are those of a call of it.
unsafe fn invoke(
    func: KernelFn,
    user: *mut c_void,
    ctx: *mut RawCtx,
    vals: &[Val],
    out: &mut Val,
) -> i32 {
    assert_check();
    // SAFETY: the caller passes a function and its data; context, arguments and result outlive the call.
    let status = unsafe { func(&raw const HOST, ctx, vals.as_ptr(), vals.len(), out, user) };
    assert_check();
    status
}

fn panicked() -> KernelError {
    KernelError::new(Code::Panic, "a panic while the kernel ran")
}

/// Runs a job that was started, to its result, or until its kernel has left the end to its token.
pub(crate) fn run(job: Arc<Job>) {
    let args = job.take_args();
    if job.stop_reason().is_some() {
        drop(args);
        let result = job_result(&job, Ok(Value::None));
        return finish(&job, result);
    }
    let (func, user) = match &job.kernel().target {
        Target::Plain(trampoline) => {
            let call = || {
                assert_check();
                // SAFETY: the kernel was made with the function's signature, and the arguments were checked against it when the
                // job was submitted. The caller of `Buffer::new` keeps buffers valid until the job is done.
                let returned = unsafe { trampoline.call(&args) };
                assert_check();
                returned.ok_or_else(|| KernelError::new(Code::Type, "wrong arguments"))
            };
            let returned = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(panicked()));
            let result = job_result(&job, returned);
            drop(args);
            return finish(&job, result);
        }
        Target::Native { func, user, .. } => (*func, *user),
    };
    if job.kernel().is_async() {
        return run_async(func, user, DeferrableCall::new(job, args));
    }
    let context = CallContext::new(job, args, None);
    let call = || {
        let vals: Vec<Val> = context.args.iter().map(arg_to_val).collect();
        let mut out = Val::NONE;
        // SAFETY: the function and its data are those of the kernel, for which the context and the arguments were made. A kernel
        // that returns OK has set a valid result.
        unsafe {
            let status = invoke(func, user, context.as_raw(), &vals, &mut out);
            output(&context, status, &out)
        }
    };
    let returned = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(panicked()));
    let (job, args) = context.into_parts();
    let result = job_result(&job, returned);
    drop(args);
    finish(&job, result);
}

fn run_async(func: KernelFn, user: *mut c_void, call: Arc<DeferrableCall>) {
    let mut out = Val::NONE;
    let invoke = || {
        // SAFETY: the function and its data are those of the kernel, for which the call was made.
        unsafe { invoke(func, user, call.as_raw(), call.vals(), &mut out) }
    };
    let status = catch_unwind(AssertUnwindSafe(invoke)).unwrap_or(code::EPANIC);
    call.returned(status, &out);
}
