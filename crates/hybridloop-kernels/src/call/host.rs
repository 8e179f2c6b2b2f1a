//! The functions of the host for kernels: those of [`Host`].
//!
//! Each gets the context of the kernel that calls it. `hybridloop.h` demands that a kernel passes the context that it was
//! called with, from any thread but only until the call ends, and pointers that are valid during the call.

use std::ffi::{c_char, c_void};
use std::ptr;

use hybridloop_kernel::abi::{self, code, kind, Host, HostBase, RawCtx, Val};
use hybridloop_sync::primitives::{lock, read_lock, write_lock};

use crate::arg::Arg;
use crate::bus::Writer;
use crate::call::context::{bytes, stop_code, CallContext};
use crate::call::results::val_to_value;
use crate::call::token::{complete, defer};
use crate::channel::{Channel, ChannelError};
use crate::job::EmitError;
use crate::memory::block::{BlockBuilder, ALIGN};
use crate::value::{Queued, Value};

unsafe extern "C" fn cancelled(ctx: *const RawCtx) -> i32 {
    // SAFETY: the kernel passes its own context, and the call has not ended.
    let reason = unsafe { CallContext::from_raw(ctx) }.job.stop_reason();
    reason.map_or(code::OK, |reason| stop_code(&reason))
}

unsafe extern "C" fn progress(ctx: *mut RawCtx, done: u64, total: u64) {
    // SAFETY: the kernel passes its own context, and the call has not ended.
    unsafe { CallContext::from_raw(ctx) }
        .job
        .set_progress(done, total);
}

unsafe extern "C" fn alloc(ctx: *mut RawCtx, n: usize, align: usize) -> *mut c_void {
    // SAFETY: the kernel passes its own context, and the call has not ended.
    let call = unsafe { CallContext::from_raw(ctx) };
    let memory = call.memory();
    let mut state = lock(&call.state);
    if !align.is_power_of_two() || align > ALIGN || !state.builders.reserve(memory) {
        return ptr::null_mut();
    }
    // At least one byte, so that every allocation has an address of its own.
    let align = if n >= ALIGN { ALIGN } else { align };
    let Some(mut builder) = BlockBuilder::aligned(n.max(1), align, memory) else {
        return ptr::null_mut();
    };
    let data = builder.as_mut_ptr();
    state.builders.push(builder);
    data.cast()
}

unsafe extern "C" fn resize(ctx: *mut RawCtx, data: *mut c_void, n: usize) -> *mut c_void {
    // SAFETY: the kernel passes its own context, and the call has not ended.
    let call = unsafe { CallContext::from_raw(ctx) };
    let mut state = lock(&call.state);
    let Some(at) = state
        .builders
        .iter()
        .position(|builder| builder.as_ptr() == data.cast())
    else {
        return ptr::null_mut();
    };
    if !state.builders[at].resize(n.max(1)) {
        return ptr::null_mut();
    }
    state.builders[at].as_mut_ptr().cast()
}

unsafe extern "C" fn free(ctx: *mut RawCtx, data: *mut c_void) {
    // SAFETY: the kernel passes its own context, and the call has not ended.
    let call = unsafe { CallContext::from_raw(ctx) };
    let mut state = lock(&call.state);
    if let Some(at) = state
        .builders
        .iter()
        .position(|builder| builder.as_ptr() == data.cast())
    {
        drop(state.builders.swap_remove(at));
    }
}

unsafe extern "C" fn fail(ctx: *mut RawCtx, code: i32, text: *const c_char, n: usize) -> i32 {
    // SAFETY: the kernel passes its own context, the call has not ended, and its pointers are valid during the call.
    let (call, text) = unsafe { (CallContext::from_raw(ctx), bytes(text.cast(), n)) };
    lock(&call.state).message = Some((code, String::from_utf8_lossy(text).into_owned()));
    code
}

unsafe extern "C" fn bus_push(
    ctx: *mut RawCtx,
    key: *const c_void,
    key_len: usize,
    data: *const c_void,
    n: usize,
    flags: u32,
) -> i32 {
    // SAFETY: the kernel passes its own context, the call has not ended, and its pointers are valid during the call.
    let (call, name, data) = unsafe {
        (
            CallContext::from_raw(ctx),
            bytes(key, key_len),
            bytes(data, n),
        )
    };
    let key = call.key(name, flags);
    call.report(key.and_then(|key| call.job.resources.bus.push(key, data)))
}

