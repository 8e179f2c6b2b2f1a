//! Immutable blocks of memory with a reference count.

use std::alloc::{alloc, alloc_zeroed, dealloc, realloc, Layout};
use std::any::Any;
use std::borrow::Cow;
use std::ffi::CStr;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::memory::limit::{MemoryLimit, Reservation};

/// The alignment of blocks: a cache line, and enough for every vector instruction.
pub const ALIGN: usize = 64;

/// What keeps the memory of a block that somebody else has allocated. Dropping it gives the memory back.
pub type Owner = Box<dyn Any + Send + Sync>;

/// Bytes on the heap, which count towards a [`MemoryLimit`] as long as the block lives.
pub struct Block {
    data: NonNull<u8>,
    len: usize,
    /// The layout of the allocation; there is none if the size is 0, or the memory is the owner's.
    layout: Layout,
    reservation: Reservation,
    _owner: Option<Owner>,
}

// SAFETY: a block owns its memory, like a `Box<[u8]>`, or its owner does, which any thread may drop.
unsafe impl Send for Block {}
// SAFETY: a shared reference to a block only reads its memory.
unsafe impl Sync for Block {}

impl Block {
    fn new(len: usize, align: usize, reservation: Reservation) -> Option<Self> {
        // SAFETY: `alloc_zeroed` initialises the memory.
        unsafe { Self::allocate(alloc_zeroed, len, align, reservation) }
    }

    /// # Safety
    /// `allocator` is `alloc` or `alloc_zeroed`, and after `alloc` the caller writes all `len` bytes before the block is read.
    unsafe fn allocate(
        allocator: unsafe fn(Layout) -> *mut u8,
        len: usize,
        align: usize,
        reservation: Reservation,
    ) -> Option<Self> {
        let layout = Layout::from_size_align(len, align.max(1)).ok()?;
        let data = if len == 0 {
            // Memory of no bytes needs an address that is aligned and not null.
            NonNull::new(std::ptr::without_provenance_mut(layout.align()))?
        } else {
            // SAFETY: the size of the layout is not 0.
            NonNull::new(unsafe { allocator(layout) })?
        };
        Some(Self {
            data,
            len,
            layout,
            reservation,
            _owner: None,
        })
    }

    /// `len` bytes at `data`, which `owner` keeps; `None` if the limit has not enough memory.
    ///
    /// # Safety
    /// The bytes are initialised and stay where they are until `owner` is dropped, and nobody writes to them until then.
    #[must_use]
    pub unsafe fn foreign(
        data: *const u8,
        len: usize,
        owner: Owner,
        limit: &Arc<MemoryLimit>,
    ) -> Option<Arc<Self>> {
        let reservation = limit.reserve(len)?;
        let data = match len {
            0 => NonNull::new(std::ptr::without_provenance_mut(ALIGN))?,
            _ => NonNull::new(data.cast_mut())?,
        };
        Some(Arc::new(Self {
            data,
            len,
            layout: Layout::new::<()>(),
            reservation,
            _owner: Some(owner),
        }))
    }

    /// Its first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.data.as_ptr()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.layout.size() != 0 {
            // SAFETY: foreign memory has an empty layout. This was allocated with the layout, and nobody refers to it any more.
            unsafe { dealloc(self.data.as_ptr(), self.layout) };
        }
    }
}

impl Deref for Block {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `data` points to `len` initialised bytes. Only a `BlockBuilder` writes to them, through `&mut self`, and to
        // foreign memory nobody, as `foreign` demands.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} bytes)", self.len)
    }
}

/// A block that is being filled by its only owner. New bytes are zero.
#[derive(Debug)]
pub struct BlockBuilder(Block);

impl BlockBuilder {
    /// A builder of `len` bytes with the alignment [`ALIGN`]; `None` if the limit or the system has not enough memory.
    pub fn new(len: usize, limit: &Arc<MemoryLimit>) -> Option<Self> {
        Self::aligned(len, ALIGN, limit)
    }

    /// A builder with another alignment, a power of two.
    pub fn aligned(len: usize, align: usize, limit: &Arc<MemoryLimit>) -> Option<Self> {
        let reservation = limit.reserve(len)?;
        Block::new(len, align, reservation).map(Self)
    }

    /// A copy of `data`.
    pub fn copy(data: &[u8], limit: &Arc<MemoryLimit>) -> Option<Self> {
        let reservation = limit.reserve(data.len())?;
        // SAFETY: `copy_from_nonoverlapping` writes all bytes, below.
        let block = unsafe { Block::allocate(alloc, data.len(), ALIGN, reservation)? };
        // SAFETY: the block is as long as `data`, and nobody else knows it.
        unsafe {
            block
                .data
                .copy_from_nonoverlapping(NonNull::from(data).cast(), data.len());
        };
        Some(Self(block))
    }

