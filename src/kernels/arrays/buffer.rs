//! The buffer protocol: views as the engine describes them.

use std::borrow::Cow;
use std::ffi::{c_char, CStr};

use hybridloop_kernels::{Buffer, Format};
use pyo3::ffi;

/// `'C'`: rows first.
const C_ORDER: c_char = 67;

/// The engine's description of a filled view. The caller releases the view when nobody uses the memory any more.
pub fn describe(view: &ffi::Py_buffer) -> Buffer {
    let len = view.len.unsigned_abs();
    // SAFETY: the object has exported `len` bytes at `buf`, and the caller holds the view. The documentation of `run_native()`, of
    // the bus and of channels forbids to write to the buffer meanwhile.
    let mut buffer = unsafe { Buffer::new(0, view.buf.cast_const().cast(), len) };
    buffer.itemsize = view.itemsize.unsigned_abs().max(1);
    if !view.format.is_null() {
        // SAFETY: the format of a filled view is null or a C string that lives as long as the view.
        let format = unsafe { CStr::from_ptr(view.format) };
        buffer.format = copy_format(format);
    }
    buffer.writable = view.readonly == 0;
    // SAFETY: the view is filled, and has not moved since.
    buffer.contiguous = unsafe { ffi::PyBuffer_IsContiguous(view, C_ORDER) } != 0;
    let ndim = view.ndim.unsigned_abs() as usize;
    let dims = |numbers: *mut isize| {
        // SAFETY: `numbers` is the `shape` or the `strides` of a filled view, not null: an array of `ndim` numbers.
        let dims = unsafe { std::slice::from_raw_parts(numbers, ndim) };
        dims.iter().map(|&n| n as i64).collect()
    };
    if ndim == 0 {
        buffer.shape = Some([].into());
    } else if ndim != 1 && !view.shape.is_null() {
        buffer.shape = Some(dims(view.shape));
    }
    if !buffer.contiguous && ndim > 0 && !view.strides.is_null() {
        if !view.shape.is_null() {
            buffer.shape = Some(dims(view.shape));
        }
        buffer.strides = Some(dims(view.strides));
    }
    buffer
}

/// A copy of a format; common formats need no allocation.
fn copy_format(format: &CStr) -> Format {
    const COMMON: [&CStr; 14] = [
        c"B", c"b", c"c", c"d", c"f", c"l", c"L", c"i", c"I", c"q", c"Q", c"h", c"H", c"?",
    ];
    match COMMON.iter().find(|common| **common == format) {
        Some(common) => Cow::Borrowed(common),
        None => Cow::Owned(format.to_owned()),
    }
}
