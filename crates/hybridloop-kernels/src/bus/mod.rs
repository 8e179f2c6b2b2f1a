//! The memory bus: immutable blocks under keys, with rights that depend on the caller.
//!
//! | operation | kernels | Python |
//! |---|---|---|
//! | write a new key | [`Bus::push`], [`Bus::open`] | [`Bus::put_new`], a copy; [`Bus::put_new_with`], memory that never changes |
//! | write a key that exists | overwrites | refused, nothing changes |
//! | read | [`Bus::get`] | [`Bus::snapshot`]; refused while a kernel writes the key |
//! | read and remove | [`Bus::pop`]; one of several callers wins | never |
//!
//! A write fills memory of its own and then takes the key's place in one step. So nobody sees half a write, and a reader keeps
//! the block alive. A key is busy by rule, not by a lock: locks are held for a few instructions on a map, never for a copy, and
//! Python gives up rather than wait for one.

mod error;
mod key;
mod listener;
mod native;
mod python;
mod shard;
mod stats;
mod store;
mod watch;
mod writer;

pub use error::BusError;
pub use key::Key;
pub use listener::KeyListener;
pub use stats::BusStats;
pub use store::{Bus, Policy};
pub use watch::KeyWatch;
pub use writer::Writer;
