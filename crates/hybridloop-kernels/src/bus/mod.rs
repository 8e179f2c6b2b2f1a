//! The memory bus: immutable blocks under keys, with rights that depend on the caller.
//!
//! | operation | native: kernels | foreign: Python |
//! |---|---|---|
//! | write, key absent | [`Bus::push`], [`Bus::open`]: create | [`Bus::put_new`]: create, a copy |
//! | write, key present | overwrite | refused, nothing changes |
//! | read | [`Bus::get`] | [`Bus::snapshot`]; refused while a native write of the key is open |
//! | read and remove | [`Bus::pop`], of several callers one wins | never |
//!
//! A write fills memory of its own and then takes the key's place in one step, so nobody ever sees half of it, and whoever
//! reads keeps the block alive. That a key is busy is a rule, not a lock. Locks cover a few instructions on a map, never a
//! copy; the foreign side gives up rather than wait for one.

mod error;
mod key;
mod shard;
mod stats;
mod watch;
mod writer;

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;

pub use error::BusError;
pub use key::Key;
use shard::{Hasher, Removed, Shard};
pub use stats::BusStats;
use stats::Counters;
use watch::Watcher;
pub use watch::{Notify, Watch};
pub use writer::Writer;

use hybridloop_sync::fork::Process;
use hybridloop_sync::primitives::{
    lock, thread, try_lock, AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering,
};

use crate::memory::block::{Draft, View};
use crate::memory::limit::Budget;

/// What to do when the bus is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Policy {
    /// Refuse.
    #[default]
    Error,
    /// Drop what was read or written longest ago; never what is being written or viewed.
    Evict,
}

/// See the [module's documentation](self).
pub struct Bus {
    shards: Box<[Mutex<Shard>]>,
    hasher: Hasher,
    policy: Policy,
    /// Bytes under keys and in open writers.
    space: Arc<Budget>,
    /// Bytes of blocks, also of those that have left the bus and are still viewed.
    memory: Arc<Budget>,
    clock: AtomicU64,
    closed: AtomicBool,
    counters: Counters,
    /// In the child of a fork, threads that are not there may hold the locks.
    process: Process,
}

#[cfg(not(loom))]
const SHARDS: usize = 32;
#[cfg(loom)]
const SHARDS: usize = 1;

/// How often the foreign side tries a lock, which is held for some tens of nanoseconds, before it reports "busy".
#[cfg(not(loom))]
const TRIES: usize = 200;
/// How often another thread is then let run, before the caller is told that the bus is busy.
const YIELDS: usize = 8;
#[cfg(loom)]
const TRIES: usize = 1;

