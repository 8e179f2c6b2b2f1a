//! Arguments and views as values of the kernel interface.

use std::ptr;

use hybridloop_kernel::abi::{self, kind, Val};

use crate::arg::Arg;
use crate::memory::block::View;

/// The number of dimensions and the shape for kernels: a single element is a sequence of one.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "numbers of dimensions"
)]
fn dimensions(shape: Option<&[i64]>) -> (i32, *const i64) {
    match shape {
        None | Some([]) => (1, ptr::null()),
        Some(shape) => (shape.len() as i32, shape.as_ptr()),
    }
}

/// A view as a buffer of the interface. It borrows from the view, which must stay where it is.
#[allow(clippy::cast_possible_truncation, reason = "sizes of elements")]
pub(super) fn view_to_buf(view: &View) -> abi::Buf {
    let (ndim, shape) = dimensions(view.shape());
    abi::Buf {
        itemsize: view.itemsize() as u32,
        fmt: view.format().as_ptr(),
        ndim,
        shape,
        ..abi::Buf::bytes(view.as_ptr().cast(), view.len(), abi::CONTIGUOUS)
    }
}

/// An argument as a value of the interface. It borrows from the argument, which must stay where it is.
#[allow(clippy::cast_possible_truncation, reason = "sizes of elements")]
pub(super) fn arg_to_val(arg: &Arg) -> Val {
    let text = |text: &[u8]| abi::Buf::bytes(text.as_ptr().cast(), text.len(), abi::CONTIGUOUS);
    match arg {
        Arg::None => Val::NONE,
        Arg::Bool(value) => Val::bool(*value),
        Arg::Int(value) => Val::i64(*value),
        Arg::UInt(value) => Val::u64(*value),
        Arg::Float(value) => Val::f64(*value),
        Arg::Str(value) => Val::buf(kind::STR, text(value.as_bytes())),
        Arg::Key(key) => Val::buf(kind::KEY, text(key.as_bytes())),
        Arg::View(view) => Val::buf(kind::BUF, view_to_buf(view)),
        Arg::Channel(channel) => Val::chan(channel.id()),
        Arg::Buffer(buffer) => {
            let writable = if buffer.writable { abi::WRITABLE } else { 0 };
            let contiguous = if buffer.contiguous {
                abi::CONTIGUOUS
            } else {
                0
            };
            let (ndim, shape) = dimensions(buffer.shape.as_deref());
            Val::buf(
                kind::BUF,
                abi::Buf {
                    itemsize: buffer.itemsize as u32,
                    fmt: buffer.format.as_ptr(),
                    ndim,
                    shape,
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
