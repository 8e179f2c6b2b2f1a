//! The parts of an event loop that need no Python: readiness, timers and name lookups.
//!
//! * [`Poller`] — mio's poll, with level-triggered registration for descriptors that other code owns.
//! * [`Registry`] — I/O sources by generation-checked [`Token`], so that a late event never reaches the wrong source.
//! * [`FdMap`] — tokens by descriptor.
//! * [`TimerHeap`] — deadlines in nanoseconds, first in first out among equals, lazy removal with compaction.
//! * [`dns`] — `getaddrinfo` and `getnameinfo` without blocking.
//! * [`syscall`] — results of system calls, and the retry after a signal.

pub mod dns;
mod fd_map;
mod interest;
mod poller;
mod registry;
mod sys;
pub mod syscall;
mod timers;

pub use fd_map::FdMap;
pub use interest::Interest;
pub use poller::{Event, Poller, Registrar, WakeHandle};
pub use registry::{Registry, Token};
pub use timers::TimerHeap;
