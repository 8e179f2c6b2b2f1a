//! What the built-in kernels share.

use hybridloop_kernel::{abi, Export};

/// Bytes processed between two checks for cancellation.
pub(super) const CHUNK: usize = 256 << 10;

pub(super) const fn entry<K: Export>() -> abi::Kernel {
    K::KERNEL
}
