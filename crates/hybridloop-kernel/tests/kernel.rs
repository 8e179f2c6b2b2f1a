//! `#[kernel]`: signatures, conversions, errors and panics, against a host that only records.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::cell::RefCell;
use std::ffi::{c_char, c_void, CStr};

use std::sync::{mpsc, Mutex};

use hybridloop_kernel::abi::{self, code, kind, Host, HostBase, RawCtx, Val};
use hybridloop_kernel::{
    kernel, module, Channel, Code, Ctx, Error, Export, IntoResult, Key, Memory, Pending, Token,
    Value,
};

thread_local! {
    static MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
    static LIVE: RefCell<Vec<(usize, std::alloc::Layout)>> = const { RefCell::new(Vec::new()) };
}

unsafe extern "C" fn cancelled(_: *const RawCtx) -> i32 {
    code::ECANCELED
}
unsafe extern "C" fn progress(_: *mut RawCtx, _: u64, _: u64) {}
unsafe extern "C" fn alloc(_: *mut RawCtx, n: usize, align: usize) -> *mut c_void {
    if n > 1 << 30 {
        return std::ptr::null_mut();
    }
    let layout = std::alloc::Layout::from_size_align(n.max(1), align).unwrap();
    // SAFETY: the size of the layout is not 0.
    let data = unsafe { std::alloc::alloc_zeroed(layout) };
    LIVE.with_borrow_mut(|live| live.push((data.expose_provenance(), layout)));
    data.cast()
}
unsafe extern "C" fn resize(ctx: *mut RawCtx, old: *mut c_void, n: usize) -> *mut c_void {
    let layout = LIVE.with_borrow(|live| live.iter().find(|l| l.0 == old.addr()).unwrap().1);
    // SAFETY: the SDK passes memory of `alloc` that it has not freed.
    unsafe {
        let new = alloc(ctx, n, layout.align());
        if !new.is_null() {
            std::ptr::copy_nonoverlapping(old.cast::<u8>(), new.cast(), n.min(layout.size()));
            free(ctx, old);
        }
        new
    }
}
unsafe extern "C" fn free(_: *mut RawCtx, data: *mut c_void) {
    let (_, layout) = LIVE.with_borrow_mut(|live| {
        let at = live.iter().position(|l| l.0 == data.addr()).unwrap();
        live.swap_remove(at)
    });
    // SAFETY: the SDK passes memory of `alloc`, which has this layout, and frees it once.
    unsafe { std::alloc::dealloc(data.cast(), layout) };
}
unsafe extern "C" fn fail(_: *mut RawCtx, status: i32, text: *const c_char, n: usize) -> i32 {
    // SAFETY: the SDK passes a text that is valid during the call.
    let text = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), n) };
    MESSAGE.with_borrow_mut(|m| *m = String::from_utf8(text.to_vec()).unwrap());
    status
}
unsafe extern "C" fn no_push(
    _: *mut RawCtx,
    _: *const c_void,
    _: usize,
    _: *const c_void,
    _: usize,
    _: u32,
) -> i32 {
    code::ENOMEM
}
unsafe extern "C" fn no_open(
    _: *mut RawCtx,
    _: *const c_void,
    _: usize,
    _: usize,
    _: u32,
    _: *mut *mut c_void,
) -> i32 {
    code::ENOMEM
}
unsafe extern "C" fn no_seal(_: *mut RawCtx, _: *mut c_void, _: usize) -> i32 {
    code::EINVAL
}
unsafe extern "C" fn no_abort(_: *mut RawCtx, _: *mut c_void) -> i32 {
    code::EINVAL
}
unsafe extern "C" fn no_get(_: *mut RawCtx, _: *const c_void, _: usize, _: *mut abi::Buf) -> i32 {
    code::ENOTFOUND
}
unsafe extern "C" fn no_emit(_: *mut RawCtx, _: *const Val) -> i32 {
    code::OK
}
unsafe extern "C" fn no_chan_push(_: *mut RawCtx, _: u64, _: *const Val) -> i32 {
    code::ECLOSED
}
unsafe extern "C" fn no_chan_pop(_: *mut RawCtx, _: u64, _: *mut Val) -> i32 {
    code::EEMPTY
}
unsafe extern "C" fn job_id(_: *const RawCtx) -> u64 {
    7
}

