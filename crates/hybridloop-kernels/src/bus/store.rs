//! `Bus`: the shards, what they may hold, and the step in which a write takes the place of a key.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;

use hybridloop_sync::fork::Process;
use hybridloop_sync::primitives::{lock, AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering};

use crate::bus::error::BusError;
use crate::bus::key::Key;
use crate::bus::listener::{notify, Watcher};
use crate::bus::shard::{Hasher, Removed, Sealed, Shard, PLACE};
use crate::bus::stats::{BusStats, Counters};
use crate::memory::block::View;
use crate::memory::limit::MemoryLimit;

/// What to do when the bus is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Policy {
    /// Refuse the write.
    #[default]
    Error,
    /// Evict the keys that were read or written longest ago; never one that is being written or viewed.
    Evict,
}

/// See the [module's documentation](crate::bus).
pub struct Bus {
    shards: Box<[Mutex<Shard>]>,
    hasher: Hasher,
    policy: Policy,
    /// Bytes under keys and in open writers, and of keys if there are many.
    capacity: Arc<MemoryLimit>,
    /// The number of keys under which something is sealed.
    keys: AtomicUsize,
    /// Bytes of blocks, also of those that are no longer on the bus and still viewed.
    memory: Arc<MemoryLimit>,
    /// Counts operations: the time of the last use of a key.
    clock: AtomicU64,
    closed: AtomicBool,
    pub(super) counters: Counters,
    /// In the child of a fork, threads of the parent may hold the locks.
    process: Process,
}

#[cfg(not(loom))]
const SHARDS: usize = 32;
#[cfg(loom)]
const SHARDS: usize = 1;

/// So many keys count for nothing but their blocks.
const FREE_KEYS: usize = 1024;

