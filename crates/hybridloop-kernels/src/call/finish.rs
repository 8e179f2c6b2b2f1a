//! The end of a call: its result, and how its job gets it.

use std::sync::Arc;

use hybridloop_kernel::abi::{code, Val};
use hybridloop_kernel::Code;
use hybridloop_sync::primitives::{lock, Ordering};

use crate::call::context::{bus_status, CallContext};
use crate::call::results::val_to_value;
use crate::job::result::{JobResult, KernelError};
use crate::job::Job;
use crate::value::Value;

/// What a kernel returns or completes a token with.
///
/// # Safety
/// `out` is valid as `hybridloop.h` describes it if the status is 0.
pub(super) unsafe fn output(
    call: &CallContext,
    status: i32,
    out: &Val,
) -> Result<Value, KernelError> {
    match status {
        // SAFETY: the caller passes a valid value.
        code::OK => return declared(call, unsafe { val_to_value(call, out, true) }?),
        code::PENDING => {
            return Err(KernelError::new(
                Code::Result,
                "the kernel returned HL_PENDING, but it has no token",
            ))
        }
        _ => {}
    }
    let code = Code::from_status(status);
    let message = lock(&call.state).message.take();
    let message = match message {
        Some((of, text)) if of == status => text,
        _ => code.description().to_owned(),
    };
    Err(KernelError { code, message })
}

/// A result in the form of the type that the kernel declares.
fn declared(call: &CallContext, value: Value) -> Result<Value, KernelError> {
    let Some(signature) = call.job.kernel().signature() else {
        return Ok(value);
    };
    let converted = signature.result.convert_result(value);
    converted.map_err(|what| KernelError::new(Code::Result, format!("the kernel {what}")))
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

/// The result of a job whose kernel has returned this. From now on it is too late to cancel.
pub(super) fn job_result(job: &Job, returned: Result<Value, KernelError>) -> JobResult {
    // If the kernel was not called, because the job was cancelled or late, this says so.
    job.kernel_returned().unwrap_or_else(|| {
        match returned.and_then(|value| publish(job, &value).map(|()| value)) {
            Ok(value) => JobResult::Value(value),
            Err(error) => JobResult::Error(error),
        }
    })
}

/// Gives a job that has run its result. Everything of the call is dropped.
pub(super) fn finish(job: &Arc<Job>, result: JobResult) {
    job.resources.completed.fetch_add(1, Ordering::Relaxed);
    job.finish(result);
}