/// What became of the tokens of this test: their data, and what they were completed with.
struct Tokens {
    data: Vec<(Data, Option<abi::StopFn>, Option<abi::DropFn>)>,
    completed: Vec<(u64, i32, u32)>,
}

#[derive(Clone, Copy)]
struct Data(*mut c_void);

// SAFETY: the SDK allows any thread to call the functions of a token with its data.
unsafe impl Send for Data {}

static TOKENS: Mutex<Tokens> = Mutex::new(Tokens {
    data: Vec::new(),
    completed: Vec::new(),
});

unsafe extern "C" fn defer(
    _: *mut RawCtx,
    data: *mut c_void,
    stop: Option<abi::StopFn>,
    drop: Option<abi::DropFn>,
) -> u64 {
    let mut tokens = TOKENS.lock().unwrap();
    tokens.data.push((Data(data), stop, drop));
    tokens.data.len() as u64
}
unsafe extern "C" fn complete(token: u64, status: i32, out: *const Val) -> i32 {
    // SAFETY: the SDK passes a valid value.
    let kind = unsafe { (*out).kind };
    TOKENS.lock().unwrap().completed.push((token, status, kind));
    code::OK
}

static HOST: Host = Host {
    base: BASE,
    defer,
    complete,
};

const BASE: HostBase = HostBase {
    size: abi::size::<Host>(),
    abi: abi::ABI,
    cancelled,
    progress,
    alloc,
    resize,
    free,
    fail,
    bus_push: no_push,
    bus_open: no_open,
    bus_seal: no_seal,
    bus_abort: no_abort,
    bus_get: no_get,
    bus_pop: no_get,
    emit: no_emit,
    chan_push: no_chan_push,
    chan_pop: no_chan_pop,
    job_id,
};

fn call<K: Export>(args: &[Val]) -> Result<Val, (i32, String)> {
    call_on::<K>(&raw const HOST, args)
}

fn call_on<K: Export>(host: *const Host, args: &[Val]) -> Result<Val, (i32, String)> {
    let mut out = Val::NONE;
    MESSAGE.with_borrow_mut(String::clear);
    let func = K::KERNEL.func.unwrap();
    let user = K::KERNEL.user;
    // SAFETY: host and values outlive the call, and this host does not read the context.
    let status = unsafe {
        func(
            host,
            std::ptr::null_mut(),
            args.as_ptr(),
            args.len(),
            &raw mut out,
            user,
        )
    };
    match status {
        0 => Ok(out),
        status => Err((status, MESSAGE.with_borrow(Clone::clone))),
    }
}

fn signature<K: Export>() -> (String, String, String) {
    let text = |pointer: *const c_char| {
        // SAFETY: `#[kernel]` sets the text to a constant C string.
        unsafe { CStr::from_ptr(pointer) }
            .to_str()
            .unwrap()
            .to_owned()
    };
    (
        text(K::KERNEL.name),
        text(K::KERNEL.sig),
        text(K::KERNEL.doc),
    )
}

fn buffer<T>(data: &[T], fmt: &'static CStr, flags: u32) -> Val {
    Val::buf(
        kind::BUF,
        abi::Buf {
            itemsize: abi::size::<T>(),
            fmt: fmt.as_ptr(),
            ..abi::Buf::bytes(
                data.as_ptr().cast(),
                size_of_val(data),
                flags | abi::CONTIGUOUS,
            )
        },
    )
}

/// The dot product.
///
/// Both have the same length.
#[kernel(name = "test.dot")]
fn dot(_ctx: &Ctx, a: &[f64], b: &[f64], #[default(1)] scale: i32) -> Result<f64, Error> {
    if a.len() != b.len() {
        return Err(Error::invalid("lengths differ"));
    }
    Ok(a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>() * f64::from(scale))
}

