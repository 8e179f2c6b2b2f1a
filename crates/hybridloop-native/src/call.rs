//! One call of a kernel on a worker: what the host does for it, and what becomes of its result.

use std::ffi::{c_char, c_void, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::{Arc, OnceLock};

use hybridloop_kernel::abi::{self, code, kind, Host, RawCtx, Val};
use hybridloop_kernel::Code;

use crate::block::{Draft, Format, View};
use crate::bus::{BusError, Key, Writer};
use crate::channel::ChannelError;
use crate::job::{Job, KernelError, Outcome};
use crate::registry::Target;
use crate::sync::{lock, Mutex};
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
        Ok(Err(ChannelError::Closed)) => code::ECLOSED,
        Ok(Err(ChannelError::Full)) => code::ENOMEM,
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

static HOST: Host = Host {
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

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "sizes of elements, numbers of dimensions"
)]
fn describe(view: &View) -> abi::Buf {
    abi::Buf {
        itemsize: view.itemsize() as u32,
        fmt: view.format().as_ptr(),
        ndim: view.shape().map_or(1, |shape| shape.len() as i32),
        shape: view.shape().map_or(ptr::null(), <[i64]>::as_ptr),
        ..abi::Buf::bytes(view.as_ptr().cast(), view.len(), abi::CONTIGUOUS)
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "as above"
)]
fn to_val(arg: &Arg) -> Val {
    let text = |text: &[u8]| abi::Buf::bytes(text.as_ptr().cast(), text.len(), abi::CONTIGUOUS);
    match arg {
        Arg::None => Val::NONE,
        Arg::Bool(value) => Val::bool(*value),
        Arg::Int(value) => Val::i64(*value),
        Arg::UInt(value) => Val::u64(*value),
        Arg::Float(value) => Val::f64(*value),
        Arg::Str(value) => Val::buf(kind::STR, text(value.as_bytes())),
        Arg::Key(key) => Val::buf(kind::KEY, text(key.as_bytes())),
        Arg::View(view) => Val::buf(kind::BUF, describe(view)),
        Arg::Channel(channel) => Val::chan(channel.id()),
        Arg::Buffer(buffer) => {
            let writable = if buffer.writable { abi::WRITABLE } else { 0 };
            let contiguous = if buffer.contiguous {
                abi::CONTIGUOUS
            } else {
                0
            };
            Val::buf(
                kind::BUF,
                abi::Buf {
                    itemsize: buffer.itemsize as u32,
                    fmt: buffer.format.as_ptr(),
                    ndim: buffer.shape.as_ref().map_or(1, |shape| shape.len() as i32),
                    shape: buffer
                        .shape
                        .as_ref()
                        .map_or(ptr::null(), |shape| shape.as_ptr()),
                    strides: buffer
                        .strides
                        .as_ref()
                        .map_or(ptr::null(), |strides| strides.as_ptr()),
                    ..abi::Buf::bytes(buffer.as_ptr().cast(), buffer.len(), writable | contiguous)
                },
            )
        }
    }
}

fn not_a_value(reason: impl Into<String>) -> KernelError {
    KernelError::new(Code::Result, reason)
}

/// The part of `view` that lies at `data`.
fn within(view: &View, data: *const c_void, len: usize) -> Option<View> {
    let start = data.addr().checked_sub(view.as_ptr().addr())?;
    view.clone().part(start, len)
}

/// The memory of a result: the host's own without a copy, else a copy if that is allowed.
///
/// # Safety
/// `buf` is what the header describes.
unsafe fn memory(call: &Call<'_>, buf: &abi::Buf, is_final: bool) -> Result<View, KernelError> {
    let mut held = lock(&call.held);
    if is_final {
        let at = held.drafts.iter().position(|draft| {
            let start = buf.data.addr().checked_sub(draft.as_ptr().addr());
            start.is_some_and(|start| start <= draft.len() && buf.len <= draft.len() - start)
        });
        if let Some(at) = at {
            let start = buf.data.addr() - held.drafts[at].as_ptr().addr();
            let view = View::new(held.drafts.swap_remove(at).seal());
            return view
                .part(start, buf.len)
                .ok_or_else(|| not_a_value("out of bounds"));
        }
    }
    let args = call.args.iter().filter_map(|arg| match arg {
        Arg::View(view) => Some(view),
        _ => None,
    });
    if let Some(view) = held
        .views
        .iter()
        .chain(args)
        .find_map(|view| within(view, buf.data, buf.len))
    {
        return Ok(view);
    }
    if buf.len != 0
        && (buf.flags & abi::COPY == 0 || buf.data.is_null() || isize::try_from(buf.len).is_err())
    {
        return Err(not_a_value(
            "the kernel returned memory that is not the host's, and did not ask for a copy",
        ));
    }
    // SAFETY: as the caller promises.
    let data = unsafe { bytes(buf.data, buf.len) };
    match Draft::copy(data, &call.job.shared.memory) {
        Some(draft) => Ok(View::new(draft.seal())),
        None => Err(KernelError::new(
            Code::Memory,
            "no memory left for the result",
        )),
    }
}

/// A value that the kernel gives.
///
/// # Safety
/// `val` is what the header describes.
unsafe fn convert(call: &Call<'_>, val: &Val, is_final: bool) -> Result<Value, KernelError> {
    // SAFETY: the kind says which field it is; pointers as the caller promises.
    unsafe {
        Ok(match val.kind {
            kind::NONE => Value::None,
            kind::BOOL => Value::Bool(val.u.i != 0),
            kind::I64 => Value::Int(val.u.i),
            kind::U64 => Value::UInt(val.u.u),
            kind::F64 => Value::Float(val.u.f),
            kind::STR => {
                let view = memory(call, &val.u.b, is_final)?;
                let text = std::str::from_utf8(&view)
                    .map_err(|_| not_a_value("the kernel returned text that is not UTF-8"))?;
                Value::Str(text.into())
            }
            kind::BUF => {
                let buf = val.u.b;
                let format = if buf.fmt.is_null() {
                    Format::Borrowed(c"B")
                } else {
                    Format::Owned(CStr::from_ptr(buf.fmt).to_owned())
                };
                let shape = match usize::try_from(buf.ndim) {
                    Ok(0 | 1) if buf.shape.is_null() => None,
                    Ok(ndim @ 1..=64) if !buf.shape.is_null() => {
                        Some(std::slice::from_raw_parts(buf.shape, ndim).into())
                    }
                    _ => {
                        return Err(not_a_value(format!(
                            "the kernel returned a buffer of {} dimensions",
                            buf.ndim
                        )))
                    }
                };
                let view = memory(call, &buf, is_final)?;
                let view = view.with_shape(format, buf.itemsize.max(1) as usize, shape);
                Value::Buffer(view.ok_or_else(|| {
                    not_a_value("the shape of the result does not fit its length")
                })?)
            }
            other => {
                return Err(not_a_value(format!(
                    "the kernel returned a value of the unknown kind {other}"
                )))
            }
        })
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
