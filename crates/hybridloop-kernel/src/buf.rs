//! Buffers: arguments, and blocks of the bus.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::mem::{align_of, size_of};

use crate::abi;
use crate::element::Element;
use crate::error::Error;

/// Any buffer, with its shape.
#[derive(Clone, Copy, Debug)]
pub struct Buf<'a> {
    raw: abi::Buf,
    _lifetime: PhantomData<&'a [u8]>,
}

// SAFETY: a `Buf` only reads its memory, which nobody writes to as long as it lives.
unsafe impl Send for Buf<'_> {}
// SAFETY: shared references only read, too.
unsafe impl Sync for Buf<'_> {}

impl<'a> Buf<'a> {
    /// # Safety
    /// The memory that `raw` describes is valid for `'a`, and nobody else writes to it.
    pub(crate) unsafe fn new(raw: abi::Buf) -> Self {
        Self {
            raw,
            _lifetime: PhantomData,
        }
    }

    /// The buffer as the interface describes it.
    #[must_use]
    pub fn raw(&self) -> &abi::Buf {
        &self.raw
    }

    /// The format of an element, in the notation of Python's `struct` module.
    #[must_use]
    pub fn format(&self) -> &'a CStr {
        if self.raw.fmt.is_null() {
            return c"B";
        }
        // SAFETY: a format is null or a C string that is valid as long as the buffer.
        unsafe { CStr::from_ptr(self.raw.fmt) }
    }

    /// The size of an element in bytes.
    #[must_use]
    pub fn itemsize(&self) -> usize {
        self.raw.itemsize.max(1) as usize
    }

    /// Elements in each dimension.
    #[must_use]
    pub fn shape(&self) -> Vec<i64> {
        let ndim = usize::try_from(self.raw.ndim).unwrap_or(0);
        if self.raw.shape.is_null() {
            return vec![i64::try_from(self.raw.len / self.itemsize()).unwrap_or(i64::MAX); ndim];
        }
        // SAFETY: a shape is null or `ndim` numbers that are valid as long as the buffer.
        unsafe { std::slice::from_raw_parts(self.raw.shape, ndim) }.to_vec()
    }

    /// Whether the elements are C-contiguous.
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        self.raw.flags & abi::CONTIGUOUS != 0
    }

    /// Whether the kernel may write to it, through a `&mut [T]` parameter.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.raw.flags & abi::WRITABLE != 0
    }

    /// All bytes of a contiguous buffer.
    ///
    /// # Errors
    /// [`Code::Invalid`](crate::Code::Invalid) if it is not contiguous.
    pub fn bytes(&self) -> Result<&'a [u8], Error> {
        self.elements()
    }

    /// The elements of a contiguous buffer.
    ///
    /// # Errors
    /// [`Code::Type`](crate::Code::Type) if elements are of another type, [`Code::Invalid`](crate::Code::Invalid) if they are
    /// not contiguous and aligned.
    pub fn elements<T: Element>(&self) -> Result<&'a [T], Error> {
        if !self.is_contiguous() {
            return Err(Error::invalid("the buffer is not C-contiguous"));
        }
        if size_of::<T>() > 1 && !self.is_of::<T>() {
            return Err(Error::type_error(format!(
                "expected elements of type {}, got format {:?}",
                T::NAME,
                self.format().to_string_lossy()
            )));
        }
        if self.raw.len < size_of::<T>() {
            return Ok(&[]);
        }
        let data = self.raw.data.cast::<T>();
        if data.addr() % align_of::<T>() != 0 {
            return Err(Error::invalid("the buffer is not aligned"));
        }
        // SAFETY: `new` demands valid memory; it is contiguous and aligned, and every pattern of bits is a `T`.
        Ok(unsafe { std::slice::from_raw_parts(data, self.raw.len / size_of::<T>()) })
    }

    fn is_of<T: Element>(&self) -> bool {
        let format = match self.format().to_bytes() {
            [b'@' | b'=', rest @ ..] => rest,
            [b'<', rest @ ..] if cfg!(target_endian = "little") => rest,
            [b'>' | b'!', rest @ ..] if cfg!(target_endian = "big") => rest,
            all => all,
        };
        self.itemsize() == size_of::<T>() && format.len() == 1 && T::FORMATS.contains(&format[0])
    }
}
