//! Writing a key in place.

use std::sync::Arc;

use hybridloop_sync::primitives::lock;

use crate::bus::error::BusError;
use crate::bus::key::Key;
use crate::bus::shard::Sealed;
use crate::bus::store::Bus;
use crate::memory::block::{BlockBuilder, View};

/// An open write of a key; aborted unless it is sealed.
#[derive(Debug)]
pub struct Writer {
    bus: Arc<Bus>,
    key: Key,
    /// `None` once it is sealed.
    builder: Option<BlockBuilder>,
    reserved: usize,
    /// What the key counts for, beside the bytes.
    place: usize,
}

impl Bus {
    /// Opens `key` for writing `len` bytes. The key is busy until the writer is sealed or dropped.
    ///
    /// # Errors
    /// [`BusError::Capacity`], [`BusError::Memory`], [`BusError::Closed`]
    pub fn open(self: &Arc<Self>, key: Key, len: usize) -> Result<Writer, BusError> {
        self.check_open()?;
        let place = self.place(&key, 0);
        self.reserve(len + place)?;
        let Some(builder) = BlockBuilder::new(len, self.memory()) else {
            self.release(len + place);
            return Err(BusError::Memory);
        };
        lock(self.shard(key.as_bytes())).begin_write(&key);
        Ok(Writer {
            bus: self.clone(),
            key,
            builder: Some(builder),
            reserved: len,
            place,
        })
    }
}

impl Writer {
    /// The bytes to write; zero at first.
    pub fn data(&mut self) -> &mut [u8] {
        self.builder.as_deref_mut().unwrap_or_default()
    }

    /// Publishes the first `len` bytes, or all if there are fewer.
    ///
    /// # Errors
    /// [`BusError::Closed`]
    pub fn seal(mut self, len: usize) -> Result<(), BusError> {
        let Some(mut builder) = self.builder.take() else {
            return Err(BusError::Closed);
        };
        let len = len.min(builder.len());
        // If the block cannot be made shorter, the view below is.
        builder.resize(len);
        self.bus.release(self.reserved - len);
        let view = View::new(builder.seal());
        let view = view.clone().part(0, len).unwrap_or(view);
        let sealed = Sealed {
            view,
            place: self.place,
        };
        self.bus.publish(&self.key, sealed, true)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(builder) = self.builder.take() {
            drop(builder);
            self.bus.abort_write(&self.key);
            self.bus.release(self.reserved + self.place);
        }
    }
}