#[kernel]
#[allow(clippy::used_underscore_binding)]
fn kinds<'a>(
    ctx: &'a Ctx,
    data: &'a [u8],
    out: &mut [f32],
    key: Option<Key<'_>>,
    chan: Channel<'a>,
    any: Value<'_>,
    text: &str,
) -> Result<Memory<'a, u8>, Error> {
    assert!(
        key.is_none() && matches!(any, Value::UInt(u64::MAX)) && text == "é" && ctx.job_id() == 7
    );
    assert!(chan.pop()?.is_none());
    out[0] = 2.5;
    let mut memory = ctx.memory(1)?;
    memory.resize(data.len())?;
    memory.copy_from_slice(data);
    Ok(memory)
}

#[kernel(name = "test.panic")]
fn panics(text: &str) {
    let _memory_is_given_back = text.to_owned();
    panic!("oh {text}");
}

#[kernel(name = "test.checks")]
fn checks(ctx: &Ctx, len: usize) -> Result<String, Error> {
    ctx.memory::<u64>(len)?;
    ctx.check()?;
    Ok(String::new())
}

#[kernel(name = "test.text")]
fn text() -> String {
    "text".to_owned()
}

module!("test", [dot, kinds, panics, checks, text]);

#[test]
fn describes_itself() {
    let (name, signature_text, doc) = signature::<dot>();
    assert_eq!(name, "test.dot");
    assert_eq!(signature_text, "f64([f64] a, [f64] b, i32 scale = 1)");
    assert_eq!(doc, "The dot product.\n\nBoth have the same length.");
    let (name, signature_text, _) = signature::<kinds>();
    assert_eq!(name, "hybridloop-kernel.kinds");
    assert_eq!(
        signature_text,
        "buf(bytes data, out [f32] out, key? key, chan chan, any any, str text)"
    );
    assert_eq!(signature::<panics>().1, "none(str text)");
    // SAFETY: `module!` returns a pointer to a constant.
    let module = unsafe { &*hybridloop_module(abi::ABI) };
    assert_eq!(
        (module.magic, module.abi, module.n),
        (abi::MAGIC, abi::ABI, 5)
    );
}

#[test]
fn converts_arguments_and_results() {
    let (a, b) = ([1.0, 2.0], [3.0, 4.0]);
    let out = call::<dot>(&[buffer(&a, c"d", 0), buffer(&b, c"<d", 0), Val::i64(2)]).unwrap();
    // SAFETY: the kernel returned a value with this field.
    let value = unsafe { out.u.f };
    assert_eq!((out.kind, value.to_bits()), (kind::F64, 22_f64.to_bits()));

    let mut target = [0.0_f32; 2];
    let mut target_val = buffer(&target, c"f", abi::WRITABLE);
    target_val.u.b.data = target.as_mut_ptr().cast_const().cast();
    let text = "é";
    let text_val = Val::buf(kind::STR, abi::Buf::bytes(text.as_ptr().cast(), 2, 0));
    let out = call::<kinds>(&[
        buffer(&a, c"d", 0),
        target_val,
        Val::NONE,
        Val::chan(1),
        Val::u64(u64::MAX),
        text_val,
    ])
    .unwrap();
    // SAFETY: the kernel returned a buffer, whose memory the host of this test has not freed.
    unsafe {
        assert_eq!((out.kind, out.u.b.len), (kind::BUF, 16));
        let data = out.u.b.data.cast::<[u64; 2]>();
        assert_eq!(data.read_unaligned(), a.map(f64::to_bits));
        free(std::ptr::null_mut(), out.u.b.data.cast_mut());
    }
    assert_eq!(target[0].to_bits(), 2.5_f32.to_bits());

    let out = call::<text>(&[]).unwrap();
    // SAFETY: the kernel returned a buffer, whose memory the host of this test has not freed.
    unsafe {
        assert_eq!((out.kind, out.u.b.len), (kind::STR, 4));
        free(std::ptr::null_mut(), out.u.b.data.cast_mut());
    }
    LIVE.with_borrow(|live| assert!(live.is_empty()));
}

