//! The built-in kernels, whose names begin with `hl.`.
//!
//! They are written with the public SDK. The documentation of each says what it takes, what it returns, and when it fails. They
//! stop early when their job is cancelled, unless the documentation says otherwise.

mod codec;
mod common;
mod compress;
mod control;
mod hash;
mod numbers;
mod password;
mod text;
mod zstd;

use std::sync::Arc;

use crate::registry::kernel::Kernel;
use crate::registry::Registry;

impl Registry {
    /// A registry with the built-in kernels.
    #[must_use]
    pub fn with_builtins() -> Self {
        let registry = Self::new();
        let entries = [
            hash::TABLE,
            compress::TABLE,
            zstd::TABLE,
            text::TABLE,
            password::TABLE,
            numbers::TABLE,
            control::TABLE,
        ];
        let kernels = entries.iter().copied().flatten().filter_map(|entry| {
            // SAFETY: `#[kernel]` made the entry, which is a constant.
            unsafe { Kernel::from_entry(entry, None) }.ok()
        });
        let kernels: Vec<Arc<Kernel>> = kernels.collect();
        // The names are unique, so no kernel is refused.
        let _ = registry.add_all(kernels, true);
        registry
    }
}
