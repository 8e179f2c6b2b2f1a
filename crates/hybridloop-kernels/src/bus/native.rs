//! What kernels may do with the bus.

use std::sync::Arc;

use hybridloop_sync::primitives::{lock, Ordering};

use crate::bus::error::BusError;
use crate::bus::key::Key;
use crate::bus::shard::Sealed;
use crate::bus::store::Bus;
use crate::memory::block::{BlockBuilder, View};

impl Bus {
    /// Creates or overwrites `key` with a copy of `data`.
    ///
    /// # Errors
    /// [`BusError::Capacity`], [`BusError::Memory`], [`BusError::Closed`]
    pub fn push(self: &Arc<Self>, key: Key, data: &[u8]) -> Result<(), BusError> {
        self.check_open()?;
        let place = self.place(&key, 0);
        self.reserve(data.len() + place)?;
        let Some(builder) = BlockBuilder::copy(data, self.memory()) else {
            self.release(data.len() + place);
            return Err(BusError::Memory);
        };
        let view = View::new(builder.seal());
        self.publish(&key, Sealed { view, place }, false)
    }

    /// Creates or overwrites `key` with a block that exists, without a copy.
    ///
    /// # Errors
    /// [`BusError::Capacity`], [`BusError::Closed`]
    pub fn push_view(self: &Arc<Self>, key: &Key, view: View) -> Result<(), BusError> {
        self.check_open()?;
        let place = self.place(key, view.header());
        self.reserve(view.len() + place)?;
        self.publish(key, Sealed { view, place }, false)
    }

    /// What is sealed under `key`.
    pub fn get(&self, key: &[u8]) -> Option<View> {
        let now = self.tick();
        let view = lock(self.shard(key)).read(key, now);
        if view.is_some() {
            self.counters.reads.fetch_add(1, Ordering::Relaxed);
        }
        view
    }

    /// Removes what is sealed under `key`; one of several callers gets it.
    pub fn pop(&self, key: &[u8]) -> Option<View> {
        let removed = lock(self.shard(key)).remove(key);
        let view = self.release_key(removed);
        if view.is_some() {
            self.counters.pops.fetch_add(1, Ordering::Relaxed);
        }
        view
    }
}
