//! Results of kernels, items that they emit, and what channels hold.

use std::collections::VecDeque;
use std::fmt;
use std::mem::size_of;
use std::ops::Deref;
use std::sync::Arc;

use crate::memory::block::{BlockBuilder, View};
use crate::memory::limit::{MemoryLimit, Reservation};

/// Text in a block. It is cheap to clone.
#[derive(Clone)]
pub struct Text(View);

impl Text {
    /// A copy of `text`; `None` if the limit or the system has not enough memory.
    pub fn copy(text: &str, limit: &Arc<MemoryLimit>) -> Option<Self> {
        let builder = BlockBuilder::copy(text.as_bytes(), limit)?;
        Some(Self(View::new(builder.seal())))
    }

    /// The bytes of `view` as text; `None` if they are not UTF-8.
    pub fn new(view: View) -> Option<Self> {
        std::str::from_utf8(&view).is_ok().then_some(Self(view))
    }

    /// Its bytes.
    pub fn into_view(self) -> View {
        self.0
    }
}

impl Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        // SAFETY: `copy` and `new` only make texts of UTF-8, and a view never changes.
        unsafe { std::str::from_utf8_unchecked(&self.0) }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// A value that owns its memory.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float(f64),
    Str(Text),
    Buffer(View),
}

/// A value in a queue. Its place in the queue counts towards a limit until it is taken.
#[derive(Debug)]
pub(crate) struct Queued {
    value: Value,
    place: Reservation,
}

impl Queued {
    /// What a place counts for: queues double their size when they are full, so half of the places may be empty.
    pub const PLACE: usize = 2 * size_of::<Self>();
    /// What a block counts for, beside its bytes.
    const BLOCK: usize = 2 * size_of::<crate::memory::block::Block>();

    /// A value whose place counts towards `limit`; `None` if less is left.
    pub fn new(value: Value, limit: &Arc<MemoryLimit>) -> Option<Self> {
        let block = match value {
            Value::Str(_) | Value::Buffer(_) => Self::BLOCK,
            _ => 0,
        };
        let place = limit.reserve(Self::PLACE + block)?;
        Some(Self { value, place })
    }

    /// A value whose place counts towards no limit.
    pub fn uncounted(value: Value) -> Self {
        Self {
            value,
            place: Reservation::default(),
        }
    }

    pub fn value(&self) -> &Value {
        &self.value
    }

    pub fn into_value(self) -> Value {
        drop(self.place);
        self.value
    }
}

/// The memory of a queue that is empty and was long.
pub(crate) fn take_if_empty<T>(queue: &mut VecDeque<T>) -> Option<VecDeque<T>> {
    const LONG: usize = 64;
    (queue.is_empty() && queue.capacity() > LONG).then(|| std::mem::take(queue))
}
