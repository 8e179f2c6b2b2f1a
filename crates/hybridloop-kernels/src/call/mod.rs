//! The call of a kernel by a worker, and what becomes of its result.

mod arguments;
mod context;
mod host;
mod results;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, OnceLock};

use hybridloop_kernel::abi::{code, Val};
use hybridloop_kernel::Code;
use hybridloop_sync::primitives::lock;

use crate::arg::Arg;
use crate::call::arguments::arg_to_val;
use crate::call::context::{bus_status, CallContext};
use crate::call::host::HOST;
use crate::call::results::val_to_value;
use crate::job::result::{JobResult, KernelError};
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

fn invoke(job: &Arc<Job>, args: &[Arg]) -> Result<Value, KernelError> {
    assert_check();
    let result = call_kernel(job, args);
    assert_check();
    result
}

fn call_kernel(job: &Arc<Job>, args: &[Arg]) -> Result<Value, KernelError> {
    let (func, user) = match &job.kernel().target {
        Target::Plain(trampoline) => {
            // SAFETY: the kernel was made with the function's signature, and the arguments were checked against it when the job
            // was submitted. The caller of `Buffer::new` keeps buffers valid until the job is done.
            return unsafe { trampoline.call(args) }
                .ok_or_else(|| KernelError::new(Code::Type, "wrong arguments"));
        }
        Target::Native { func, user, .. } => (*func, *user),
    };
    let call = CallContext::new(job, args);
    let vals: Vec<Val> = args.iter().map(arg_to_val).collect();
    let mut out = Val::NONE;
    // SAFETY: the function has the type of the interface, `user` is its own, and context, arguments and result outlive the
    // call.
    let status = unsafe {
        func(
            &raw const HOST,
            call.as_raw(),
            vals.as_ptr(),
            vals.len(),
            &raw mut out,
            user,
        )
    };
    if status == code::OK {
        // SAFETY: a kernel that returns OK has set a valid result.
        return unsafe { val_to_value(&call, &out, true) };
    }
    let code = Code::from_status(status);
    let message = lock(&call.state).message.take();
    let message = match message {
        Some((of, text)) if of == status => text,
        _ => code.description().to_owned(),
    };
    Err(KernelError { code, message })
}

fn publish(job: &Job, value: &Value) -> Result<(), KernelError> {
    let (Some(key), bus) = (job.key(), &job.resources.bus) else {
        return Ok(());
    };
    let pushed = match value {
        Value::None => bus.push(key.clone(), &[]),
        Value::Bool(value) => bus.push(key.clone(), &[u8::from(*value)]),
        Value::Int(value) => bus.push(key.clone(), &value.to_ne_bytes()),
        Value::UInt(value) => bus.push(key.clone(), &value.to_ne_bytes()),
        Value::Float(value) => bus.push(key.clone(), &value.to_ne_bytes()),
        Value::Str(text) => bus.push(key.clone(), text.as_bytes()),
        Value::Buffer(view) => bus.push_view(key, view.clone()),
    };
    pushed.map_err(|error| {
        KernelError::new(
            Code::from_status(bus_status(&error)),
            format!("key {key}: {error}"),
        )
    })
}

/// Runs a job that was started, to its result.
pub(crate) fn run(job: &Arc<Job>) {
    let args = job.take_args();
    let returned = if job.stop_reason().is_some() {
        Ok(Value::None)
    } else {
        catch_unwind(AssertUnwindSafe(|| invoke(job, &args))).unwrap_or_else(|_| {
            Err(KernelError::new(
                Code::Panic,
                "a panic while the kernel ran",
            ))
        })
    };
    // If the kernel was not called, because the job was cancelled or late, this says so.
    let result = job.kernel_returned().unwrap_or_else(|| {
        match returned.and_then(|value| publish(job, &value).map(|()| value)) {
            Ok(value) => JobResult::Value(value),
            Err(error) => JobResult::Error(error),
        }
    });
    drop(args);
    job.finish(result);
}