unsafe extern "C" fn bus_open(
    ctx: *mut RawCtx,
    key: *const c_void,
    key_len: usize,
    n: usize,
    flags: u32,
    data: *mut *mut c_void,
) -> i32 {
    // SAFETY: the kernel passes its own context, the call has not ended, and its pointers are valid during the call.
    let (call, name) = unsafe { (CallContext::from_raw(ctx), bytes(key, key_len)) };
    if !lock(&call.state).writers.reserve(call.memory()) {
        return code::ENOMEM;
    }
    let opened = call
        .key(name, flags)
        .and_then(|key| call.job.resources.bus.open(key, n));
    call.report(opened.map(|mut writer| {
        // SAFETY: `data` points to a variable of the kernel.
        unsafe { data.write(writer.data().as_mut_ptr().cast()) };
        lock(&call.state).writers.push(writer);
    }))
}

/// Removes the open write whose memory begins at `data`.
fn take_writer(call: &CallContext, data: *mut c_void) -> Option<Writer> {
    let mut state = lock(&call.state);
    let at = state
        .writers
        .iter_mut()
        .position(|writer| writer.data().as_ptr() == data.cast_const().cast())?;
    Some(state.writers.swap_remove(at))
}

unsafe extern "C" fn bus_seal(ctx: *mut RawCtx, data: *mut c_void, len: usize) -> i32 {
    // SAFETY: the kernel passes its own context, and the call has not ended.
    let call = unsafe { CallContext::from_raw(ctx) };
    let Some(mut writer) = take_writer(call, data) else {
        return code::EINVAL;
    };
    if len > writer.data().len() {
        return code::EINVAL;
    }
    call.report(writer.seal(len))
}

unsafe extern "C" fn bus_abort(ctx: *mut RawCtx, data: *mut c_void) -> i32 {
    // SAFETY: the kernel passes its own context, and the call has not ended.
    match take_writer(unsafe { CallContext::from_raw(ctx) }, data) {
        Some(_) => code::OK,
        None => code::EINVAL,
    }
}

/// Reads a key into `out`, and removes it if `pop` is true.
///
/// # Safety
/// `ctx` is the context of a call that has not ended; `len` bytes at `key` and a variable at `out` are valid.
unsafe fn read(
    ctx: *mut RawCtx,
    key: *const c_void,
    len: usize,
    out: *mut abi::Buf,
    pop: bool,
) -> i32 {
    // SAFETY: the kernel passes its own context, the call has not ended, and its pointers are valid during the call.
    let (call, key) = unsafe { (CallContext::from_raw(ctx), bytes(key, len)) };
    let bus = &call.job.resources.bus;
    let mut state = lock(&call.state);
    // Before a key is removed, so that its block is not lost.
    if !state.views.reserve(call.memory()) {
        return code::ENOMEM;
    }
    let view = if pop { bus.pop(key) } else { bus.get(key) };
    match view {
        Some(view) => {
            // SAFETY: `out` points to a variable of the kernel.
            unsafe { out.write(state.keep_view(view)) };
            code::OK
        }
        None => code::ENOTFOUND,
    }
}

unsafe extern "C" fn bus_get(
    ctx: *mut RawCtx,
    key: *const c_void,
    len: usize,
    out: *mut abi::Buf,
) -> i32 {
    // SAFETY: the kernel passes what `read` demands.
    unsafe { read(ctx, key, len, out, false) }
}

unsafe extern "C" fn bus_pop(
    ctx: *mut RawCtx,
    key: *const c_void,
    len: usize,
    out: *mut abi::Buf,
) -> i32 {
    // SAFETY: the kernel passes what `read` demands.
    unsafe { read(ctx, key, len, out, true) }
}

/// A copy of a value for a queue. It does not refer to memory of the kernel.
///
/// # Safety
/// `val` points to a value that is valid as `hybridloop.h` describes it.
unsafe fn copy(call: &CallContext, val: *const Val) -> Result<Queued, i32> {
    // SAFETY: the caller passes a pointer to a value.
    let mut val = unsafe { val.read() };
    if matches!(val.kind, kind::BUF | kind::STR) {
        // SAFETY: values of these kinds have the field `b`.
        unsafe { val.u.b.flags |= abi::COPY };
    }
    // SAFETY: the caller passes a valid value; with the flag it is still valid.
    let value = unsafe { val_to_value(call, &val, false) }.map_err(|error| error.code.status())?;
    Queued::new(value, call.memory()).ok_or(code::ENOMEM)
}

/// The number of values that wait for the iterator before a kernel with the flag `EMIT_WAITS` does: enough for both to work, and
/// as many as a loop gives to its tasks in an iteration.
const EMITTED: usize = 1024;

