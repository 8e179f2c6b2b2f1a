//! Values that leave a kernel: results, emitted values, and what is pushed to channels.

use std::ffi::c_void;
use std::mem::size_of;

use crate::abi::{self, kind, Val};
use crate::buf::Buf;
use crate::channel::Channel;
use crate::ctx::Ctx;
use crate::element::Element;
use crate::error::Error;
use crate::memory::Memory;
use crate::value::Value;

/// A type that a kernel can return, emit or push to a channel.
#[diagnostic::on_unimplemented(
    message = "a kernel cannot return, emit or push `{Self}`",
    label = "not a type for a result",
    note = "these are `()`, numbers, `bool`, text, `Vec`s and slices of numbers, `Memory` and `Array` of `Ctx::memory()`, `Buf`, `Value`, \
            and an `Option` of one of these"
)]
pub trait IntoResult<'a>: Sized {
    /// Its name in signatures.
    const SIGNATURE: &'static str;

    /// Calls `f` with the value, which is valid during the call.
    fn with_val<R>(self, f: impl FnOnce(&Val) -> R) -> R;

    /// A value that the kernel can return.
    ///
    /// # Errors
    /// [`Code::Memory`](crate::Code::Memory) when there is not enough memory for a copy.
    fn into_val(self, ctx: &'a Ctx) -> Result<Val, Error>;
}

/// What a kernel may return: a value, or [`Pending`](crate::Pending).
#[diagnostic::on_unimplemented(
    message = "a kernel cannot return `{Self}`",
    label = "not a type for a result",
    note = "results are `()`, numbers, `bool`, text, `Vec`s and slices of numbers, `Memory` and `Array` of `Ctx::memory()`, `Buf`, `Value`, \
            an `Option` of one of these, or `Pending`; or a `Result` with an error that converts into `hybridloop_kernel::Error`"
)]
pub trait Output<'a>: Sized {
    /// Its name in signatures.
    const SIGNATURE: &'static str;
    /// The flags of its kernel.
    const FLAGS: u32;

    /// What the kernel returns; `None` for `Pending`.
    ///
    /// # Errors
    /// [`Code::Memory`](crate::Code::Memory) when there is not enough memory for a copy.
    fn into_output(self, ctx: &'a Ctx) -> Result<Option<Val>, Error>;
}

impl<'a, T: IntoResult<'a>> Output<'a> for T {
    const SIGNATURE: &'static str = <T as IntoResult<'a>>::SIGNATURE;
    const FLAGS: u32 = 0;
    fn into_output(self, ctx: &'a Ctx) -> Result<Option<Val>, Error> {
        self.into_val(ctx).map(Some)
    }
}

/// A `Result` that a kernel may return.
pub trait Returns {
    /// The type of the value.
    type Value;
    /// Its name in signatures.
    const SIGNATURE: &'static str;
    /// The flags of the kernel.
    const FLAGS: u32;
}

impl<T: Output<'static>, E> Returns for Result<T, E> {
    type Value = T;
    const SIGNATURE: &'static str = T::SIGNATURE;
    const FLAGS: u32 = T::FLAGS;
}

macro_rules! scalars {
    ($($type:ident as $into:ident: $to:ty, $name:literal;)*) => {$(
        impl<'a> IntoResult<'a> for $type {
            const SIGNATURE: &'static str = $name;
            fn with_val<R>(self, f: impl FnOnce(&Val) -> R) -> R {
                f(&Val::$into(self as $to))
            }
            fn into_val(self, _: &'a Ctx) -> Result<Val, Error> {
                Ok(Val::$into(self as $to))
            }
        }
    )*};
}
#[allow(clippy::cast_lossless, reason = "one macro for all")]
mod scalars {
    use super::{Ctx, Error, IntoResult, Val};
    scalars! {
        bool as bool: bool, "bool";
        i8 as i64: i64, "i8"; i16 as i64: i64, "i16"; i32 as i64: i64, "i32"; i64 as i64: i64, "i64";
        isize as i64: i64, "isize";
        u8 as u64: u64, "u8"; u16 as u64: u64, "u16"; u32 as u64: u64, "u32"; u64 as u64: u64, "u64";
        usize as u64: u64, "usize";
        f32 as f64: f64, "f32"; f64 as f64: f64, "f64";
    }
}

