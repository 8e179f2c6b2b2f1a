//! Arguments: from values of the interface to Rust's types.

use crate::abi::{self, kind, Val};
use crate::buf::Buf;
use crate::bus::Key;
use crate::channel::Channel;
use crate::ctx::Ctx;
use crate::element::Element;
use crate::error::{Code, Error};

/// A type that a parameter of a kernel can have.
#[diagnostic::on_unimplemented(
    message = "a parameter of a kernel cannot have the type `{Self}`",
    label = "not a type for a parameter",
    note = "parameters are numbers, `bool`, `&str`, slices such as `&[f64]` and `&mut [u8]`, `Buf`, `Key`, `Channel`, `Value`, or an \
            `Option` of one of these; the context is `&Ctx`, and comes first"
)]
pub trait FromArg<'a>: Sized {
    /// Its name in signatures.
    const SIGNATURE: &'static str;
    /// What follows the name in signatures.
    const SUFFIX: &'static str = "";

    /// Converts an argument.
    ///
    /// # Safety
    /// `val` is a value that the host has passed. What it points to is valid for `'a`; if that is writable, nobody else uses
    /// it.
    ///
    /// # Errors
    /// [`Code::Type`], [`Code::Overflow`] or [`Code::Invalid`].
    unsafe fn from_arg(ctx: &'a Ctx, val: &Val) -> Result<Self, Error>;
}

/// Python's name for the kind of a value.
fn kind_name(kind: u32) -> &'static str {
    match kind {
        kind::NONE => "None",
        kind::BOOL => "bool",
        kind::I64 | kind::U64 => "int",
        kind::F64 => "float",
        kind::STR => "str",
        kind::BUF => "a buffer",
        kind::KEY => "a bus key",
        kind::CHAN => "a channel",
        _ => "something unknown",
    }
}

pub(crate) fn mismatch<T>(expected: &str, val: &Val) -> Result<T, Error> {
    Err(Error::type_error(format!(
        "expected {expected}, got {}",
        kind_name(val.kind)
    )))
}

impl<'a> FromArg<'a> for bool {
    const SIGNATURE: &'static str = "bool";
    unsafe fn from_arg(_: &'a Ctx, val: &Val) -> Result<Self, Error> {
        match val.kind {
            // SAFETY: values of this kind have the field `i`.
            kind::BOOL => Ok(unsafe { val.u.i } != 0),
            _ => mismatch("bool", val),
        }
    }
}

macro_rules! integers {
    ($($type:ident)*) => {$(
        impl<'a> FromArg<'a> for $type {
            const SIGNATURE: &'static str = stringify!($type);
            unsafe fn from_arg(_: &'a Ctx, val: &Val) -> Result<Self, Error> {
                let wide = match val.kind {
                    // SAFETY: values of these kinds have the field `i`.
                    kind::I64 | kind::BOOL => i128::from(unsafe { val.u.i }),
                    // SAFETY: values of this kind have the field `u`.
                    kind::U64 => i128::from(unsafe { val.u.u }),
                    _ => return mismatch("int", val),
                };
                wide.try_into().map_err(|_| {
                    Error::new(Code::Overflow, concat!("out of range for ", stringify!($type)))
                })
            }
        }
    )*};
}
integers! { i8 i16 i32 i64 isize u8 u16 u32 u64 usize }

impl<'a> FromArg<'a> for f64 {
    const SIGNATURE: &'static str = "f64";
    #[allow(clippy::cast_precision_loss, reason = "as float(int) does")]
    unsafe fn from_arg(_: &'a Ctx, val: &Val) -> Result<Self, Error> {
        match val.kind {
            // SAFETY: values of this kind have the field `f`.
            kind::F64 => Ok(unsafe { val.u.f }),
            // SAFETY: values of these kinds have the field `i`.
            kind::I64 | kind::BOOL => Ok(unsafe { val.u.i } as f64),
            // SAFETY: values of this kind have the field `u`.
            kind::U64 => Ok(unsafe { val.u.u } as f64),
            _ => mismatch("float", val),
        }
    }
}

impl<'a> FromArg<'a> for f32 {
    const SIGNATURE: &'static str = "f32";
    #[allow(clippy::cast_possible_truncation, reason = "rounds, as C does")]
    unsafe fn from_arg(ctx: &'a Ctx, val: &Val) -> Result<Self, Error> {
        // SAFETY: the caller passes a valid value.
        unsafe { f64::from_arg(ctx, val) }.map(|value| value as f32)
    }
}

