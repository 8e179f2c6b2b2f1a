//! What the host does for a kernel: the functions of [`Host`].

use std::ffi::{c_char, c_void};
use std::ptr;

use hybridloop_kernel::abi::{self, code, kind, Host, RawCtx, Val};
use hybridloop_sync::primitives::lock;

use crate::bus::Writer;
use crate::call::convert::convert;
use crate::call::{bytes, call, Call};
use crate::channel::ChannelError;
use crate::job::result::Outcome;
use crate::memory::block::Draft;
use crate::value::{Arg, Value};

unsafe extern "C" fn cancelled(ctx: *const RawCtx) -> i32 {
    // SAFETY: as the header says.
    match unsafe { call(ctx) }.job.interruption() {
        None => code::OK,
        Some(Outcome::TimedOut) => code::ETIMEDOUT,
        Some(_) => code::ECANCELED,
    }
}

unsafe extern "C" fn progress(ctx: *mut RawCtx, done: u64, total: u64) {
    // SAFETY: as the header says.
    unsafe { call(ctx) }.job.progress(done, total);
}

unsafe extern "C" fn alloc(ctx: *mut RawCtx, n: usize, align: usize) -> *mut c_void {
    // SAFETY: as the header says.
    let call = unsafe { call(ctx) };
    let shared = &call.job.shared;
    let mut held = lock(&call.held);
    if !align.is_power_of_two()
        || align > crate::ALIGN
        || n > shared.job_memory.saturating_sub(held.used)
    {
        return ptr::null_mut();
    }
    // No less than a byte, so that every draft has an address of its own.
    let align = if n >= crate::ALIGN {
        crate::ALIGN
    } else {
        align
    };
    let Some(mut draft) = Draft::aligned(n.max(1), align, &shared.memory) else {
        return ptr::null_mut();
    };
    let data = draft.as_mut_ptr();
    held.used += draft.len();
    held.drafts.push(draft);
    data.cast()
}

unsafe extern "C" fn resize(ctx: *mut RawCtx, data: *mut c_void, n: usize) -> *mut c_void {
    // SAFETY: as the header says.
    let call = unsafe { call(ctx) };
    let mut held = lock(&call.held);
    let Some(at) = held
        .drafts
        .iter()
        .position(|draft| draft.as_ptr() == data.cast())
    else {
        return ptr::null_mut();
    };
    let (old, new) = (held.drafts[at].len(), n.max(1));
    let others = held.used - old;
    if new > call.job.shared.job_memory.saturating_sub(others) || !held.drafts[at].resize(new) {
        return ptr::null_mut();
    }
    held.used = others + new;
    held.drafts[at].as_mut_ptr().cast()
}

unsafe extern "C" fn free(ctx: *mut RawCtx, data: *mut c_void) {
    // SAFETY: as the header says.
    let call = unsafe { call(ctx) };
    let mut held = lock(&call.held);
    if let Some(at) = held
        .drafts
        .iter()
        .position(|draft| draft.as_ptr() == data.cast())
    {
        let draft = held.drafts.swap_remove(at);
        held.used -= draft.len();
    }
}

unsafe extern "C" fn fail(ctx: *mut RawCtx, code: i32, text: *const c_char, n: usize) -> i32 {
    // SAFETY: as the header says.
    let (call, text) = unsafe { (call(ctx), bytes(text.cast(), n)) };
    lock(&call.held).message = Some((code, String::from_utf8_lossy(text).into_owned()));
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
    // SAFETY: as the header says.
    let (call, name, data) = unsafe { (call(ctx), bytes(key, key_len), bytes(data, n)) };
    let key = call.key(name, flags);
    call.report(key.and_then(|key| call.job.shared.bus.push(key, data)))
}

unsafe extern "C" fn bus_open(
    ctx: *mut RawCtx,
    key: *const c_void,
    key_len: usize,
    n: usize,
    flags: u32,
    data: *mut *mut c_void,
) -> i32 {
    // SAFETY: as the header says.
    let (call, name) = unsafe { (call(ctx), bytes(key, key_len)) };
    let opened = call
        .key(name, flags)
        .and_then(|key| call.job.shared.bus.open(key, n));
    call.report(opened.map(|mut writer| {
        // SAFETY: the caller's variable.
        unsafe { data.write(writer.data().as_mut_ptr().cast()) };
        lock(&call.held).writers.push(writer);
    }))
}

/// Takes the writer whose memory begins there.
fn take_writer(call: &Call<'_>, data: *mut c_void) -> Option<Writer> {
    let mut held = lock(&call.held);
    let at = held
        .writers
        .iter_mut()
        .position(|writer| writer.data().as_ptr() == data.cast_const().cast())?;
    Some(held.writers.swap_remove(at))
}

