//! A part of the bus's map. Everything here runs under the shard's lock: it copies no data, notifies nobody and drops no block.

use std::collections::HashMap;
use std::sync::Arc;

use crate::bus::key::Key;
use crate::bus::listener::{KeyListener, Watcher};
use crate::memory::block::{Block, View};

#[cfg(not(loom))]
pub(super) type Hasher = std::hash::RandomState;
/// Deterministic, as loom requires.
#[cfg(loom)]
pub(super) type Hasher = std::hash::BuildHasherDefault<std::collections::hash_map::DefaultHasher>;

/// What is sealed under a key.
pub(super) struct Sealed {
    pub view: View,
    /// What the key counts for, beside the bytes of the view.
    pub place: usize,
}

/// What was removed from the map, for the caller to drop after the lock is released.
pub(super) type Removed = Option<Sealed>;

/// What a key counts for, beside its own bytes: maps double their size when they are full, so half of the places may be empty,
/// and a block has an allocation of its own.
pub(super) const PLACE: usize = 2 * size_of::<(Key, Entry)>() + 2 * size_of::<Block>();

#[derive(Default)]
struct Entry {
    sealed: Option<Sealed>,
    /// The bus's clock when it was read or written last.
    used: u64,
    /// Open writes.
    writers: u32,
}

#[derive(Default)]
pub(super) struct Shard {
    entries: HashMap<Key, Entry, Hasher>,
    sealed: usize,
    watchers: HashMap<Key, Vec<Watcher>, Hasher>,
    next_watch: u64,
}

impl Shard {
    fn entry(&mut self, key: &Key) -> &mut Entry {
        self.entries.entry(key.clone()).or_default()
    }

    /// Opens a write.
    pub fn begin_write(&mut self, key: &Key) {
        self.entry(key).writers += 1;
    }

    /// Ends an open write without a result. If it was the last one, returns what is sealed and the watchers that wait for it.
    pub fn end_write(&mut self, key: &Key) -> Option<(View, Vec<Watcher>)> {
        let entry = self.entries.get_mut(key)?;
        entry.writers = entry.writers.saturating_sub(1);
        if entry.writers != 0 {
            return None;
        }
        match &entry.sealed {
            Some(sealed) => Some((sealed.view.clone(), self.watchers.remove(key)?)),
            None => {
                self.entries.remove(key);
                None
            }
        }
    }

    /// Seals a view under the key; returns what was sealed before and the watchers.
    pub fn publish(
        &mut self,
        key: &Key,
        sealed: Sealed,
        now: u64,
        ends_write: bool,
    ) -> (Removed, Vec<Watcher>) {
        let entry = self.entry(key);
        if ends_write {
            entry.writers = entry.writers.saturating_sub(1);
        }
        entry.used = now;
        let old = entry.sealed.replace(sealed);
        if old.is_none() {
            self.sealed += 1;
        }
        let watchers = if self.watchers.is_empty() {
            Vec::new()
        } else {
            self.watchers.remove(key).unwrap_or_default()
        };
        (old, watchers)
    }

    pub fn read(&mut self, key: &[u8], now: u64) -> Option<View> {
        let entry = self.entries.get_mut(key)?;
        entry.used = now;
        entry.sealed.as_ref().map(|sealed| sealed.view.clone())
    }

    pub fn remove(&mut self, key: &[u8]) -> Removed {
        let entry = self.entries.get_mut(key)?;
        let sealed = entry.sealed.take()?;
        if entry.writers == 0 {
            self.entries.remove(key);
        }
        self.sealed -= 1;
        Some(sealed)
    }

    /// Removes the key unless it is in use, or was used after `age`.
    pub fn remove_idle(&mut self, key: &Key, age: u64) -> Removed {
        let entry = self.entries.get(key)?;
        (entry.is_idle() && entry.used == age).then(|| self.remove(key.as_bytes()))?
    }

    pub fn list_idle(&self, into: &mut Vec<(u64, Key)>) {
        let idle = self.entries.iter().filter(|(_, entry)| entry.is_idle());
        into.extend(idle.map(|(key, entry)| (entry.used, key.clone())));
    }

    pub fn list(&self, into: &mut Vec<Key>) {
        let sealed = self.entries.iter().filter(|(_, e)| e.sealed.is_some());
        into.extend(sealed.map(|(key, _)| key.clone()));
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.entries
            .get(key)
            .is_some_and(|entry| entry.sealed.is_some())
    }

    pub fn is_busy(&self, key: &[u8]) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.writers > 0)
    }

    pub fn len(&self) -> usize {
        self.sealed
    }

    pub fn watch(&mut self, key: &Key, listener: Arc<dyn KeyListener>, token: u64) -> u64 {
        let id = self.next_watch;
        self.next_watch += 1;
        let watchers = self.watchers.entry(key.clone()).or_default();
        watchers.push(Watcher {
            id,
            listener,
            token,
        });
        id
    }

    pub fn unwatch(&mut self, key: &Key, id: u64) -> Option<Watcher> {
        let watchers = self.watchers.get_mut(key)?;
        let at = watchers.iter().position(|watcher| watcher.id == id)?;
        let watcher = watchers.swap_remove(at);
        if watchers.is_empty() {
            self.watchers.remove(key);
        }
        Some(watcher)
    }

    /// Removes everything but the open writes.
    pub fn clear(&mut self) -> (Vec<Sealed>, Vec<Watcher>) {
        let sealed = self
            .entries
            .values_mut()
            .filter_map(|entry| entry.sealed.take())
            .collect();
        self.entries.retain(|_, entry| entry.writers > 0);
        self.sealed = 0;
        let watchers = std::mem::take(&mut self.watchers);
        (sealed, watchers.into_values().flatten().collect())
    }
}

impl Entry {
    /// Whether nobody writes the key, and nobody but the bus holds its block. The bus shares a block only under the lock, so
    /// the answer holds as long as the lock is held.
    fn is_idle(&self) -> bool {
        let held = |sealed: &Sealed| Arc::strong_count(sealed.view.block()) > 1;
        self.writers == 0 && self.sealed.as_ref().is_some_and(|sealed| !held(sealed))
    }
}
