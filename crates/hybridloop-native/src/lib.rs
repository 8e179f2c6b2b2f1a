//! Where native kernels run, without Python.
//!
//! * [`bus`] — immutable blocks under keys, with rights that depend on the caller.
//! * [`Mailbox`] — events from workers to a loop, in order, with one wake-up for many.
//! * [`Block`], [`View`] — memory that is shared by counting and charged to a [`Budget`].

#![allow(
    clippy::must_use_candidate,
    reason = "getters whose result nobody drops by mistake"
)]
#![cfg_attr(all(test, not(loom)), allow(clippy::unwrap_used))]

mod block;
mod budget;
pub mod bus;
mod mailbox;
mod sync;

pub use block::{Block, Draft, Format, View, ALIGN};
pub use budget::{Budget, Charge};
pub use bus::{Bus, BusError, BusStats, Key, Policy, Watch};
pub use mailbox::{Mailbox, Wake};
