//! Notifications that a key was sealed.

use std::sync::Arc;

use crate::memory::block::View;

/// Is notified about the keys that it watches. The methods are called by any thread and must not block.
pub trait KeyListener: Send + Sync {
    /// `view` was sealed under the key of the watch with this token.
    fn sealed(&self, token: u64, view: &View);

    /// The bus was closed, so nothing will be sealed under the key of the watch with this token.
    fn closed(&self, _token: u64) {}
}

/// A listener that waits for a key.
pub(super) struct Watcher {
    pub id: u64,
    pub listener: Arc<dyn KeyListener>,
    pub token: u64,
}

impl Watcher {
    pub fn sealed(&self, view: &View) {
        self.listener.sealed(self.token, view);
    }

    pub fn closed(&self) {
        self.listener.closed(self.token);
    }
}

/// Notifies the watchers of a key. No lock of the bus may be held: a listener may call the bus.
pub(super) fn notify(watchers: &[Watcher], view: &View) {
    for watcher in watchers {
        watcher.sealed(view);
    }
}
