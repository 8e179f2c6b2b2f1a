//! Immutable memory that is shared by counting.

use std::alloc::{alloc, alloc_zeroed, dealloc, realloc, Layout};
use std::borrow::Cow;
use std::ffi::CStr;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::memory::limit::{Budget, Charge};

/// Blocks begin at a multiple of this: a cache line, and enough for every vector instruction.
pub const ALIGN: usize = 64;

/// Bytes in memory of their own, charged to a budget as long as anybody holds them.
pub struct Block {
    data: NonNull<u8>,
    len: usize,
    /// Of what is allocated; nothing is when its size is 0.
    layout: Layout,
    charge: Charge,
}

// SAFETY: it owns its memory.
unsafe impl Send for Block {}
// SAFETY: a shared reference only reads.
unsafe impl Sync for Block {}

impl Block {
    fn new(len: usize, align: usize, charge: Charge) -> Option<Self> {
        // SAFETY: zeroed memory is initialised.
        unsafe { Self::made_by(alloc_zeroed, len, align, charge) }
    }

    /// # Safety
    /// Memory of `allocate`, one of the two functions, is initialised before it is read.
    unsafe fn made_by(
        allocate: unsafe fn(Layout) -> *mut u8,
        len: usize,
        align: usize,
        charge: Charge,
    ) -> Option<Self> {
        let layout = Layout::from_size_align(len, align.max(1)).ok()?;
        let data = if len == 0 {
            // Aligned and not null, which is all that memory of no bytes has to be.
            NonNull::new(std::ptr::without_provenance_mut(layout.align()))?
        } else {
            // SAFETY: the size is not 0.
            NonNull::new(unsafe { allocate(layout) })?
        };
        Some(Self {
            data,
            len,
            layout,
            charge,
        })
    }

    /// Its first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.data.as_ptr()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.layout.size() != 0 {
            // SAFETY: allocated with that layout.
            unsafe { dealloc(self.data.as_ptr(), self.layout) };
        }
    }
}

impl Deref for Block {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: that many bytes, zeroed at first, and not written to while shared.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} bytes)", self.len)
    }
}

/// A block that has one owner, who fills it. Zero at first.
#[derive(Debug)]
pub struct Draft(Block);

impl Draft {
    /// `len` bytes, at a multiple of [`ALIGN`]; `None` if the budget or the system has no room.
    pub fn new(len: usize, budget: &Arc<Budget>) -> Option<Self> {
        Self::aligned(len, ALIGN, budget)
    }

    /// The same with another alignment, a power of two.
    pub fn aligned(len: usize, align: usize, budget: &Arc<Budget>) -> Option<Self> {
        let charge = budget.take(len)?;
        Block::new(len, align, charge).map(Self)
    }

    /// A copy of `data`.
    pub fn copy(data: &[u8], budget: &Arc<Budget>) -> Option<Self> {
        let charge = budget.take(data.len())?;
        // SAFETY: all of it is written here.
        let block = unsafe { Block::made_by(alloc, data.len(), ALIGN, charge)? };
        // SAFETY: that many bytes, of this owner alone.
        unsafe {
            block
                .data
                .copy_from_nonoverlapping(NonNull::from(data).cast(), data.len());
        };
        Some(Self(block))
    }

    /// Gives it another length; it may move. `false`, and no change, if there is no room.
    pub fn resize(&mut self, len: usize) -> bool {
        let block = &mut self.0;
        let old = block.len;
        if len == old {
            return true;
        }
        let Ok(layout) = Layout::from_size_align(len, block.layout.align()) else {
            return false;
        };
        if !block.charge.resize(len) {
            return false;
        }
        if len == 0 || old == 0 {
            let Some(mut new) = Block::new(len, layout.align(), Charge::default()) else {
                block.charge.resize(old);
                return false;
            };
            std::mem::swap(&mut new.charge, &mut block.charge);
            *block = new;
            return true;
        }
        // SAFETY: allocated with that layout; the new size is not 0 and fits a layout.
        let Some(data) = NonNull::new(unsafe { realloc(block.data.as_ptr(), block.layout, len) })
        else {
            block.charge.resize(old);
            return false;
        };
        if len > old {
            // SAFETY: within what is allocated now.
            unsafe { data.add(old).write_bytes(0, len - old) };
        }
        (block.data, block.layout, block.len) = (data, layout, len);
        true
    }

    /// Its first byte.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.data.as_ptr()
    }

    /// From here on it is shared and does not change.
    #[must_use]
    pub fn seal(self) -> Arc<Block> {
        Arc::new(self.0)
    }
}

impl Deref for Draft {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Draft {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: that many bytes, of this owner alone.
        unsafe { std::slice::from_raw_parts_mut(self.0.data.as_ptr(), self.0.len) }
    }
}

/// How elements of a buffer are laid out, in the notation of Python's `struct` module.
pub type Format = Cow<'static, CStr>;

/// A part of a block, with the shape of an array. Cheap to clone; keeps the block alive.
#[derive(Clone, Debug)]
pub struct View {
    block: Arc<Block>,
    start: usize,
    len: usize,
    format: Format,
    itemsize: usize,
    /// `None` for one dimension.
    shape: Option<Arc<[i64]>>,
}

impl View {
    /// All of a block, as bytes.
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

    /// The part from `start`, `len` bytes long; `None` if it is not in there.
    #[must_use]
    pub fn part(mut self, start: usize, len: usize) -> Option<Self> {
        let end = start.checked_add(len)?;
        if end > self.len {
            return None;
        }
        (self.start, self.len) = (self.start + start, len);
        Some(self)
    }

    /// The same bytes as elements of an array in C order; `None` if the shape does not fit.
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

    /// Elements along each dimension, or `None` for a plain sequence.
    pub fn shape(&self) -> Option<&[i64]> {
        self.shape.as_deref()
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
    use super::{Draft, View, ALIGN};
    use crate::memory::limit::Budget;

    #[test]
    fn a_draft_grows_and_shrinks_within_its_budget() {
        let budget = Budget::new(1000);
        let mut draft = Draft::copy(b"abc", &budget).unwrap();
        assert_eq!(draft.as_ptr().addr() % ALIGN, 0);
        assert!(draft.resize(500));
        assert_eq!((&draft[..4], budget.used()), (&b"abc\0"[..], 500));
        assert!(!draft.resize(1001));
        assert!(draft.resize(2));
        assert!(draft.resize(4));
        assert_eq!(&draft[..], b"ab\0\0");
        assert!(draft.resize(0));
        assert_eq!(budget.used(), 0);
        assert!(draft.resize(0));
        assert!(draft.resize(3));
        assert!(!draft.resize(usize::MAX));
        assert_eq!((&draft[..], budget.used()), (&[0, 0, 0][..], 3));
        let view = View::new(draft.seal());
        let other = view.clone();
        drop(view);
        assert_eq!(budget.used(), 3);
        drop(other);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_view_is_a_part_with_a_shape() {
        let budget = Budget::new(1000);
        let view = View::new(Draft::copy(b"0123456789", &budget).unwrap().seal());
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
    fn nothing_is_a_block_too() {
        let draft = Draft::new(0, &Budget::new(0)).unwrap();
        assert!(draft.seal().is_empty());
    }
}
