//! Writing a key in place.

use std::sync::Arc;

use crate::bus::{Bus, BusError, Key};
use crate::memory::block::{Draft, View};

/// A key that is being written; aborted unless sealed.
#[derive(Debug)]
pub struct Writer {
    pub(super) bus: Arc<Bus>,
    pub(super) key: Key,
    pub(super) draft: Option<Draft>,
    pub(super) reserved: usize,
}

impl Writer {
    /// What is written; zero at first.
    pub fn data(&mut self) -> &mut [u8] {
        self.draft.as_deref_mut().unwrap_or_default()
    }

    /// Publishes the first `len` bytes, or all if there are fewer.
    ///
    /// # Errors
    /// [`BusError::Closed`]
    pub fn seal(mut self, len: usize) -> Result<(), BusError> {
        let Some(mut draft) = self.draft.take() else {
            return Err(BusError::Closed);
        };
        let len = len.min(draft.len());
        // Should shrinking fail, which it has no reason to, the view below is still that short.
        draft.resize(len);
        self.bus.space.release(self.reserved - len);
        let view = View::new(draft.seal());
        let view = view.clone().part(0, len).unwrap_or(view);
        self.bus.publish(&self.key, view, true)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(draft) = self.draft.take() {
            drop(draft);
            self.bus.abort(&self.key);
            self.bus.space.release(self.reserved);
        }
    }
}
