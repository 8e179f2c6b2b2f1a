//! Values on their way into a kernel and out of it.

use std::ffi::{c_void, CStr};
use std::ptr;

use hybridloop_kernel::abi::{self, kind, Val};
use hybridloop_kernel::Code;
use hybridloop_sync::primitives::lock;

use crate::call::{bytes, Call};
use crate::job::result::KernelError;
use crate::memory::block::{Draft, Format, View};
use crate::value::{Arg, Value};

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "sizes of elements, numbers of dimensions"
)]
pub(super) fn describe(view: &View) -> abi::Buf {
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
pub(super) fn to_val(arg: &Arg) -> Val {
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
pub(super) unsafe fn convert(
    call: &Call<'_>,
    val: &Val,
    is_final: bool,
) -> Result<Value, KernelError> {
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