    /// Changes the length; the memory may move. `false`, and no change, if there is not enough memory.
    pub fn resize(&mut self, len: usize) -> bool {
        let block = &mut self.0;
        let old = block.len;
        if len == old {
            return true;
        }
        let Ok(layout) = Layout::from_size_align(len, block.layout.align()) else {
            return false;
        };
        if !block.reservation.resize(len) {
            return false;
        }
        if len == 0 || old == 0 {
            let Some(mut new) = Block::new(len, layout.align(), Reservation::default()) else {
                block.reservation.resize(old);
                return false;
            };
            std::mem::swap(&mut new.reservation, &mut block.reservation);
            *block = new;
            return true;
        }
        // SAFETY: the memory was allocated with `block.layout`; `len` is not 0, and `layout` has checked that it fits.
        let Some(data) = NonNull::new(unsafe { realloc(block.data.as_ptr(), block.layout, len) })
        else {
            block.reservation.resize(old);
            return false;
        };
        if len > old {
            // SAFETY: `realloc` has returned `len` bytes, more than `old`.
            unsafe { data.add(old).write_bytes(0, len - old) };
        }
        (block.data, block.layout, block.len) = (data, layout, len);
        true
    }

    /// Its first byte.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.data.as_ptr()
    }

    /// Makes the block immutable and shared.
    #[must_use]
    pub fn seal(self) -> Arc<Block> {
        Arc::new(self.0)
    }
}

impl Deref for BlockBuilder {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for BlockBuilder {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: `data` points to `len` initialised bytes, and a builder is their only owner.
        unsafe { std::slice::from_raw_parts_mut(self.0.data.as_ptr(), self.0.len) }
    }
}

/// The format of the elements of a buffer, in the notation of Python's `struct` module.
pub type Format = Cow<'static, CStr>;

/// Whether a format has references to Python objects (`O`), which only Python may copy.
pub fn has_objects(format: &CStr) -> bool {
    // Names of fields stand between colons.
    let mut parts = format.to_bytes().split(|byte| *byte == b':');
    parts.by_ref().step_by(2).any(|part| part.contains(&b'O'))
}

/// A part of a block as an array. It is cheap to clone and keeps the block alive.
#[derive(Clone, Debug)]
pub struct View {
    block: Arc<Block>,
    start: usize,
    len: usize,
    format: Format,
    itemsize: usize,
    /// `None` for a plain sequence of elements.
    shape: Option<Arc<[i64]>>,
}

impl View {
    /// A whole block as bytes.
    #[must_use]
    pub fn new(block: Arc<Block>) -> Self {
        Self {
            start: 0,
            len: block.len(),
            block,
            format: Cow::Borrowed(c"B"),
            itemsize: 1,
            shape: None,
        }
    }

    /// The `len` bytes from `start`; `None` if the view ends before.
    #[must_use]
    pub fn part(mut self, start: usize, len: usize) -> Option<Self> {
        let end = start.checked_add(len)?;
        if end > self.len {
            return None;
        }
        (self.start, self.len) = (self.start + start, len);
        Some(self)
    }

    /// The same bytes as an array in C order; `None` if the shape does not fit the length.
    #[must_use]
    pub fn with_shape(
        mut self,
        format: Format,
        itemsize: usize,
        shape: Option<Arc<[i64]>>,
    ) -> Option<Self> {
        let count = match &shape {
            Some(shape) => shape
                .iter()
                .try_fold(1_usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?))?,
            None => self.len.checked_div(itemsize)?,
        };
        if count.checked_mul(itemsize)? != self.len {
            return None;
        }
        (self.format, self.itemsize, self.shape) = (format, itemsize, shape);
        Some(self)
    }

    /// A copy in a block of its own; `None` if there is not enough memory.
    pub fn copy(&self, limit: &Arc<MemoryLimit>) -> Option<Self> {
        let block = BlockBuilder::copy(self, limit)?.seal();
        Some(Self {
            block,
            start: 0,
            ..self.clone()
        })
    }

    /// The block.
    pub fn block(&self) -> &Arc<Block> {
        &self.block
    }

    /// The format of an element.
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// The size of an element in bytes, at least 1.
    pub fn itemsize(&self) -> usize {
        self.itemsize
    }

    /// Elements in each dimension, or `None` for a plain sequence.
    pub fn shape(&self) -> Option<&[i64]> {
        self.shape.as_deref()
    }

    /// Bytes on the heap that describe the array, beside its own.
    pub(crate) fn header(&self) -> usize {
        let format = match &self.format {
            Cow::Owned(format) => format.count_bytes(),
            Cow::Borrowed(_) => 0,
        };
        format + self.shape.as_deref().map_or(0, size_of_val)
    }
}

