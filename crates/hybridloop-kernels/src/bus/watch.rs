//! Watching a key.

use std::sync::Arc;

use hybridloop_sync::primitives::lock;

use crate::bus::key::Key;
use crate::bus::listener::KeyListener;
use crate::bus::store::Bus;

/// A watch on a key; dropping it ends the watch. A notification that is under way is still delivered.
#[derive(Debug)]
pub struct KeyWatch {
    bus: Arc<Bus>,
    key: Key,
    /// `None` if the listener was notified at once.
    id: Option<u64>,
}

impl Bus {
    /// Notifies `listener` once: at once if `key` is sealed and no kernel writes it, else when it is sealed next, or when the
    /// open write is aborted and leaves what was sealed before. If the bus is closed, the listener is notified of that.
    pub fn watch(
        self: &Arc<Self>,
        key: Key,
        listener: Arc<dyn KeyListener>,
        token: u64,
    ) -> KeyWatch {
        let now = self.tick();
        let mut shard = lock(self.shard(key.as_bytes()));
        // Under the lock: `close` sets the flag before it empties the shards.
        if self.is_closed() {
            drop(shard);
            listener.closed(token);
            return KeyWatch {
                bus: self.clone(),
                key,
                id: None,
            };
        }
        let ready = if shard.is_busy(key.as_bytes()) {
            None
        } else {
            shard.read(key.as_bytes(), now)
        };
        let id = match ready {
            None => Some(shard.watch(&key, listener.clone(), token)),
            Some(_) => None,
        };
        drop(shard);
        if let Some(view) = &ready {
            listener.sealed(token, view);
        }
        KeyWatch {
            bus: self.clone(),
            key,
            id,
        }
    }
}

impl Drop for KeyWatch {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        if !self.bus.is_current_process() {
            return;
        }
        // Removed under the lock and dropped after it.
        let watcher = lock(self.bus.shard(self.key.as_bytes())).unwatch(&self.key, id);
        drop(watcher);
    }
}
