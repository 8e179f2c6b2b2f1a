//! Arguments of kernels, as the binding to Python passes them.

use std::ops::Range;
use std::sync::Arc;

use crate::bus::Key;
use crate::channel::Channel;
use crate::memory::block::{Block, BlockBuilder, Format, View};
use crate::memory::limit::MemoryLimit;

/// Memory that the caller owns, such as that of a Python object with the buffer protocol.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// An identifier of the owner.
    pub id: u64,
    data: *const u8,
    len: usize,
    /// The format of an element.
    pub format: Format,
    /// The size of an element.
    pub itemsize: usize,
    /// Elements in each dimension; `None` for one dimension without gaps.
    pub shape: Option<Box<[i64]>>,
    /// Bytes from an element to the next, in each dimension; `None` if there are no gaps.
    pub strides: Option<Box<[i64]>>,
    /// Whether the kernel may write to it.
    pub writable: bool,
    /// Whether the elements are C-contiguous.
    pub contiguous: bool,
    /// Whether nobody can ever write to it, as to a `bytes` object.
    pub immutable: bool,
}

// SAFETY: the caller of `Buffer::new` keeps the memory valid and unshared until the job is done, whichever thread runs it.
unsafe impl Send for Buffer {}
// SAFETY: a shared reference to a `Buffer` gives its address and length; the memory is used as `Buffer::new` demands.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` contiguous bytes at `data`.
    ///
    /// # Safety
    /// The memory stays valid until the job that it is passed to is done, and nobody else writes to it until then. If it is
    /// `writable` and passed to a parameter that is written, nobody else reads it either.
    #[must_use]
    pub unsafe fn new(id: u64, data: *const u8, len: usize) -> Self {
        Self {
            id,
            data,
            len,
            format: Format::Borrowed(c"B"),
            itemsize: 1,
            shape: None,
            strides: None,
            writable: false,
            contiguous: true,
            immutable: false,
        }
    }

    /// The addresses of its elements: from the first byte of the lowest to the last byte of the highest. With negative strides,
    /// the lowest is not the first; with gaps, they span more than their length.
    pub fn addresses(&self) -> Range<usize> {
        let first = self.data.addr();
        let (Some(shape), Some(strides)) = (&self.shape, &self.strides) else {
            return first..first.saturating_add(self.len);
        };
        if self.is_empty() {
            return first..first;
        }
        let (mut below, mut above) = (0_usize, 0_usize);
        for (count, stride) in shape.iter().zip(strides) {
            let steps = usize::try_from(count - 1).unwrap_or(0);
            let distance = usize::try_from(stride.unsigned_abs()).unwrap_or(usize::MAX);
            let side = if *stride < 0 { &mut below } else { &mut above };
            *side = side.saturating_add(steps.saturating_mul(distance));
        }
        let end = first.saturating_add(above).saturating_add(self.itemsize);
        first.saturating_sub(below)..end
    }

    /// Its first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.data
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// A copy of a buffer without gaps; `None` if there is not enough memory.
    pub fn copy(&self, limit: &Arc<MemoryLimit>) -> Option<View> {
        let data = match self.len {
            0 => &[],
            // SAFETY: there are `len` bytes without gaps, which are valid and not written, as the caller of `new` upholds.
            len => unsafe { std::slice::from_raw_parts(self.data, len) },
        };
        Some(self.in_block(BlockBuilder::copy(data, limit)?.seal()))
    }

    /// The same array in a block that has its bytes.
    pub fn in_block(&self, block: Arc<Block>) -> View {
        let bytes = View::new(block);
        let shape = self.shape.as_deref().map(Arc::from);
        let array = bytes
            .clone()
            .with_shape(self.format.clone(), self.itemsize, shape);
        // The elements of some arrays have no size.
        array.unwrap_or(bytes)
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// An argument of a kernel.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Arg {
    None,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float(f64),
    Str(Box<str>),
    Key(Key),
    Buffer(Buffer),
    View(View),
    Channel(Arc<Channel>),
}

impl Arg {
    /// Its type, for an error message.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "bool",
            Self::Int(_) | Self::UInt(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::Key(_) => "a bus key",
            Self::Buffer(_) | Self::View(_) => "a buffer",
            Self::Channel(_) => "a channel",
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Buffer;

    #[test]
    fn addresses_span_all_elements() {
        let data = [0_u8; 400];
        let base = data.as_ptr().addr();
        let span = |start: usize, shape: &[i64], strides: &[i64]| {
            let len = shape.iter().product::<i64>() * 4;
            // SAFETY: no kernel runs, so nobody uses the memory.
            let mut buffer =
                unsafe { Buffer::new(0, data.as_ptr().add(start), usize::try_from(len).unwrap()) };
            buffer.itemsize = 4;
            buffer.shape = Some(shape.into());
            buffer.strides = Some(strides.into());
            let addresses = buffer.addresses();
            (addresses.start - base, addresses.end - base)
        };
        assert_eq!(span(0, &[10], &[8]), (0, 76));
        assert_eq!(span(76, &[10], &[-8]), (4, 80));
        assert_eq!(span(40, &[3, 4], &[4, 12]), (40, 88), "Fortran's order");
        assert_eq!(span(100, &[3, 4], &[-40, 4]), (20, 116));
        assert_eq!(span(8, &[5], &[0]), (8, 12));
        assert_eq!(span(8, &[0, 5], &[40, 4]), (8, 8));
        assert_eq!(span(8, &[], &[]), (8, 12));
    }
}