impl<'a> IntoResult<'a> for () {
    const SIGNATURE: &'static str = "none";
    fn with_val<R>(self, f: impl FnOnce(&Val) -> R) -> R {
        f(&Val::NONE)
    }
    fn into_val(self, _: &'a Ctx) -> Result<Val, Error> {
        Ok(Val::NONE)
    }
}

impl<'a, T: IntoResult<'a>> IntoResult<'a> for Option<T> {
    const SIGNATURE: &'static str = "any";
    fn with_val<R>(self, f: impl FnOnce(&Val) -> R) -> R {
        match self {
            Some(value) => value.with_val(f),
            None => f(&Val::NONE),
        }
    }
    fn into_val(self, ctx: &'a Ctx) -> Result<Val, Error> {
        match self {
            Some(value) => value.into_val(ctx),
            None => Ok(Val::NONE),
        }
    }
}

fn buffer_of<T: Element>(data: *const c_void, len: usize) -> abi::Buf {
    abi::Buf {
        #[allow(clippy::cast_possible_truncation, reason = "8 at most")]
        itemsize: size_of::<T>() as u32,
        fmt: T::FORMAT.as_ptr(),
        ..abi::Buf::bytes(data, len * size_of::<T>(), abi::CONTIGUOUS)
    }
}

impl<'a, T: Element> IntoResult<'a> for &[T] {
    const SIGNATURE: &'static str = "buf";
    fn with_val<R>(self, f: impl FnOnce(&Val) -> R) -> R {
        f(&Val::buf(
            kind::BUF,
            buffer_of::<T>(self.as_ptr().cast(), self.len()),
        ))
    }
    fn into_val(self, ctx: &'a Ctx) -> Result<Val, Error> {
        let mut memory = ctx.memory(self.len())?;
        memory.copy_from_slice(self);
        memory.into_val(ctx)
    }
}

impl<'a, T: Element> IntoResult<'a> for Vec<T> {
    const SIGNATURE: &'static str = "buf";
    fn with_val<R>(self, f: impl FnOnce(&Val) -> R) -> R {
        self.as_slice().with_val(f)
    }
    fn into_val(self, ctx: &'a Ctx) -> Result<Val, Error> {
        self.as_slice().into_val(ctx)
    }
}

impl<'a, T: Element, const N: usize> IntoResult<'a> for [T; N] {
    const SIGNATURE: &'static str = "buf";
    fn with_val<R>(self, f: impl FnOnce(&Val) -> R) -> R {
        self.as_slice().with_val(f)
    }
    fn into_val(self, ctx: &'a Ctx) -> Result<Val, Error> {
        self.as_slice().into_val(ctx)
    }
}

impl<'a> IntoResult<'a> for &str {
    const SIGNATURE: &'static str = "str";
    fn with_val<R>(self, f: impl FnOnce(&Val) -> R) -> R {
        let buf = abi::Buf::bytes(self.as_ptr().cast(), self.len(), abi::CONTIGUOUS);
        f(&Val::buf(kind::STR, buf))
    }
    fn into_val(self, ctx: &'a Ctx) -> Result<Val, Error> {
        let mut val = self.as_bytes().into_val(ctx)?;
        val.kind = kind::STR;
        Ok(val)
    }
}

impl<'a> IntoResult<'a> for String {
    const SIGNATURE: &'static str = "str";
    fn with_val<R>(self, f: impl FnOnce(&Val) -> R) -> R {
        self.as_str().with_val(f)
    }
    fn into_val(self, ctx: &'a Ctx) -> Result<Val, Error> {
        self.as_str().into_val(ctx)
    }
}

impl<'a, T: Element> IntoResult<'a> for Memory<'a, T> {
    const SIGNATURE: &'static str = "buf";
    fn with_val<R>(self, f: impl FnOnce(&Val) -> R) -> R {
        self[..].with_val(f)
    }
    fn into_val(mut self, _: &'a Ctx) -> Result<Val, Error> {
        self.shrink();
        let (data, len) = self.into_raw();
        Ok(Val::buf(kind::BUF, buffer_of::<T>(data.cast(), len)))
    }
}

/// A block of the bus is returned without a copy.
impl<'a> IntoResult<'a> for Buf<'a> {
    const SIGNATURE: &'static str = "buf";
    fn with_val<R>(self, f: impl FnOnce(&Val) -> R) -> R {
        f(&Val::buf(kind::BUF, *self.raw()))
    }
    fn into_val(self, _: &'a Ctx) -> Result<Val, Error> {
        let mut raw = *self.raw();
        // The memory may be that of an argument, which the host has to copy.
        raw.flags |= abi::COPY;
        Ok(Val::buf(kind::BUF, raw))
    }
}

