//! The interface of `include/hybridloop.h`, field by field. `tests/layout.rs` compares the two.

use std::ffi::{c_char, c_void};

/// The version of the interface.
pub const ABI: u32 = 1;
/// Marks a [`Module`].
pub const MAGIC: u32 = 0x4c4b_4c48;
/// The name of a `PyCapsule` that holds a pointer to a [`Kernel`].
pub const CAPSULE: &std::ffi::CStr = c"hybridloop.kernel.v1";
/// The symbol that a library exports.
pub const MODULE_SYMBOL: &str = "hybridloop_module";

/// Status codes: 0 or an error.
pub mod code {
    #![allow(missing_docs, reason = "explained in the header")]
    pub const OK: i32 = 0;
    pub const EINVAL: i32 = -1;
    pub const ETYPE: i32 = -2;
    pub const ENOMEM: i32 = -3;
    pub const ECANCELED: i32 = -4;
    pub const ETIMEDOUT: i32 = -5;
    pub const ENOTFOUND: i32 = -6;
    pub const EOVERFLOW: i32 = -7;
    pub const EEMPTY: i32 = -8;
    pub const ECLOSED: i32 = -9;
    pub const EPANIC: i32 = -10;
    pub const ERESULT: i32 = -11;
    pub const EUNKNOWN: i32 = -12;
    pub const PENDING: i32 = -13;
}

/// Kinds of a [`Val`].
pub mod kind {
    #![allow(missing_docs, reason = "explained in the header")]
    pub const NONE: u32 = 0;
    pub const BOOL: u32 = 1;
    pub const I64: u32 = 2;
    pub const U64: u32 = 3;
    pub const F64: u32 = 4;
    pub const STR: u32 = 5;
    pub const BUF: u32 = 6;
    pub const KEY: u32 = 7;
    pub const CHAN: u32 = 8;
}

/// The kernel may write to the buffer.
pub const WRITABLE: u32 = 1;
/// Elements lie one after another in C order.
pub const CONTIGUOUS: u32 = 2;
/// The host copies the result.
pub const COPY: u32 = 4;
/// The key belongs to the job.
pub const BUS_JOB: u32 = 1;

/// The kernel may return [`code::PENDING`].
pub const ASYNC: u32 = 1;
/// `emit` waits while too many values wait for the iterator.
pub const EMIT_WAITS: u32 = 2;

/// `hl_ctx`: the context of a call.
#[repr(C)]
pub struct RawCtx {
    _opaque: [u8; 0],
    _pinned: std::marker::PhantomData<(*mut u8, std::marker::PhantomPinned)>,
}

/// `hl_buf`: memory with a shape.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "explained in the header")]
pub struct Buf {
    pub data: *const c_void,
    pub len: usize,
    pub flags: u32,
    pub itemsize: u32,
    pub fmt: *const c_char,
    pub ndim: i32,
    pub reserved: u32,
    pub shape: *const i64,
    pub strides: *const i64,
}

impl Buf {
    /// `len` bytes at `data`.
    #[must_use]
    pub const fn bytes(data: *const c_void, len: usize, flags: u32) -> Self {
        Self {
            data,
            len,
            flags,
            itemsize: 1,
            fmt: std::ptr::null(),
            ndim: 1,
            reserved: 0,
            shape: std::ptr::null(),
            strides: std::ptr::null(),
        }
    }
}

/// The payload of a [`Val`].
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "explained in the header")]
pub union Payload {
    pub i: i64,
    pub u: u64,
    pub f: f64,
    pub b: Buf,
    pub reserved: [u64; 8],
}

/// `hl_val`: an argument or a result.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "explained in the header")]
pub struct Val {
    pub kind: u32,
    pub reserved: u32,
    pub u: Payload,
}

impl Val {
    /// No value.
    pub const NONE: Self = Self::new(kind::NONE, Payload { reserved: [0; 8] });

    const fn new(kind: u32, u: Payload) -> Self {
        Self {
            kind,
            reserved: 0,
            u,
        }
    }

    /// A truth value.
    #[must_use]
    pub const fn bool(value: bool) -> Self {
        Self::new(kind::BOOL, Payload { i: value as i64 })
    }

    /// A signed integer.
    #[must_use]
    pub const fn i64(i: i64) -> Self {
        Self::new(kind::I64, Payload { i })
    }

    /// An unsigned integer.
    #[must_use]
    pub const fn u64(u: u64) -> Self {
        Self::new(kind::U64, Payload { u })
    }

    /// A float.
    #[must_use]
    pub const fn f64(f: f64) -> Self {
        Self::new(kind::F64, Payload { f })
    }

