//! What the event loop and the kernel engine share: fork detection, clocks, and the synchronisation between threads. Without
//! Python.
//!
//! * [`fork`] — which process made an object, and a way to delay forks.
//! * [`clock`] — the monotonic clock; [`tsc`] — the cycle counter.
//! * [`NotifyQueue`] — a queue whose consumer blocks elsewhere; [`WakingQueue`] — one that wakes its consumer itself.
//! * [`AdaptiveSpin`] and [`is_uniprocessor`] — whether to spin before a sleep.
//! * [`primitives`] — locks, atomics, threads and a queue; with `--cfg loom` those that loom explores.

#![allow(
    clippy::must_use_candidate,
    reason = "getters whose result nobody drops by mistake"
)]

mod adaptive_spin;
pub mod clock;
pub mod fork;
mod notify_queue;
pub mod primitives;
pub mod tsc;

pub use adaptive_spin::{is_uniprocessor, AdaptiveSpin};
pub use fork::Process;
pub use notify_queue::{Notifier, NotifyQueue, WakeFn, WakingQueue};
