//! Waiting for a key.

use std::sync::Arc;

use crate::bus::{Bus, Key};
use crate::memory::block::View;

/// Whom to tell that a key was sealed.
pub trait Notify: Send + Sync {
    /// `view` was sealed under the key of the watch with that token. Called by the thread that seals; must not wait.
    fn sealed(&self, token: u64, view: &View);

    /// The bus was closed, and nothing will be sealed under the key of that watch. Must not wait either.
    fn closed(&self, _token: u64) {}
}

pub(super) struct Watcher {
    pub id: u64,
    pub notify: Arc<dyn Notify>,
    pub token: u64,
}

impl Watcher {
    pub fn notify(&self, view: &View) {
        self.notify.sealed(self.token, view);
    }

    pub fn close(&self) {
        self.notify.closed(self.token);
    }
}

/// A watch on a key; dropping it takes it back. A notice that is on its way then still comes.
#[derive(Debug)]
pub struct Watch {
    bus: Arc<Bus>,
    key: Key,
    id: Option<u64>,
}

impl Watch {
    pub(super) fn new(bus: Arc<Bus>, key: Key, id: Option<u64>) -> Self {
        Self { bus, key, id }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.bus.unwatch(&self.key, id);
        }
    }
}