/// An array: elements with a shape.
pub struct Array<'a, T: Element> {
    memory: Memory<'a, T>,
    shape: Vec<i64>,
}

impl<'a, T: Element> Array<'a, T> {
    /// An array of elements in C order.
    ///
    /// # Errors
    /// [`Code::Invalid`](crate::Code::Invalid) if the shape does not have as many elements as the memory.
    pub fn new(memory: Memory<'a, T>, shape: &[usize]) -> Result<Self, Error> {
        let count = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
        if count != Some(memory.len()) {
            return Err(Error::invalid("the shape does not fit the memory"));
        }
        let shape = shape
            .iter()
            .map(|&d| i64::try_from(d))
            .collect::<Result<_, _>>()?;
        Ok(Self { memory, shape })
    }

    fn as_buf(&self) -> abi::Buf {
        abi::Buf {
            #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
            ndim: self.shape.len() as i32,
            shape: self.shape.as_ptr(),
            ..buffer_of::<T>(self.memory.as_ptr().cast(), self.memory.len())
        }
    }
}

impl<'a, T: Element> IntoResult<'a> for Array<'a, T> {
    const SIGNATURE: &'static str = "buf";
    fn with_val<R>(self, f: impl FnOnce(&Val) -> R) -> R {
        f(&Val::buf(kind::BUF, self.as_buf()))
    }
    fn into_val(mut self, ctx: &'a Ctx) -> Result<Val, Error> {
        self.memory.shrink();
        let mut shape = ctx.memory::<i64>(self.shape.len())?;
        shape.copy_from_slice(&self.shape);
        let mut buf = self.as_buf();
        // The host owns both: the elements are the result, the shape is freed after the host has read it.
        self.memory.into_raw();
        buf.shape = shape.into_raw().0;
        Ok(Val::buf(kind::BUF, buf))
    }
}

impl<'a> IntoResult<'a> for Value<'a> {
    const SIGNATURE: &'static str = "any";
    fn with_val<R>(self, f: impl FnOnce(&Val) -> R) -> R {
        match self {
            Self::None => ().with_val(f),
            Self::Bool(value) => value.with_val(f),
            Self::Int(value) => value.with_val(f),
            Self::UInt(value) => value.with_val(f),
            Self::Float(value) => value.with_val(f),
            Self::Str(value) => value.with_val(f),
            Self::Buf(value) => value.with_val(f),
            Self::Key(value) => value.0.with_val(f),
            Self::Channel(value) => f(&Val::chan(value.id)),
        }
    }
    fn into_val(self, ctx: &'a Ctx) -> Result<Val, Error> {
        match self {
            Self::Str(value) => value.into_val(ctx),
            Self::Buf(value) => value.into_val(ctx),
            Self::Key(value) => value.0.into_val(ctx),
            other => Ok(other.with_val(|val| *val)),
        }
    }
}

impl Ctx {
    /// Passes a copy of a value to the iterator over the job. If nobody can take it, it is dropped.
    ///
    /// # Errors
    /// [`Code::Memory`](crate::Code::Memory) when a limit would be exceeded, or too many values wait for the iterator. A kernel with
    /// `#[kernel(emit_waits)]` waits instead, until the job is to stop: [`Code::Cancelled`](crate::Code::Cancelled) or
    /// [`Code::TimedOut`](crate::Code::TimedOut).
    pub fn emit<'a>(&'a self, value: impl IntoResult<'a>) -> Result<(), Error> {
        value.with_val(|val| {
            // SAFETY: the context is valid, as `Ctx::new` demands, and the host copies the value during the call.
            Error::check(unsafe { (self.host().emit)(self.raw(), val) })
        })
    }
}

impl<'a> Channel<'a> {
    /// Adds a copy of a value.
    ///
    /// # Errors
    /// [`Code::Closed`](crate::Code::Closed), or [`Code::Memory`](crate::Code::Memory) when a limit would be exceeded.
    pub fn push(self, value: impl IntoResult<'a>) -> Result<(), Error> {
        value.with_val(|val| {
            // SAFETY: the context is valid, as `Ctx::new` demands, and the host copies the value during the call.
            Error::check(unsafe { (self.ctx.host().chan_push)(self.ctx.raw(), self.id, val) })
        })
    }
}
