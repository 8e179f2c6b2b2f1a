//! What goes into a kernel and what comes out, as the binding to Python sees it.

use std::sync::Arc;

use crate::bus::Key;
use crate::channel::Channel;
use crate::memory::block::{Format, View};

/// Memory of somebody else, such as an object with Python's buffer interface.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// What its owner knows it by.
    pub id: u64,
    data: *const u8,
    len: usize,
    /// The format of an element.
    pub format: Format,
    /// The size of an element.
    pub itemsize: usize,
    /// Elements along each dimension; `None` for one dimension without gaps.
    pub shape: Option<Box<[i64]>>,
    /// Bytes from an element to the next; `None` if there are no gaps.
    pub strides: Option<Box<[i64]>>,
    /// Whether it may be written to.
    pub writable: bool,
    /// Whether elements lie one after another in C order.
    pub contiguous: bool,
    /// Whether nobody can ever write to it, as to a `bytes` object: then nobody has to watch that.
    pub immutable: bool,
}

// SAFETY: whoever makes one promises that the memory may be used by the thread that runs the job.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` contiguous bytes at `data`.
    ///
    /// # Safety
    /// The memory stays valid until the job that it is passed to is done, and nobody else writes to it during that time. If
    /// it is made `writable` and passed to a parameter that is written, nobody else reads it either.
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

    /// Its first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.data
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// An argument.
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
    /// What it is in an error message.
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

/// A result, an item that a kernel emits, or what is in a channel. It owns what it shows.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float(f64),
    Str(Box<str>),
    Buffer(View),
}

impl Value {
    /// How many bytes it takes beyond itself.
    pub fn size(&self) -> usize {
        match self {
            Self::Str(text) => text.len(),
            Self::Buffer(view) => view.len(),
            _ => 0,
        }
    }
}
