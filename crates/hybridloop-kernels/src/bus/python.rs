//! What Python may do with the bus. Reads and writes of a key never wait for a lock that a kernel may hold.

use std::sync::Arc;

use hybridloop_sync::primitives::{lock, thread, try_lock, MutexGuard, Ordering};

use crate::bus::error::BusError;
use crate::bus::key::Key;
use crate::bus::shard::{Sealed, Shard};
use crate::bus::store::Bus;
use crate::memory::block::{BlockBuilder, View};
use crate::memory::limit::MemoryLimit;

/// Attempts to lock a shard. A lock is held for some tens of nanoseconds.
#[cfg(not(loom))]
const ATTEMPTS: usize = 200;
#[cfg(loom)]
const ATTEMPTS: usize = 1;
/// Attempts after that, before each of which another thread may run.
const YIELDS: usize = 8;

impl Bus {
    /// Locks the shard of a key, or reports that the key is busy.
    fn lock_soon(&self, key: &[u8]) -> Result<MutexGuard<'_, Shard>, BusError> {
        let shard = self.shard(key);
        for _ in 0..ATTEMPTS {
            if let Some(guard) = try_lock(shard) {
                return Ok(guard);
            }
            std::hint::spin_loop();
        }
        // The thread that holds the lock was interrupted.
        for _ in 0..YIELDS {
            thread::yield_now();
            if let Some(guard) = try_lock(shard) {
                return Ok(guard);
            }
        }
        Err(self.busy())
    }

    fn busy(&self) -> BusError {
        self.counters.busy.fetch_add(1, Ordering::Relaxed);
        BusError::Busy
    }

    /// Creates `key` with a copy of `data`, unless it exists.
    ///
    /// # Errors
    /// As [`Bus::put_new_with`].
    pub fn put_new(&self, key: &Key, data: &[u8]) -> Result<(), BusError> {
        self.put_new_with(key, data.len(), |memory| {
            Some(View::new(BlockBuilder::copy(data, memory)?.seal()))
        })
    }

    /// Creates `key` with the view of `len` bytes that `make` gives, unless it exists. `make` gets the limit that new memory
    /// counts towards, and gives `None` if there is not enough; it is not called if the key cannot be created.
    ///
    /// # Errors
    /// [`BusError::Exists`]; [`BusError::Busy`] while a kernel writes the key; [`BusError::ReservedKey`],
    /// [`BusError::Capacity`], [`BusError::Memory`], [`BusError::Closed`]
    pub fn put_new_with(
        &self,
        key: &Key,
        len: usize,
        make: impl FnOnce(&Arc<MemoryLimit>) -> Option<View>,
    ) -> Result<(), BusError> {
        self.check_open()?;
        if key.as_bytes().starts_with(b"job:") {
            return Err(BusError::ReservedKey);
        }
        self.check_absent(&*self.lock_soon(key.as_bytes())?, key)?;
        self.reserve(len)?;
        let Some(view) = make(self.memory()) else {
            self.release(len);
            return Err(BusError::Memory);
        };
        debug_assert_eq!(view.len(), len);
        let place = self.place(key, view.header());
        if let Err(error) = self.reserve(place) {
            self.release(len);
            return Err(error);
        }
        let sealed = Sealed {
            view: view.clone(),
            place,
        };
        let published = self.lock_soon(key.as_bytes()).and_then(|mut shard| {
            self.check_open()?;
            self.check_absent(&shard, key)?;
            Ok(self.seal(&mut shard, key, sealed, false))
        });
        match published {
            Ok(published) => {
                self.published(&view, published);
                Ok(())
            }
            Err(error) => {
                self.release(len + place);
                Err(error)
            }
        }
    }

    fn check_absent(&self, shard: &Shard, key: &Key) -> Result<(), BusError> {
        match (
            shard.contains(key.as_bytes()),
            shard.is_busy(key.as_bytes()),
        ) {
            (true, _) => Err(BusError::Exists),
            (false, true) => Err(self.busy()),
            (false, false) => Ok(()),
        }
    }

    /// What is sealed under `key`, unless a kernel is writing it.
    ///
    /// # Errors
    /// [`BusError::Busy`], [`BusError::NotFound`], [`BusError::Closed`]
    pub fn snapshot(&self, key: &[u8]) -> Result<View, BusError> {
        let now = self.tick();
        let mut shard = self.lock_soon(key)?;
        if shard.is_busy(key) {
            drop(shard);
            return Err(self.busy());
        }
        let view = shard.read(key, now);
        drop(shard);
        let Some(view) = view else {
            self.check_open()?;
            return Err(BusError::NotFound);
        };
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        Ok(view)
    }

    /// Whether a kernel is writing `key`, or its shard is locked at the moment.
    pub fn is_busy(&self, key: &[u8]) -> bool {
        try_lock(self.shard(key)).is_none_or(|shard| shard.is_busy(key))
    }

    /// Whether something is sealed under `key`.
    pub fn contains(&self, key: &[u8]) -> bool {
        lock(self.shard(key)).contains(key)
    }

    /// The keys under which something is sealed, in no order.
    pub fn keys(&self) -> Vec<Key> {
        let mut keys = Vec::new();
        for shard in self.shards() {
            lock(shard).list(&mut keys);
        }
        keys
    }
}