unsafe extern "C" fn emit(ctx: *mut RawCtx, val: *const Val) -> i32 {
    // SAFETY: the kernel passes its own context, and the call has not ended.
    let call = unsafe { CallContext::from_raw(ctx) };
    let (job, limit) = (&call.job, call.job.resources.job_items);
    let waits = job.kernel().emit_waits();
    let limit = if waits { limit.min(EMITTED) } else { limit };
    // SAFETY: the kernel passes a valid value.
    let attempt = || unsafe { copy(call, val) }.map(|value| job.emit(value, limit));
    let mut was_empty = false;
    while job.wants_items() {
        // Another thread of the kernel may have reserved memory for a value that is not in the queue yet. So memory is missing
        // only if it is missing without others, while the queue is empty.
        let (emitted, is_last) = if !waits {
            (attempt(), true)
        } else if was_empty {
            let alone = write_lock(&call.emitting);
            let is_last = job.waiting_items() == 0;
            let emitted = attempt();
            drop(alone);
            (emitted, is_last)
        } else {
            let together = read_lock(&call.emitting);
            let emitted = attempt();
            drop(together);
            (emitted, false)
        };
        let status = match emitted {
            Ok(Ok(())) => return code::OK,
            Ok(Err(EmitError::Full)) if !waits => {
                let text = format!("nobody has taken {limit} items of the job, which is the limit");
                lock(&call.state).message = Some((code::ENOMEM, text));
                return code::ENOMEM;
            }
            Ok(Err(EmitError::Full)) => code::OK,
            Ok(Err(EmitError::Memory)) => code::ENOMEM,
            Err(status) => status,
        };
        if status != code::OK && (status != code::ENOMEM || is_last) {
            return status;
        }
        // What is taken gives its memory back.
        let waiting = job.waiting_items();
        was_empty = waiting == 0;
        if let Err(reason) = job.wait_until_taken(waiting / 2) {
            return stop_code(&reason);
        }
    }
    code::OK
}

fn channel(call: &CallContext, id: u64) -> Option<&Channel> {
    call.args.iter().find_map(|arg| match arg {
        Arg::Channel(channel) if channel.id() == id => Some(&**channel),
        _ => None,
    })
}

unsafe extern "C" fn chan_push(ctx: *mut RawCtx, id: u64, val: *const Val) -> i32 {
    // SAFETY: the kernel passes its own context, and the call has not ended.
    let call = unsafe { CallContext::from_raw(ctx) };
    let Some(channel) = channel(call, id) else {
        return code::EINVAL;
    };
    // SAFETY: the kernel passes a valid value.
    match unsafe { copy(call, val) }.map(|value| channel.push_queued(value)) {
        Ok(Ok(())) => code::OK,
        Ok(Err(ChannelError::Closed | ChannelError::Forked)) => code::ECLOSED,
        Ok(Err(ChannelError::Full | ChannelError::Memory)) => code::ENOMEM,
        Err(status) => status,
    }
}

unsafe extern "C" fn chan_pop(ctx: *mut RawCtx, id: u64, out: *mut Val) -> i32 {
    // SAFETY: the kernel passes its own context, and the call has not ended.
    let call = unsafe { CallContext::from_raw(ctx) };
    let Some(channel) = channel(call, id) else {
        return code::EINVAL;
    };
    let mut state = lock(&call.state);
    // Before a value is taken, so that it is not lost.
    if !state.views.reserve(call.memory()) {
        return code::ENOMEM;
    }
    let val = match channel.pop() {
        Ok(Some(Value::None)) => Val::NONE,
        Ok(Some(Value::Bool(value))) => Val::bool(value),
        Ok(Some(Value::Int(value))) => Val::i64(value),
        Ok(Some(Value::UInt(value))) => Val::u64(value),
        Ok(Some(Value::Float(value))) => Val::f64(value),
        Ok(Some(Value::Str(text))) => Val::buf(kind::STR, state.keep_view(text.into_view())),
        Ok(Some(Value::Buffer(view))) => Val::buf(kind::BUF, state.keep_view(view)),
        Ok(None) => return code::EEMPTY,
        Err(_) => return code::ECLOSED,
    };
    // SAFETY: `out` points to a variable of the kernel.
    unsafe { out.write(val) };
    code::OK
}

unsafe extern "C" fn job_id(ctx: *const RawCtx) -> u64 {
    // SAFETY: the kernel passes its own context, and the call has not ended.
    unsafe { CallContext::from_raw(ctx) }.job.id()
}

pub(super) static HOST: Host = Host {
    base: HostBase {
        size: abi::size::<Host>(),
        abi: abi::ABI,
        cancelled,
        progress,
        alloc,
        resize,
        free,
        fail,
        bus_push,
        bus_open,
        bus_seal,
        bus_abort,
        bus_get,
        bus_pop,
        emit,
        chan_push,
        chan_pop,
        job_id,
    },
    defer,
    complete,
};
