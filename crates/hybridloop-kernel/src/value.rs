//! Values of any type: arguments, and what comes out of channels.

use crate::abi::{self, kind, Val};
use crate::args::{mismatch, FromArg};
use crate::buf::Buf;
use crate::bus::Key;
use crate::channel::Channel;
use crate::ctx::Ctx;
use crate::error::{Code, Error};

/// Any value.
#[derive(Clone, Copy)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it")]
pub enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float(f64),
    Str(&'a str),
    Buf(Buf<'a>),
    Key(Key<'a>),
    Channel(Channel<'a>),
}

impl<'a> Value<'a> {
    /// # Safety
    /// `val` is a value that the host has passed, and what it points to is valid for `'a`.
    pub(crate) unsafe fn from_val(ctx: &'a Ctx, val: &Val) -> Result<Self, Error> {
        // SAFETY: the kind says which field of the union is set, and the caller passes a value that is valid for `'a`.
        Ok(unsafe {
            match val.kind {
                kind::NONE => Self::None,
                kind::BOOL => Self::Bool(val.u.i != 0),
                kind::I64 => Self::Int(val.u.i),
                kind::U64 => Self::UInt(val.u.u),
                kind::F64 => Self::Float(val.u.f),
                kind::STR => Self::Str(FromArg::from_arg(ctx, val)?),
                kind::BUF => Self::Buf(Buf::new(val.u.b)),
                kind::KEY => Self::Key(FromArg::from_arg(ctx, val)?),
                kind::CHAN => Self::Channel(FromArg::from_arg(ctx, val)?),
                _ => return mismatch("a value", val),
            }
        })
    }
}

impl<'a> FromArg<'a> for Value<'a> {
    const SIGNATURE: &'static str = "any";
    unsafe fn from_arg(ctx: &'a Ctx, val: &Val) -> Result<Self, Error> {
        // SAFETY: the caller passes a value that is valid for `'a`.
        unsafe { Self::from_val(ctx, val) }
    }
}

impl<'a> Channel<'a> {
    /// Removes a value, the oldest or the newest by the order of the channel; `None` if there is none now.
    ///
    /// # Errors
    /// [`Code::Closed`] when the channel is closed and empty.
    pub fn pop(self) -> Result<Option<Value<'a>>, Error> {
        let mut val = abi::Val::NONE;
        // SAFETY: the context is valid, as `Ctx::new` demands, and the host writes to `val`.
        let status = unsafe { (self.ctx.host().chan_pop)(self.ctx.raw(), self.id, &raw mut val) };
        match Error::check(status) {
            // SAFETY: the host has set `val`, and keeps what it points to until the kernel returns, which `'a` does not
            // outlive.
            Ok(()) => unsafe { Value::from_val(self.ctx, &val) }.map(Some),
            Err(error) if error.code() == Code::Empty => Ok(None),
            Err(error) => Err(error),
        }
    }
}