impl<'a> FromArg<'a> for &'a str {
    const SIGNATURE: &'static str = "str";
    unsafe fn from_arg(_: &'a Ctx, val: &Val) -> Result<Self, Error> {
        match val.kind {
            // SAFETY: values of this kind have the field `b`, and the caller passes a valid value.
            kind::STR => Ok(std::str::from_utf8(unsafe { bytes(&val.u.b) })?),
            _ => mismatch("str", val),
        }
    }
}

impl<'a, T: Element> FromArg<'a> for &'a [T] {
    const SIGNATURE: &'static str = T::SLICE;
    unsafe fn from_arg(_: &'a Ctx, val: &Val) -> Result<Self, Error> {
        match val.kind {
            // SAFETY: values of this kind have the field `b`, and the caller passes a valid value.
            kind::BUF => unsafe { Buf::new(val.u.b) }.elements(),
            _ => mismatch("a buffer", val),
        }
    }
}

impl<'a, T: Element> FromArg<'a> for &'a mut [T] {
    const SIGNATURE: &'static str = T::OUT;
    unsafe fn from_arg(_: &'a Ctx, val: &Val) -> Result<Self, Error> {
        if val.kind != kind::BUF {
            return mismatch("a writable buffer", val);
        }
        // SAFETY: values of this kind have the field `b`, and the caller passes a valid value.
        let buf = unsafe { Buf::new(val.u.b) };
        if !buf.is_writable() {
            return Err(Error::invalid("the buffer is read-only"));
        }
        let elements: &[T] = buf.elements()?;
        let (data, len) = (buf.raw().data.cast_mut().cast::<T>(), elements.len());
        if len == 0 {
            return Ok(&mut []);
        }
        // SAFETY: `elements` has checked type, alignment and length; nobody else uses writable memory, as the caller promises.
        Ok(unsafe { std::slice::from_raw_parts_mut(data, len) })
    }
}

impl<'a, T: FromArg<'a>> FromArg<'a> for Option<T> {
    const SIGNATURE: &'static str = T::SIGNATURE;
    const SUFFIX: &'static str = "?";
    unsafe fn from_arg(ctx: &'a Ctx, val: &Val) -> Result<Self, Error> {
        match val.kind {
            kind::NONE => Ok(None),
            // SAFETY: the caller passes a value that is valid for `'a`.
            _ => unsafe { T::from_arg(ctx, val) }.map(Some),
        }
    }
}

/// The bytes of a text or key.
///
/// # Safety
/// `buf.len` bytes at `buf.data` are valid for `'a`.
unsafe fn bytes<'a>(buf: &abi::Buf) -> &'a [u8] {
    if buf.len == 0 {
        return &[];
    }
    // SAFETY: the caller passes a description of valid bytes.
    unsafe { std::slice::from_raw_parts(buf.data.cast(), buf.len) }
}

impl<'a> FromArg<'a> for Buf<'a> {
    const SIGNATURE: &'static str = "buf";
    unsafe fn from_arg(_: &'a Ctx, val: &Val) -> Result<Self, Error> {
        match val.kind {
            // SAFETY: values of this kind have the field `b`, and the caller passes a valid value.
            kind::BUF => Ok(unsafe { Buf::new(val.u.b) }),
            _ => mismatch("a buffer", val),
        }
    }
}

impl<'a> FromArg<'a> for Key<'a> {
    const SIGNATURE: &'static str = "key";
    unsafe fn from_arg(_: &'a Ctx, val: &Val) -> Result<Self, Error> {
        match val.kind {
            // SAFETY: values of this kind have the field `b`, and the caller passes a valid value.
            kind::KEY | kind::STR => Ok(Key(unsafe { bytes(&val.u.b) })),
            _ => mismatch("a bus key", val),
        }
    }
}

impl<'a> FromArg<'a> for Channel<'a> {
    const SIGNATURE: &'static str = "chan";
    unsafe fn from_arg(ctx: &'a Ctx, val: &Val) -> Result<Self, Error> {
        match val.kind {
            kind::CHAN => Ok(Channel {
                ctx,
                // SAFETY: values of this kind have the field `u`.
                id: unsafe { val.u.u },
            }),
            _ => mismatch("a channel", val),
        }
    }
}
