//! Arguments of kernels, as the binding to Python passes them.

use std::sync::Arc;

use crate::bus::Key;
use crate::channel::Channel;
use crate::memory::block::{Format, View};

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