    /// A buffer, text or key.
    #[must_use]
    pub const fn buf(kind: u32, b: Buf) -> Self {
        Self::new(kind, Payload { b })
    }

    /// A channel.
    #[must_use]
    pub const fn chan(u: u64) -> Self {
        Self::new(kind::CHAN, Payload { u })
    }
}

/// The functions of `hl_host` that every host has.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "explained in the header")]
pub struct HostBase {
    pub size: u32,
    pub abi: u32,
    pub cancelled: unsafe extern "C" fn(*const RawCtx) -> i32,
    pub progress: unsafe extern "C" fn(*mut RawCtx, u64, u64),
    pub alloc: unsafe extern "C" fn(*mut RawCtx, usize, usize) -> *mut c_void,
    pub resize: unsafe extern "C" fn(*mut RawCtx, *mut c_void, usize) -> *mut c_void,
    pub free: unsafe extern "C" fn(*mut RawCtx, *mut c_void),
    pub fail: unsafe extern "C" fn(*mut RawCtx, i32, *const c_char, usize) -> i32,
    pub bus_push:
        unsafe extern "C" fn(*mut RawCtx, *const c_void, usize, *const c_void, usize, u32) -> i32,
    pub bus_open: unsafe extern "C" fn(
        *mut RawCtx,
        *const c_void,
        usize,
        usize,
        u32,
        *mut *mut c_void,
    ) -> i32,
    pub bus_seal: unsafe extern "C" fn(*mut RawCtx, *mut c_void, usize) -> i32,
    pub bus_abort: unsafe extern "C" fn(*mut RawCtx, *mut c_void) -> i32,
    pub bus_get: unsafe extern "C" fn(*mut RawCtx, *const c_void, usize, *mut Buf) -> i32,
    pub bus_pop: unsafe extern "C" fn(*mut RawCtx, *const c_void, usize, *mut Buf) -> i32,
    pub emit: unsafe extern "C" fn(*mut RawCtx, *const Val) -> i32,
    pub chan_push: unsafe extern "C" fn(*mut RawCtx, u64, *const Val) -> i32,
    pub chan_pop: unsafe extern "C" fn(*mut RawCtx, u64, *mut Val) -> i32,
    pub job_id: unsafe extern "C" fn(*const RawCtx) -> u64,
}

/// Requests that a call is completed soon, with the reason.
pub type StopFn = unsafe extern "C" fn(data: *mut c_void, code: i32);
/// Releases the data of a token.
pub type DropFn = unsafe extern "C" fn(data: *mut c_void);
/// Makes a token.
pub type DeferFn =
    unsafe extern "C" fn(*mut RawCtx, *mut c_void, Option<StopFn>, Option<DropFn>) -> u64;
/// Completes the call of a token.
pub type CompleteFn = unsafe extern "C" fn(token: u64, code: i32, out: *const Val) -> i32;

/// `hl_host`: the functions of the host. What follows after `base` is there if `base.size` covers it.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "explained in the header")]
pub struct Host {
    pub base: HostBase,
    pub defer: DeferFn,
    pub complete: CompleteFn,
}

/// `hl_fn`: the function of a kernel.
pub type KernelFn = unsafe extern "C" fn(
    host: *const Host,
    ctx: *mut RawCtx,
    args: *const Val,
    n: usize,
    out: *mut Val,
    user: *mut c_void,
) -> i32;

/// `hl_kernel`: a kernel and its name.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "explained in the header")]
pub struct Kernel {
    pub size: u32,
    pub flags: u32,
    pub name: *const c_char,
    pub sig: *const c_char,
    pub doc: *const c_char,
    pub func: Option<KernelFn>,
    pub user: *mut c_void,
    pub drop: Option<DropFn>,
}

// SAFETY: an entry is only read, and any thread may call its functions with its user data: whoever makes an entry sees to that.
unsafe impl Sync for Kernel {}
// SAFETY: as above. A capsule owns its entry, and any thread may release the capsule.
unsafe impl Send for Kernel {}

/// `hl_module`: the kernels of a library.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "explained in the header")]
pub struct Module {
    pub size: u32,
    pub magic: u32,
    pub abi: u32,
    pub n: u32,
    pub name: *const c_char,
    pub kernels: *const Kernel,
}

// SAFETY: a module is only read, and points to constants.
unsafe impl Sync for Module {}

/// The exported function.
pub type ModuleFn = unsafe extern "C" fn(host_abi: u32) -> *const Module;

/// `size_of` for the size fields.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "structs of a few words")]
pub const fn size<T>() -> u32 {
    std::mem::size_of::<T>() as u32
}
