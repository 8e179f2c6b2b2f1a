//! A part of the bus's map. Everything here runs under the part's lock: no copy of data, no call, no drop of a block.

use std::collections::HashMap;
use std::sync::Arc;

use crate::bus::key::Key;
use crate::bus::watch::{Notify, Watcher};
use crate::memory::block::View;

#[cfg(not(loom))]
pub(super) type Hasher = std::hash::RandomState;
/// Loom has to see the same on every run.
#[cfg(loom)]
pub(super) type Hasher = std::hash::BuildHasherDefault<std::collections::hash_map::DefaultHasher>;

/// What a change has taken out of the map.
pub(super) type Removed = Option<View>;

#[derive(Default)]
struct Entry {
    sealed: Option<View>,
    /// When it was last read or written.
    used: u64,
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

    /// A native write begins.
    pub fn begin(&mut self, key: &Key) {
        self.entry(key).writers += 1;
    }

    /// A native write ends without a result; gives what is there, and who waited for it, if that was the last.
    pub fn end(&mut self, key: &Key) -> Option<(View, Vec<Watcher>)> {
        let entry = self.entries.get_mut(key)?;
        entry.writers = entry.writers.saturating_sub(1);
        if entry.writers != 0 {
            return None;
        }
        match entry.sealed.clone() {
            Some(view) => Some((view, self.watchers.remove(key)?)),
            None => {
                self.entries.remove(key);
                None
            }
        }
    }

    /// Takes the key's place; gives what was there and who waited for it.
    pub fn publish(
        &mut self,
        key: &Key,
        view: View,
        now: u64,
        ends_write: bool,
    ) -> (Removed, Vec<Watcher>) {
        let entry = self.entry(key);
        if ends_write {
            entry.writers = entry.writers.saturating_sub(1);
        }
        entry.used = now;
        let old = entry.sealed.replace(view);
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
        entry.sealed.clone()
    }

    pub fn remove(&mut self, key: &[u8]) -> Removed {
        let entry = self.entries.get_mut(key)?;
        let view = entry.sealed.take()?;
        if entry.writers == 0 {
            self.entries.remove(key);
        }
        self.sealed -= 1;
        Some(view)
    }

    /// Removes the entry unless it is in use, or was used since `age`.
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

    pub fn has(&self, key: &[u8]) -> bool {
        self.entries
            .get(key)
            .is_some_and(|entry| entry.sealed.is_some())
    }

    pub fn is_busy(&self, key: &[u8]) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.writers > 0)
    }

    pub fn sealed(&self) -> usize {
        self.sealed
    }

    pub fn watch(&mut self, key: &Key, notify: Arc<dyn Notify>, token: u64) -> u64 {
        let id = self.next_watch;
        self.next_watch += 1;
        let watchers = self.watchers.entry(key.clone()).or_default();
        watchers.push(Watcher { id, notify, token });
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

    /// Takes everything out but the open writers.
    pub fn clear(&mut self) -> (Vec<View>, Vec<Watcher>) {
        let views = self
            .entries
            .values_mut()
            .filter_map(|entry| entry.sealed.take())
            .collect();
        self.entries.retain(|_, entry| entry.writers > 0);
        self.sealed = 0;
        let watchers = std::mem::take(&mut self.watchers);
        (views, watchers.into_values().flatten().collect())
    }
}

impl Entry {
    /// Whether nobody writes it, and nobody but the bus holds its block. Only who holds a block can share it, and the bus
    /// does so under the lock: the answer stays true as long as the lock is held.
    fn is_idle(&self) -> bool {
        let held = |view: &View| Arc::strong_count(view.block()) > 1;
        self.writers == 0 && self.sealed.as_ref().is_some_and(|view| !held(view))
    }
}