impl Bus {
    /// A bus for `capacity` bytes whose blocks count towards `memory`.
    #[must_use]
    pub fn new(capacity: usize, policy: Policy, memory: Arc<MemoryLimit>) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::default())).collect(),
            hasher: Hasher::default(),
            policy,
            capacity: MemoryLimit::new(capacity),
            keys: AtomicUsize::new(0),
            memory,
            clock: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            counters: Counters::default(),
            process: Process::current(),
        })
    }

    pub(super) fn is_current_process(&self) -> bool {
        self.process.is_current()
    }

    #[allow(clippy::cast_possible_truncation, reason = "any bits of the hash do")]
    #[cfg_attr(
        loom,
        allow(clippy::modulo_one, reason = "one shard is enough to explore")
    )]
    pub(super) fn shard(&self, key: &[u8]) -> &Mutex<Shard> {
        // The map in the shard uses the lowest and the highest bits of a hash of its own; these are from the middle.
        &self.shards[(self.hasher.hash_one(key) >> 32) as usize % SHARDS]
    }

    pub(super) fn shards(&self) -> &[Mutex<Shard>] {
        &self.shards
    }

    pub(super) fn memory(&self) -> &Arc<MemoryLimit> {
        &self.memory
    }

    pub(super) fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn check_open(&self) -> Result<(), BusError> {
        if self.is_closed() {
            return Err(BusError::Closed);
        }
        Ok(())
    }

    /// Reserves `bytes` of the capacity, and evicts for it if the policy says so.
    pub(super) fn reserve(&self, bytes: usize) -> Result<(), BusError> {
        // Another writer may take what was evicted here: go on as long as there is something to evict.
        let may_evict = self.policy == Policy::Evict && bytes <= self.capacity.limit();
        loop {
            if self.capacity.try_acquire(bytes) {
                return Ok(());
            }
            if !may_evict || !self.evict(bytes) {
                break;
            }
        }
        Err(BusError::Capacity {
            wanted: bytes,
            used: self.capacity.used(),
            capacity: self.capacity.limit(),
        })
    }

    /// What one more key counts for, beside the bytes of its block; `header` is the size of what describes them.
    pub(super) fn place(&self, key: &Key, header: usize) -> usize {
        if self.keys.load(Ordering::Relaxed) < FREE_KEYS {
            return 0;
        }
        PLACE + key.as_bytes().len() + header
    }

    pub(super) fn release(&self, bytes: usize) {
        self.capacity.release(bytes);
    }

    /// Evicts until `bytes` and a sixteenth of the capacity are free, so that not every write has to look at all keys. `false`
    /// if nothing can be evicted and there is still not enough room.
    fn evict(&self, bytes: usize) -> bool {
        let limit = self.capacity.limit();
        let target = limit - bytes;
        let target = target - (limit / 16).min(target);
        let mut candidates: Vec<(u64, Key)> = Vec::new();
        for shard in &self.shards {
            lock(shard).list_idle(&mut candidates);
        }
        candidates.sort_unstable();
        // A candidate that another thread evicted or used meanwhile is progress too.
        let had_any = !candidates.is_empty();
        for (age, key) in candidates {
            if self.capacity.used() <= target {
                break;
            }
            let removed = lock(self.shard(key.as_bytes())).remove_idle(&key, age);
            if self.release_key(removed).is_some() {
                self.counters.evictions.fetch_add(1, Ordering::Relaxed);
            }
        }
        had_any || self.capacity.used() <= target
    }

    /// Releases the capacity of a key that was removed from a shard. The lock of the shard must not be held: the caller drops the
    /// view.
    pub(super) fn release_key(&self, removed: Removed) -> Option<View> {
        let removed = self.release_sealed(removed)?;
        self.keys.fetch_sub(1, Ordering::Relaxed);
        Some(removed)
    }

    fn release_sealed(&self, removed: Removed) -> Option<View> {
        let Sealed { view, place } = removed?;
        self.release(view.len() + place);
        Some(view)
    }

    /// Seals a view in a shard that is locked, unless the bus is closed. [`Bus::published`] has to follow without the lock.
    pub(super) fn seal(
        &self,
        shard: &mut Shard,
        key: &Key,
        sealed: Sealed,
        ends_write: bool,
    ) -> (Removed, Vec<Watcher>) {
        let (old, watchers) = shard.publish(key, sealed, self.tick(), ends_write);
        if old.is_none() {
            // With the lock: a key is counted before it can be removed.
            self.keys.fetch_add(1, Ordering::Relaxed);
        }
        (old, watchers)
    }

    /// Counts a write, releases what it has replaced, and notifies those who wait for it.
    pub(super) fn published(&self, view: &View, (old, watchers): (Removed, Vec<Watcher>)) {
        self.counters.writes.fetch_add(1, Ordering::Relaxed);
        self.release_sealed(old);
        notify(&watchers, view);
    }

    /// Puts a view, whose bytes and place are reserved, under the key. `ends_write` closes the open write that it comes from.
    pub(super) fn publish(
        &self,
        key: &Key,
        sealed: Sealed,
        ends_write: bool,
    ) -> Result<(), BusError> {
        let view = sealed.view.clone();
        let mut shard = lock(self.shard(key.as_bytes()));
        // Under the lock: `close` sets the flag before it empties the shards.
        if self.is_closed() {
            let ended = ends_write.then(|| shard.end_write(key));
            drop(shard);
            drop(ended);
            self.release_sealed(Some(sealed));
            return Err(BusError::Closed);
        }
        let published = self.seal(&mut shard, key, sealed, ends_write);
        drop(shard);
        self.published(&view, published);
        Ok(())
    }

    /// Ends an open write without a result.
    pub(super) fn abort_write(&self, key: &Key) {
        if !self.is_current_process() {
            return;
        }
        let sealed = lock(self.shard(key.as_bytes())).end_write(key);
        if let Some((view, watchers)) = sealed {
            notify(&watchers, &view);
        }
    }

    /// The number of keys under which something is sealed.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether nothing is sealed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counters and sizes.
    pub fn stats(&self) -> BusStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BusStats {
            keys: self.len(),
            bytes: self.capacity.used(),
            capacity: self.capacity.limit(),
            writes: count(&self.counters.writes),
            reads: count(&self.counters.reads),
            pops: count(&self.counters.pops),
            evictions: count(&self.counters.evictions),
            busy: count(&self.counters.busy),
        }
    }

    /// Empties the bus and refuses later writes. Views stay valid.
    pub fn close(&self) {
        if !self.is_current_process() {
            return;
        }
        self.closed.store(true, Ordering::Release);
        for shard in &self.shards {
            let (all, watchers) = lock(shard).clear();
            for sealed in all {
                self.release_key(Some(sealed));
            }
            for watcher in watchers {
                watcher.closed();
            }
        }
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