#[test]
fn refuses_bad_arguments() {
    let a = [1.0, 2.0];
    let good = buffer(&a, c"d", 0);
    let error = |args: &[Val]| call::<dot>(args).err().unwrap();
    assert_eq!(
        error(&[good]),
        (code::ETYPE, "expected 3 arguments, got 1".into())
    );
    assert_eq!(
        error(&[good, Val::i64(1), Val::i64(1)]),
        (code::ETYPE, "b: expected a buffer, got int".into())
    );
    assert_eq!(
        error(&[good, buffer(&[1_i64, 2], c"q", 0), Val::i64(1)]),
        (
            code::ETYPE,
            "b: expected elements of type f64, got format \"q\"".into()
        )
    );
    assert_eq!(
        error(&[good, good, Val::i64(1 << 40)]),
        (code::EOVERFLOW, "scale: out of range for i32".into())
    );
    assert_eq!(
        error(&[good, buffer(&a[..1], c"d", 0), Val::i64(1)]),
        (code::EINVAL, "lengths differ".into())
    );
    let mut strided = good;
    // SAFETY: the kernel returned a buffer.
    unsafe { strided.u.b.flags &= !abi::CONTIGUOUS };
    assert_eq!(
        error(&[strided, good, Val::i64(1)]),
        (code::EINVAL, "a: the buffer is not C-contiguous".into())
    );
    let mut skewed = good;
    // SAFETY: the kernel returned a buffer.
    unsafe {
        skewed.u.b.data = skewed.u.b.data.byte_add(1);
        skewed.u.b.len = 8;
    };
    assert_eq!(
        error(&[skewed, good, Val::i64(1)]),
        (code::EINVAL, "a: the buffer is not aligned".into())
    );
    let mut garbage = Val::NONE;
    garbage.kind = 99;
    assert_eq!(error(&[garbage, good, Val::i64(1)]).0, code::ETYPE);
}

/// Text is an error, as often in programs.
#[kernel]
fn refuses(number: u32) -> Result<u32, String> {
    match number {
        0 => Err(format!("{number} is too small")),
        number => Ok(number),
    }
}

#[kernel]
fn refuses_too() -> Result<(), &'static str> {
    Err("never")
}

#[test]
fn text_is_an_error_of_the_value() {
    assert!(call::<refuses>(&[Val::u64(5)]).is_ok());
    let refused = [
        (call::<refuses>(&[Val::u64(0)]), "0 is too small"),
        (call::<refuses_too>(&[]), "never"),
    ];
    for (result, message) in refused {
        assert_eq!(result.err().unwrap(), (code::EINVAL, message.to_owned()));
    }
}

#[test]
fn errors_and_panics_are_reported() {
    let text = Val::buf(kind::STR, abi::Buf::bytes("no".as_ptr().cast(), 2, 0));
    let (status, words) = call::<panics>(&[text]).err().unwrap();
    assert_eq!(status, code::EPANIC);
    assert!(
        words.starts_with("oh no (") && words.contains("kernel.rs:"),
        "{words}"
    );
    assert_eq!(
        call::<checks>(&[Val::i64(8)]).err().unwrap(),
        (code::ECANCELED, String::new())
    );
    assert_eq!(
        call::<checks>(&[Val::i64(i64::MAX)]).err().unwrap(),
        (code::ENOMEM, String::new())
    );
    LIVE.with_borrow(|live| assert!(live.is_empty()));
    for status in -12..=3 {
        if status != 0 {
            assert_eq!(Code::from_status(status).status(), status);
        }
    }
}

static LATER: Mutex<Option<Token<f64>>> = Mutex::new(None);