impl Bus {
    /// A bus for `capacity` bytes whose blocks are charged to `memory`.
    #[must_use]
    pub fn new(capacity: usize, policy: Policy, memory: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::default())).collect(),
            hasher: Hasher::default(),
            policy,
            space: Budget::new(capacity),
            memory,
            clock: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            counters: Counters::default(),
            process: Process::current(),
        })
    }

    #[allow(clippy::cast_possible_truncation, reason = "any bits of the hash do")]
    #[cfg_attr(
        loom,
        allow(clippy::modulo_one, reason = "one shard is enough to explore")
    )]
    fn shard(&self, key: &[u8]) -> &Mutex<Shard> {
        // The map uses the low and the topmost bits of a hash of its own hasher; these come from between.
        &self.shards[(self.hasher.hash_one(key) >> 32) as usize % SHARDS]
    }

    fn shard_foreign(&self, key: &[u8]) -> Result<MutexGuard<'_, Shard>, BusError> {
        let shard = self.shard(key);
        for _ in 0..TRIES {
            if let Some(guard) = try_lock(shard) {
                return Ok(guard);
            }
            std::hint::spin_loop();
        }
        // Who holds it was interrupted, probably for a thread like this one.
        for _ in 0..YIELDS {
            thread::yield_now();
            if let Some(guard) = try_lock(shard) {
                return Ok(guard);
            }
        }
        Err(self.busy_now())
    }

    fn busy_now(&self) -> BusError {
        self.counters.busy.fetch_add(1, Ordering::Relaxed);
        BusError::Busy
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    fn check_open(&self) -> Result<(), BusError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(BusError::Closed);
        }
        Ok(())
    }

    fn reserve(&self, bytes: usize) -> Result<(), BusError> {
        // Another writer may take what was evicted for this one: as long as there is something to evict, go on.
        let may_evict = self.policy == Policy::Evict && bytes <= self.space.limit();
        loop {
            if self.space.reserve(bytes) {
                return Ok(());
            }
            if !may_evict || !self.evict(bytes) {
                break;
            }
        }
        Err(BusError::Capacity {
            wanted: bytes,
            used: self.space.used(),
            capacity: self.space.limit(),
        })
    }

    /// Frees `bytes` and a sixteenth of the capacity, so that not every write has to look through all keys. `false` if
    /// there is nothing that may go, and still no room.
    fn evict(&self, bytes: usize) -> bool {
        let limit = self.space.limit();
        let target = limit - bytes;
        let target = target - (limit / 16).min(target);
        let mut candidates: Vec<(u64, Key)> = Vec::new();
        for shard in &self.shards {
            lock(shard).list_idle(&mut candidates);
        }
        candidates.sort_unstable();
        // What somebody else evicted, or used, meanwhile is progress too.
        let had_any = !candidates.is_empty();
        for (age, key) in candidates {
            if self.space.used() <= target {
                break;
            }
            let removed = lock(self.shard(key.as_bytes())).remove_idle(&key, age);
            if self.removed(removed).is_some() {
                self.counters.evictions.fetch_add(1, Ordering::Relaxed);
            }
        }
        had_any || self.space.used() <= target
    }

    /// Accounts for what left the map; drops it here, outside the lock.
    fn removed(&self, removed: Removed) -> Option<View> {
        let view = removed?;
        self.space.release(view.len());
        Some(view)
    }

    // ---- native ----

    /// Opens `key` for writing `len` bytes. The key is busy until the writer is sealed or dropped.
    ///
    /// # Errors
    /// [`BusError::Capacity`], [`BusError::Memory`], [`BusError::Closed`]
    pub fn open(self: &Arc<Self>, key: Key, len: usize) -> Result<Writer, BusError> {
        self.check_open()?;
        self.reserve(len)?;
        let Some(draft) = Draft::new(len, &self.memory) else {
            self.space.release(len);
            return Err(BusError::Memory);
        };
        lock(self.shard(key.as_bytes())).begin(&key);
        Ok(Writer {
            bus: self.clone(),
            key,
            draft: Some(draft),
            reserved: len,
        })
    }

    /// Creates or overwrites `key` with a copy of `data`.
    ///
    /// # Errors
    /// As for [`Bus::open`].
    pub fn push(self: &Arc<Self>, key: Key, data: &[u8]) -> Result<(), BusError> {
        self.check_open()?;
        self.reserve(data.len())?;
        let Some(draft) = Draft::copy(data, &self.memory) else {
            self.space.release(data.len());
            return Err(BusError::Memory);
        };
        self.publish(&key, View::new(draft.seal()), false)
    }

    /// Creates or overwrites `key` with a block that is there already, without a copy.
    ///
    /// # Errors
    /// [`BusError::Capacity`], [`BusError::Closed`]
    pub fn push_view(self: &Arc<Self>, key: &Key, view: View) -> Result<(), BusError> {
        self.check_open()?;
        self.reserve(view.len())?;
        self.publish(key, view, false)
    }

    /// Puts `view`, whose bytes are reserved, in the key's place; ends an open write.
    fn publish(&self, key: &Key, view: View, ends_write: bool) -> Result<(), BusError> {
        let now = self.tick();
        let len = view.len();
        let mut shard = lock(self.shard(key.as_bytes()));
        // Under the lock: `close` sets the flag before it empties the shards.
        if self.closed.load(Ordering::Acquire) {
            let rest = ends_write.then(|| shard.end(key));
            drop(shard);
            drop(rest);
            self.space.release(len);
            return Err(BusError::Closed);
        }
        let (old, watchers) = shard.publish(key, view.clone(), now, ends_write);
        drop(shard);
        self.counters.writes.fetch_add(1, Ordering::Relaxed);
        self.removed(old);
        tell(&watchers, &view);
        Ok(())
    }

    /// Ends an open write that leaves nothing.
    fn abort(&self, key: &Key) {
        if !self.process.is_current() {
            return;
        }
        let rest = lock(self.shard(key.as_bytes())).end(key);
        if let Some((view, watchers)) = rest {
            tell(&watchers, &view);
        }
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

    /// Takes what is sealed under `key`; of several callers one gets it.
    pub fn pop(&self, key: &[u8]) -> Option<View> {
        let removed = lock(self.shard(key)).remove(key);
        let view = self.removed(removed);
        if view.is_some() {
            self.counters.pops.fetch_add(1, Ordering::Relaxed);
        }
        view
    }

    // ---- foreign ----

    /// Creates `key` with a copy of `data`, unless it is there.
    ///
    /// # Errors
    /// [`BusError::Exists`]; [`BusError::Busy`] while a native write of the key is open; as for [`Bus::open`].
    pub fn put_new(&self, key: &Key, data: &[u8]) -> Result<(), BusError> {
        self.check_open()?;
        if key.as_bytes().starts_with(b"job:") {
            return Err(BusError::ReservedKey);
        }
        self.absent(&*self.shard_foreign(key.as_bytes())?, key)?;
        self.reserve(data.len())?;
        let Some(draft) = Draft::copy(data, &self.memory) else {
            self.space.release(data.len());
            return Err(BusError::Memory);
        };
        let view = View::new(draft.seal());
        let now = self.tick();
        let outcome = self.shard_foreign(key.as_bytes()).and_then(|mut shard| {
            self.check_open()?;
            self.absent(&shard, key)?;
            Ok(shard.publish(key, view.clone(), now, false))
        });
        match outcome {
            Ok((_, watchers)) => {
                self.counters.writes.fetch_add(1, Ordering::Relaxed);
                tell(&watchers, &view);
                Ok(())
            }
            Err(error) => {
                self.space.release(data.len());
                Err(error)
            }
        }
    }

    fn absent(&self, shard: &Shard, key: &Key) -> Result<(), BusError> {
        match (shard.has(key.as_bytes()), shard.is_busy(key.as_bytes())) {
            (true, _) => Err(BusError::Exists),
            (false, true) => Err(self.busy_now()),
            (false, false) => Ok(()),
        }
    }

    /// What is sealed under `key`, unless it is being written.
    ///
    /// # Errors
    /// [`BusError::Busy`], [`BusError::NotFound`]
    pub fn snapshot(&self, key: &[u8]) -> Result<View, BusError> {
        let now = self.tick();
        let mut shard = self.shard_foreign(key)?;
        if shard.is_busy(key) {
            drop(shard);
            return Err(self.busy_now());
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

    /// Whether a native write of `key` is open, or its map is just being changed.
    pub fn is_busy(&self, key: &[u8]) -> bool {
        try_lock(self.shard(key)).is_none_or(|shard| shard.is_busy(key))
    }

    /// Whether something is sealed under `key`.
    pub fn contains(&self, key: &[u8]) -> bool {
        lock(self.shard(key)).has(key)
    }

    /// How many keys have something sealed.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).sealed()).sum()
    }

    /// Whether nothing is sealed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys under which something is sealed, in no order.
    pub fn keys(&self) -> Vec<Key> {
        let mut keys = Vec::new();
        for shard in &self.shards {
            lock(shard).list(&mut keys);
        }
        keys
    }

    /// Tells `notify` at once if `key` is sealed and not busy, else when it is sealed next, or when the write that is open ends
    /// without a result and leaves what was there; or that the bus is closed. It is told once; dropping the watch takes it
    /// back.
    pub fn watch(self: &Arc<Self>, key: Key, notify: Arc<dyn Notify>, token: u64) -> Watch {
        let now = self.tick();
        let mut shard = lock(self.shard(key.as_bytes()));
        // Under the lock: `close` sets the flag before it empties the shards.
        if self.closed.load(Ordering::Acquire) {
            drop(shard);
            notify.closed(token);
            return Watch::new(self.clone(), key, None);
        }
        let ready = if shard.is_busy(key.as_bytes()) {
            None
        } else {
            shard.read(key.as_bytes(), now)
        };
        let id = match ready {
            None => Some(shard.watch(&key, notify.clone(), token)),
            Some(_) => None,
        };
        drop(shard);
        if let Some(view) = &ready {
            notify.sealed(token, view);
        }
        Watch::new(self.clone(), key, id)
    }

    fn unwatch(&self, key: &Key, id: u64) {
        if !self.process.is_current() {
            return;
        }
        // Taken out under the lock, dropped after it.
        let watcher = lock(self.shard(key.as_bytes())).unwatch(key, id);
        drop(watcher);
    }

    // ---- both ----

    /// What has happened, and what is there.
    pub fn stats(&self) -> BusStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BusStats {
            keys: self.len(),
            bytes: self.space.used(),
            capacity: self.space.limit(),
            writes: count(&self.counters.writes),
            reads: count(&self.counters.reads),
            pops: count(&self.counters.pops),
            evictions: count(&self.counters.evictions),
            busy: count(&self.counters.busy),
        }
    }

    /// Empties the bus and refuses what comes later. Views stay valid.
    pub fn close(&self) {
        if !self.process.is_current() {
            return;
        }
        self.closed.store(true, Ordering::Release);
        for shard in &self.shards {
            let (views, watchers) = lock(shard).clear();
            for view in views {
                self.removed(Some(view));
            }
            for watcher in watchers {
                watcher.close();
            }
        }
    }
}

/// Outside the locks: what is told may ask the bus again.
fn tell(watchers: &[Watcher], view: &View) {
    for watcher in watchers {
        watcher.notify(view);
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
