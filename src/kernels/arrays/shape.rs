//! Shapes, strides and formats, as the array protocols share them.

use std::ffi::CStr;
use std::ptr::NonNull;

use hybridloop_kernels::Buffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;

/// The largest number of dimensions, as in CPython's and numpy's arrays.
pub const MAX_NDIM: usize = 64;

/// Why an array cannot be used.
pub enum ArrayError {
    Dimensions(i64),
    Size,
    Null,
    NotContiguous,
    Objects(String),
}

impl From<ArrayError> for PyErr {
    fn from(error: ArrayError) -> Self {
        PyBufferError::new_err(match error {
            ArrayError::Dimensions(ndim) => {
                format!("an array of {ndim} dimensions: there may be {MAX_NDIM} at most")
            }
            ArrayError::Size => "the shape of the array is not valid".to_owned(),
            ArrayError::Null => "the array has elements, but no memory".to_owned(),
            ArrayError::NotContiguous => "the array is not C-contiguous".to_owned(),
            ArrayError::Objects(format) => {
                format!("elements of the format '{format}' refer to Python objects")
            }
        })
    }
}

/// Bytes from an element to the next in each dimension of an array in C order.
pub fn strides(shape: &[i64], itemsize: i64) -> Vec<i64> {
    let mut stride = itemsize;
    let mut strides: Vec<i64> = shape.to_vec();
    for (place, count) in strides.iter_mut().zip(shape).rev() {
        *place = stride;
        stride = stride.saturating_mul(*count);
    }
    strides
}

/// The code of a format of single elements in this machine's order: a letter, or two for complex numbers.
pub fn code(format: &CStr) -> Option<&[u8]> {
    let native = if cfg!(target_endian = "little") {
        b'<'
    } else {
        b'>'
    };
    let code = match format.to_bytes() {
        [b'@' | b'=', code @ ..] => code,
        [order, code @ ..] if *order == native => code,
        code => code,
    };
    matches!(code, [_] | [b'Z', _]).then_some(code)
}

/// An array with the strides in elements, as a kernel gets it.
///
/// # Safety
/// As [`Buffer::new`], for all elements of the array.
pub unsafe fn array(
    data: *const u8,
    format: &'static CStr,
    itemsize: usize,
    shape: &[i64],
    element_strides: Option<&[i64]>,
) -> Result<Buffer, ArrayError> {
    let len = shape
        .iter()
        .try_fold(itemsize, |len, &count| {
            len.checked_mul(usize::try_from(count).ok()?)
        })
        .filter(|len| isize::try_from(*len).is_ok())
        .ok_or(ArrayError::Size)?;
    let data = match len {
        // Consumers expect an address that is aligned and not null.
        0 => NonNull::<u64>::dangling().as_ptr().cast_const().cast(),
        _ if data.is_null() => return Err(ArrayError::Null),
        _ => data,
    };
    // SAFETY: the caller upholds the contract; an array of no bytes has none to be valid.
    let mut buffer = unsafe { Buffer::new(0, data, len) };
    (buffer.format, buffer.itemsize) = (format.into(), itemsize);
    // What fits an i64 fits here as well: the length of the array does.
    let itemsize = i64::try_from(itemsize).map_err(|_| ArrayError::Size)?;
    let gaps = match element_strides {
        Some(strides) if len > 0 => {
            let bytes: Option<Box<[i64]>> = strides
                .iter()
                .map(|stride| stride.checked_mul(itemsize))
                .collect();
            let bytes = bytes.ok_or(ArrayError::Size)?;
            let full = self::strides(shape, itemsize);
            let mut dims = shape.iter().zip(bytes.iter().zip(&full));
            let is_full = dims.all(|(count, (stride, full))| *count == 1 || stride == full);
            (!is_full).then_some(bytes)
        }
        _ => None,
    };
    buffer.contiguous = gaps.is_none();
    if shape.len() != 1 || gaps.is_some() {
        buffer.shape = Some(shape.into());
    }
    buffer.strides = gaps;
    Ok(buffer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_this_machine() {
        assert_eq!(code(c"d"), Some(&b"d"[..]));
        assert_eq!(code(c"<Zf"), Some(&b"Zf"[..]));
        assert_eq!(code(c"=?"), Some(&b"?"[..]));
        for other in [c">d", c"!d", c"2d", c"T{d:x:}", c""] {
            assert_eq!(code(other), None, "{other:?}");
        }
    }

    #[test]
    fn arrays_are_checked() {
        let data = [0_u64; 8];
        let make = |shape: &[i64], strides: Option<&[i64]>| {
            // SAFETY: nobody uses the memory.
            unsafe { array(data.as_ptr().cast(), c"q", 8, shape, strides) }.ok()
        };
        let plain = make(&[8], None).unwrap();
        assert!(plain.contiguous && plain.shape.is_none() && plain.len() == 64);
        let rows = make(&[2, 1, 4], Some(&[4, -7, 1])).unwrap();
        assert!(rows.contiguous && rows.strides.is_none());
        assert_eq!(rows.shape.as_deref(), Some(&[2, 1, 4][..]));
        let columns = make(&[4, 2], Some(&[1, 4])).unwrap();
        assert_eq!(columns.strides.as_deref(), Some(&[8, 32][..]));
        assert!(!columns.contiguous);
        assert!(make(&[0, i64::MAX], Some(&[5, 5])).unwrap().contiguous);
        assert_eq!(make(&[], None).unwrap().shape.as_deref(), Some(&[][..]));
        assert!(make(&[-1], None).is_none());
        assert!(make(&[i64::MAX, 2], None).is_none());
        assert!(make(&[2, 2], Some(&[i64::MAX, 1])).is_none());
        // SAFETY: nobody uses the memory.
        let null = |count| unsafe { array(std::ptr::null(), c"q", 8, &[count], None) };
        assert!(null(1).is_err());
        assert!(null(0).is_ok_and(|empty| !empty.as_ptr().is_null()));
    }
}
