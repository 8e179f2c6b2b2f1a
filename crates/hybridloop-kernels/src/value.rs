//! Results of kernels, items that they emit, and what channels hold.

use crate::memory::block::View;

/// A value that owns its memory.
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
    /// Bytes on the heap.
    pub fn size(&self) -> usize {
        match self {
            Self::Str(text) => text.len(),
            Self::Buffer(view) => view.len(),
            _ => 0,
        }
    }
}