impl Deref for View {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.block[self.start..self.start + self.len]
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::{has_objects, Block, BlockBuilder, View, ALIGN};
    use crate::memory::limit::MemoryLimit;

    #[test]
    fn a_builder_grows_and_shrinks_within_its_limit() {
        let limit = MemoryLimit::new(1000);
        let mut builder = BlockBuilder::copy(b"abc", &limit).unwrap();
        assert_eq!(builder.as_ptr().addr() % ALIGN, 0);
        assert!(builder.resize(500));
        assert_eq!((&builder[..4], limit.used()), (&b"abc\0"[..], 500));
        assert!(!builder.resize(1001));
        assert!(builder.resize(2));
        assert!(builder.resize(4));
        assert_eq!(&builder[..], b"ab\0\0");
        assert!(builder.resize(0));
        assert_eq!(limit.used(), 0);
        assert!(builder.resize(0));
        assert!(builder.resize(3));
        assert!(!builder.resize(usize::MAX));
        assert_eq!((&builder[..], limit.used()), (&[0, 0, 0][..], 3));
        let view = View::new(builder.seal());
        let other = view.clone();
        drop(view);
        assert_eq!(limit.used(), 3);
        drop(other);
        assert_eq!(limit.used(), 0);
    }

    #[test]
    fn a_view_is_a_part_with_a_shape() {
        let limit = MemoryLimit::new(1000);
        let view = View::new(BlockBuilder::copy(b"0123456789", &limit).unwrap().seal());
        assert!(view.clone().part(3, 8).is_none());
        assert!(view.clone().part(usize::MAX, 2).is_none());
        let part = view.part(2, 6).unwrap().part(1, 4).unwrap();
        assert_eq!(&part[..], b"3456");
        assert!(part.clone().with_shape(c"i".into(), 4, None).is_some());
        assert!(part.clone().with_shape(c"d".into(), 8, None).is_none());
        assert!(part.clone().with_shape(c"d".into(), 0, None).is_none());
        let shape = |dims: &[i64]| Some(dims.into());
        assert!(part
            .clone()
            .with_shape(c"h".into(), 2, shape(&[2, 1]))
            .is_some());
        assert!(part
            .clone()
            .with_shape(c"h".into(), 2, shape(&[2, 2]))
            .is_none());
        assert!(part.with_shape(c"h".into(), 2, shape(&[-2, -1])).is_none());
    }

    #[test]
    fn a_foreign_block_keeps_its_owner_until_the_last_view_goes() {
        let limit = MemoryLimit::new(10);
        let owner = Arc::new(b"0123456789".to_vec());
        // SAFETY: the vector is shared, so nobody writes to it, and the owner keeps it.
        let foreign = |data: *const u8, len| unsafe {
            Block::foreign(data, len, Box::new(owner.clone()), &limit)
        };
        let view = View::new(foreign(owner.as_ptr(), 10).unwrap());
        assert!(foreign(owner.as_ptr(), 1).is_none(), "no memory left");
        let part = view.clone().part(2, 3).unwrap();
        drop(view);
        assert_eq!((&part[..], limit.used()), (&b"234"[..], 10));
        assert_eq!(Arc::strong_count(&owner), 2);
        drop(part);
        assert_eq!((limit.used(), Arc::strong_count(&owner)), (0, 1));
        let empty = foreign(std::ptr::null(), 0).unwrap();
        assert!(empty.is_empty() && !empty.as_ptr().is_null());
        assert!(foreign(std::ptr::null(), 1).is_none());
        drop(empty);
        assert_eq!((limit.used(), Arc::strong_count(&owner)), (0, 1));
    }

    #[test]
    fn formats_with_objects_are_found() {
        for format in [c"O", c"T{d:x:O:y:}", c"(2,3)O", c"T{T{O:a:}:b:}"] {
            assert!(has_objects(format), "{format:?}");
        }
        for format in [c"B", c"Zd", c"T{d:Open:i:O:}", c"T{T{d:O:}:O:}", c""] {
            assert!(!has_objects(format), "{format:?}");
        }
    }

    #[test]
    fn a_block_may_be_empty() {
        let builder = BlockBuilder::new(0, &MemoryLimit::new(0)).unwrap();
        assert!(builder.seal().is_empty());
    }
}
