//! One call of a kernel on a worker, and what becomes of its result.

mod convert;
mod host;
pub mod trampoline;

use std::ffi::c_void;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::{Arc, OnceLock};

use hybridloop_kernel::abi::{self, code, RawCtx, Val};
use hybridloop_kernel::Code;
use hybridloop_sync::primitives::{lock, Mutex};

use convert::{convert, describe, to_val};
use host::HOST;

use crate::bus::{BusError, Key, Writer};
use crate::job::result::{KernelError, Outcome};
use crate::job::Job;
use crate::memory::block::{Draft, View};
use crate::registry::Target;
use crate::value::{Arg, Value};

/// What a kernel has asked for and what goes when it returns.
#[derive(Default)]
struct Held {
    drafts: Vec<Draft>,
    writers: Vec<Writer>,
    views: Vec<View>,
    texts: Vec<Box<str>>,
    message: Option<(i32, String)>,
    /// Bytes in drafts.
    used: usize,
}

/// What a [`RawCtx`] is on this side.
struct Call<'a> {
    job: &'a Arc<Job>,
    args: &'a [Arg],
    held: Mutex<Held>,
}

/// # Safety
/// A context that the host has passed to a kernel that has not returned.
unsafe fn call<'a>(ctx: *const RawCtx) -> &'a Call<'a> {
    // SAFETY: as the caller promises.
    unsafe { &*ctx.cast::<Call<'a>>() }
}

/// # Safety
/// `len` bytes at `data` are valid for `'a`.
unsafe fn bytes<'a>(data: *const c_void, len: usize) -> &'a [u8] {
    if len == 0 || data.is_null() {
        return &[];
    }
    // SAFETY: as the caller promises.
    unsafe { std::slice::from_raw_parts(data.cast(), len) }
}

fn status(error: &BusError) -> i32 {
    match error {
        BusError::NotFound => code::ENOTFOUND,
        BusError::Capacity { .. } | BusError::Memory => code::ENOMEM,
        BusError::Closed => code::ECLOSED,
        _ => code::EINVAL,
    }
}

impl Call<'_> {
    /// The status of what a function of the host does; the bus's words go along.
    fn report(&self, outcome: Result<(), BusError>) -> i32 {
        match outcome {
            Ok(()) => code::OK,
            Err(error) => {
                let status = status(&error);
                lock(&self.held).message = Some((status, error.to_string()));
                status
            }
        }
    }

    fn key(&self, name: &[u8], flags: u32) -> Result<Key, BusError> {
        if flags & abi::BUS_JOB == 0 {
            return Key::new(name);
        }
        let key = Key::of_job(self.job.id(), name)?;
        self.job.own_key(key.clone());
        Ok(key)
    }

    /// Keeps a view until the kernel returns.
    fn pin(&self, view: View) -> abi::Buf {
        let mut held = lock(&self.held);
        held.views.push(view);
        // Only from where it stays: to move a box, such as that of a format, ends what was borrowed from it.
        held.views
            .last()
            .map_or(abi::Buf::bytes(ptr::null(), 0, 0), describe)
    }
}

/// Asked before and after each call of a kernel, in debug builds.
static CHECK: OnceLock<fn() -> bool> = OnceLock::new();

/// Sets what has to hold around each call of a kernel, once: debug builds assert it. The binding says here that workers do not
/// hold Python's lock.
pub fn check_calls(check: fn() -> bool) {
    // The first one stays.
    let _ = CHECK.set(check);
}

fn assert_check() {
    debug_assert!(
        CHECK.get().is_none_or(|check| check()),
        "a worker holds Python's lock"
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
            // SAFETY: the arguments were checked against the signature when the job was submitted.
            return unsafe { trampoline.call(args) }
                .ok_or_else(|| KernelError::new(Code::Type, "wrong arguments"));
        }
        Target::Native { func, user, .. } => (*func, *user),
    };
    let call = Call {
        job,
        args,
        held: Mutex::new(Held::default()),
    };
    let vals: Vec<Val> = args.iter().map(to_val).collect();
    let mut out = Val::NONE;
    let ctx = (&raw const call).cast_mut().cast::<RawCtx>();
    // SAFETY: a kernel, called as the header says; the context and the arguments outlive the call.
    let status = unsafe {
        func(
            &raw const HOST,
            ctx,
            vals.as_ptr(),
            vals.len(),
            &raw mut out,
            user,
        )
    };
    if status == code::OK {
        // SAFETY: what a kernel returns is as the header says.
        return unsafe { convert(&call, &out, true) };
    }
    let code = Code::from_status(status);
    let message = lock(&call.held).message.take();
    let message = match message {
        Some((of, text)) if of == status => text,
        _ => code.description().to_owned(),
    };
    Err(KernelError { code, message })
}

fn publish(job: &Job, value: &Value) -> Result<(), KernelError> {
    let (Some(key), bus) = (job.key(), &job.shared.bus) else {
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
            Code::from_status(status(&error)),
            format!("key {key}: {error}"),
        )
    })
}

/// Runs a job that was started, to its outcome.
pub(crate) fn run(job: &Arc<Job>) {
    let args = job.take_args();
    let result = if job.interruption().is_some() {
        Ok(Value::None)
    } else {
        catch_unwind(AssertUnwindSafe(|| invoke(job, &args))).unwrap_or_else(|_| {
            Err(KernelError::new(
                Code::Panic,
                "a panic while the kernel ran",
            ))
        })
    };
    // What was cancelled or late before the call is so now.
    let outcome = job.settle().unwrap_or_else(|| {
        match result.and_then(|value| publish(job, &value).map(|()| value)) {
            Ok(value) => Outcome::Value(value),
            Err(error) => Outcome::Error(error),
        }
    });
    drop(args);
    job.finish(outcome);
}
