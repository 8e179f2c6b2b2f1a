//! What kernels may do with the bus.

use std::sync::Arc;

use hybridloop_sync::primitives::{lock, Ordering};

use crate::bus::error::BusError;
use crate::bus::key::Key;
use crate::bus::store::Bus;
use crate::memory::block::{BlockBuilder, View};

impl Bus {
    /// Creates or overwrites `key` with a copy of `data`.
    ///
    /// # Errors
    /// [`BusError::Capacity`], [`BusError::Memory`], [`BusError::Closed`]
    pub fn push(self: &Arc<Self>, key: Key, data: &[u8]) -> Result<(), BusError> {
        self.check_open()?;
        self.reserve(data.len())?;
        let Some(builder) = BlockBuilder::copy(data, self.memory()) else {
            self.release(data.len());
            return Err(BusError::Memory);
        };
        self.publish(&key, View::new(builder.seal()), false)
    }

    /// Creates or overwrites `key` with a block that exists, without a copy.
    ///
    /// # Errors
    /// [`BusError::Capacity`], [`BusError::Closed`]
    pub fn push_view(self: &Arc<Self>, key: &Key, view: View) -> Result<(), BusError> {
        self.check_open()?;
        self.reserve(view.len())?;
        self.publish(key, view, false)
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
        let view = self.release_removed(removed);
        if view.is_some() {
            self.counters.pops.fetch_add(1, Ordering::Relaxed);
        }
        view
    }
}
