//! The parts of an event loop that need no Python: readiness, timers, the cross-thread inbox and name lookups.
//!
//! * [`Poller`] — mio's poll plus level-triggered registration for descriptors that other code owns.
//! * [`Registry`] — I/O sources by generation-checked [`Token`], so that a late event never reaches the wrong source.
//! * [`FdMap`] — tokens by descriptor.
//! * [`TimerHeap`] — deadlines in nanoseconds, first in first out among equals, lazy removal with compaction.
//! * [`Inbox`] — items from other threads, with one wake-up per sleep whatever the number of producers.
//! * [`dns`] — `getaddrinfo` without waiting for it.

pub mod dns;
mod fd_map;
mod notify_queue;
mod poller;
mod registry;
mod sys;
mod timers;

pub use fd_map::FdMap;
pub use notify_queue::{Inbox, Notifier};
pub use poller::{Event, Interest, Poller, Registrar, WakeHandle};
pub use registry::{Registry, Token};
pub use timers::TimerHeap;