/// Completes in several ways; with a stop function that reports the code.
#[kernel(name = "test.later")]
fn later(ctx: &Ctx, way: i64) -> Result<Pending<'_, f64>, Error> {
    let (sender, receiver) = mpsc::channel();
    let (token, pending) = ctx.defer_with(move |code| sender.send(code).unwrap())?;
    match way {
        0 => std::thread::spawn(move || token.complete(Ok(0.5)))
            .join()
            .unwrap(),
        1 => token.complete(Err(Error::invalid("no"))),
        2 => drop(token),
        3 => token.complete_with(|ctx| ctx.memory::<u8>(3)?.into_val(ctx)),
        4 => token.complete_with(|_| panic!("oh")),
        5 => {
            drop(token);
            return Err(Error::new(Code::Custom(5), "kernel"));
        }
        6 => {
            *LATER.lock().unwrap() = Some(token);
            return Err(Error::new(Code::Custom(6), "kernel"));
        }
        _ => {
            let (data, stop, _) = *TOKENS.lock().unwrap().data.last().unwrap();
            // SAFETY: the function is that of the token for its data.
            unsafe { stop.unwrap()(data.0, code::ETIMEDOUT) };
            assert_eq!(receiver.try_recv(), Ok(Code::TimedOut));
            token.complete(Ok(1.5));
        }
    }
    Ok(pending)
}

#[kernel(name = "test.without")]
fn without(ctx: &Ctx) -> Result<Pending<'_, String>, Error> {
    Ok(ctx.defer()?.1)
}

#[test]
fn tokens_are_completed_once_whatever_becomes_of_them() {
    let entry = later::KERNEL;
    assert_eq!((entry.flags, dot::KERNEL.flags), (abi::ASYNC, 0));
    assert_eq!(signature::<later>().1, "f64(i64 way)");
    assert_eq!(signature::<without>().1, "str()");
    let pending = Err((code::PENDING, String::new()));
    let mut expected = Vec::new();
    for (way, status, kind, text) in [
        (0, code::OK, kind::F64, ""),
        (1, code::EINVAL, kind::NONE, "no"),
        (
            2,
            code::EUNKNOWN,
            kind::NONE,
            "the completion token was dropped",
        ),
        (3, code::OK, kind::BUF, ""),
        (4, code::EPANIC, kind::NONE, "oh ("),
        (7, code::OK, kind::F64, ""),
    ] {
        let (got, words) = call::<later>(&[Val::i64(way)]).err().unwrap();
        assert_eq!(got, code::PENDING, "{way}");
        assert!(
            words.starts_with(text) && words.is_empty() == text.is_empty(),
            "{words}"
        );
        expected.push((expected.len() as u64 + 1, status, kind));
    }
    // The error of the kernel counts if nobody has the token any more.
    let got = call::<later>(&[Val::i64(5)]);
    assert_eq!(got.err().unwrap(), (5, "kernel".to_owned()));
    assert_eq!(call::<later>(&[Val::i64(6)]).map(|_| ()), pending);
    expected.push((expected.len() as u64 + 1, code::EUNKNOWN, kind::NONE));
    assert_eq!(TOKENS.lock().unwrap().completed, expected);
    drop(LATER.lock().unwrap().take());
    expected.push((expected.len() as u64 + 1, code::EUNKNOWN, kind::NONE));

    let mut tokens = TOKENS.lock().unwrap();
    assert_eq!(tokens.completed, expected);
    for (data, _, release) in tokens.data.drain(..) {
        // SAFETY: the function is that of the token for its data, and nobody uses the data any more.
        unsafe { release.unwrap()(data.0) };
    }
    drop(tokens);
    // The memory of the third call, which a host would own.
    let live = LIVE.with_borrow_mut(std::mem::take);
    for (data, layout) in live {
        // SAFETY: `alloc` has allocated the memory with this layout.
        unsafe { std::alloc::dealloc(std::ptr::with_exposed_provenance_mut(data), layout) };
    }
}

#[test]
fn an_older_host_has_no_tokens() {
    let old = HostBase {
        size: abi::size::<HostBase>(),
        ..BASE
    };
    let (status, text) = call_on::<without>((&raw const old).cast(), &[])
        .err()
        .unwrap();
    assert_eq!(status, code::ECLOSED);
    assert_eq!(text, "this host has no completion tokens");
    let value = call_on::<number>((&raw const old).cast(), &[]);
    assert_eq!(value.map(|out| out.kind), Ok(kind::I64));
}

#[kernel(name = "test.old")]
fn number() -> i64 {
    3
}