unsafe extern "C" fn bus_seal(ctx: *mut RawCtx, data: *mut c_void, len: usize) -> i32 {
    // SAFETY: as the header says.
    let call = unsafe { call(ctx) };
    let Some(mut writer) = take_writer(call, data) else {
        return code::EINVAL;
    };
    if len > writer.data().len() {
        return code::EINVAL;
    }
    call.report(writer.seal(len))
}

unsafe extern "C" fn bus_abort(ctx: *mut RawCtx, data: *mut c_void) -> i32 {
    // SAFETY: as the header says.
    match take_writer(unsafe { call(ctx) }, data) {
        Some(_) => code::OK,
        None => code::EINVAL,
    }
}

/// # Safety
/// As for [`bus_get`].
unsafe fn read(
    ctx: *mut RawCtx,
    key: *const c_void,
    len: usize,
    out: *mut abi::Buf,
    pop: bool,
) -> i32 {
    // SAFETY: as the header says.
    let (call, key) = unsafe { (call(ctx), bytes(key, len)) };
    let bus = &call.job.shared.bus;
    let view = if pop { bus.pop(key) } else { bus.get(key) };
    match view {
        Some(view) => {
            // SAFETY: the caller's variable.
            unsafe { out.write(call.pin(view)) };
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
    // SAFETY: as the header says.
    unsafe { read(ctx, key, len, out, false) }
}

unsafe extern "C" fn bus_pop(
    ctx: *mut RawCtx,
    key: *const c_void,
    len: usize,
    out: *mut abi::Buf,
) -> i32 {
    // SAFETY: as the header says.
    unsafe { read(ctx, key, len, out, true) }
}

/// A copy of a value, which nothing else depends on.
///
/// # Safety
/// A value as the header describes it.
unsafe fn copy(call: &Call<'_>, val: *const Val) -> Result<Value, i32> {
    // SAFETY: as the caller promises.
    let mut val = unsafe { val.read() };
    if matches!(val.kind, kind::BUF | kind::STR) {
        // SAFETY: the kind says which field it is.
        unsafe { val.u.b.flags |= abi::COPY };
    }
    // SAFETY: as the caller promises.
    unsafe { convert(call, &val, false) }.map_err(|error| error.code.status())
}

unsafe extern "C" fn emit(ctx: *mut RawCtx, val: *const Val) -> i32 {
    // SAFETY: as the header says.
    let call = unsafe { call(ctx) };
    // SAFETY: as the header says.
    match unsafe { copy(call, val) } {
        Ok(value) => {
            call.job.emit(value);
            code::OK
        }
        Err(status) => status,
    }
}

fn channel<'a>(call: &'a Call<'_>, id: u64) -> Option<&'a crate::channel::Channel> {
    call.args.iter().find_map(|arg| match arg {
        Arg::Channel(channel) if channel.id() == id => Some(&**channel),
        _ => None,
    })
}

unsafe extern "C" fn chan_push(ctx: *mut RawCtx, id: u64, val: *const Val) -> i32 {
    // SAFETY: as the header says.
    let call = unsafe { call(ctx) };
    let Some(channel) = channel(call, id) else {
        return code::EINVAL;
    };
    // SAFETY: as the header says.
    match unsafe { copy(call, val) }.map(|value| channel.push(value)) {
        Ok(Ok(())) => code::OK,
        Ok(Err(ChannelError::Closed | ChannelError::Forked)) => code::ECLOSED,
        Ok(Err(ChannelError::Full | ChannelError::Memory)) => code::ENOMEM,
        Err(status) => status,
    }
}

unsafe extern "C" fn chan_pop(ctx: *mut RawCtx, id: u64, out: *mut Val) -> i32 {
    // SAFETY: as the header says.
    let call = unsafe { call(ctx) };
    let Some(channel) = channel(call, id) else {
        return code::EINVAL;
    };
    let val = match channel.pop() {
        Ok(Some(Value::None)) => Val::NONE,
        Ok(Some(Value::Bool(value))) => Val::bool(value),
        Ok(Some(Value::Int(value))) => Val::i64(value),
        Ok(Some(Value::UInt(value))) => Val::u64(value),
        Ok(Some(Value::Float(value))) => Val::f64(value),
        Ok(Some(Value::Str(text))) => {
            let mut held = lock(&call.held);
            held.texts.push(text);
            // As in `pin`.
            let text: &str = held.texts.last().map_or("", |text| text);
            let buf = abi::Buf::bytes(text.as_ptr().cast(), text.len(), abi::CONTIGUOUS);
            Val::buf(kind::STR, buf)
        }
        Ok(Some(Value::Buffer(view))) => Val::buf(kind::BUF, call.pin(view)),
        Ok(None) => return code::EEMPTY,
        Err(_) => return code::ECLOSED,
    };
    // SAFETY: the caller's variable.
    unsafe { out.write(val) };
    code::OK
}

unsafe extern "C" fn job_id(ctx: *const RawCtx) -> u64 {
    // SAFETY: as the header says.
    unsafe { call(ctx) }.job.id()
}

pub(super) static HOST: Host = Host {
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
};
