//! Values that a kernel returns or emits.

use std::ffi::{c_void, CStr};

use hybridloop_kernel::abi::{self, kind, Val};
use hybridloop_kernel::Code;
use hybridloop_sync::primitives::lock;

use crate::arg::Arg;
use crate::call::context::{bytes, CallContext};
use crate::job::result::KernelError;
use crate::memory::block::{has_objects, BlockBuilder, Format, View};
use crate::value::{Text, Value};

fn invalid_result(reason: impl Into<String>) -> KernelError {
    KernelError::new(Code::Result, reason)
}

/// The part of `view` at the address `data`.
fn part_at(view: &View, data: *const c_void, len: usize) -> Option<View> {
    let start = data.addr().checked_sub(view.as_ptr().addr())?;
    view.clone().part(start, len)
}

/// The memory of a value: that of the host without a copy, or a copy if the flag `COPY` asks for one. Only the result of the
/// kernel (`is_result`) may take over memory that the kernel has allocated.
///
/// # Safety
/// `buf` is valid as `hybridloop.h` describes it.
unsafe fn memory(call: &CallContext, buf: &abi::Buf, is_result: bool) -> Result<View, KernelError> {
    let mut state = lock(&call.state);
    if is_result {
        let at = state.builders.iter().position(|builder| {
            let start = buf.data.addr().checked_sub(builder.as_ptr().addr());
            start.is_some_and(|start| start <= builder.len() && buf.len <= builder.len() - start)
        });
        if let Some(at) = at {
            let start = buf.data.addr() - state.builders[at].as_ptr().addr();
            let view = View::new(state.builders.swap_remove(at).seal());
            return view
                .part(start, buf.len)
                .ok_or_else(|| invalid_result("out of bounds"));
        }
    }
    let args = call.args.iter().filter_map(|arg| match arg {
        Arg::View(view) => Some(view),
        _ => None,
    });
    if let Some(view) = state
        .views
        .iter()
        .chain(args)
        .find_map(|view| part_at(view, buf.data, buf.len))
    {
        return Ok(view);
    }
    if buf.len != 0
        && (buf.flags & abi::COPY == 0 || buf.data.is_null() || isize::try_from(buf.len).is_err())
    {
        return Err(invalid_result(
            "the kernel returned memory that is not the host's, and did not ask for a copy",
        ));
    }
    // SAFETY: the kernel asks for a copy of `len` bytes at `data`, which are valid during the call.
    let data = unsafe { bytes(buf.data, buf.len) };
    match BlockBuilder::copy(data, call.memory()) {
        Some(builder) => Ok(View::new(builder.seal())),
        None => Err(KernelError::new(
            Code::Memory,
            "no memory left for the result",
        )),
    }
}

/// A value of the interface as a value that owns its memory.
///
/// # Safety
/// `val` is valid as `hybridloop.h` describes it.
pub(super) unsafe fn val_to_value(
    call: &CallContext,
    val: &Val,
    is_result: bool,
) -> Result<Value, KernelError> {
    // SAFETY: the kind says which field of the union is set, and the caller passes valid pointers.
    unsafe {
        Ok(match val.kind {
            kind::NONE => Value::None,
            kind::BOOL => Value::Bool(val.u.i != 0),
            kind::I64 => Value::Int(val.u.i),
            kind::U64 => Value::UInt(val.u.u),
            kind::F64 => Value::Float(val.u.f),
            kind::STR => {
                let view = memory(call, &val.u.b, is_result)?;
                let text = Text::new(view);
                Value::Str(
                    text.ok_or_else(|| {
                        invalid_result("the kernel returned text that is not UTF-8")
                    })?,
                )
            }
            kind::BUF => {
                let buf = val.u.b;
                let format = if buf.fmt.is_null() {
                    Format::Borrowed(c"B")
                } else {
                    Format::Owned(CStr::from_ptr(buf.fmt).to_owned())
                };
                if has_objects(&format) {
                    return Err(invalid_result(
                        "the kernel returned elements that refer to Python objects",
                    ));
                }
                let shape = match usize::try_from(buf.ndim) {
                    Ok(0 | 1) if buf.shape.is_null() => None,
                    Ok(ndim @ 0..=64) if !buf.shape.is_null() => {
                        Some(std::slice::from_raw_parts(buf.shape, ndim).into())
                    }
                    _ => {
                        return Err(invalid_result(format!(
                            "the kernel returned a buffer of {} dimensions",
                            buf.ndim
                        )))
                    }
                };
                let view = memory(call, &buf, is_result)?;
                let view = view.with_shape(format, buf.itemsize.max(1) as usize, shape);
                Value::Buffer(view.ok_or_else(|| {
                    invalid_result("the shape of the result does not fit its length")
                })?)
            }
            other => {
                return Err(invalid_result(format!(
                    "the kernel returned a value of the unknown kind {other}"
                )))
            }
        })
    }
}
