//! Where native kernels run, without Python.
//!
//! All but the built-in kernels builds with `--cfg loom`, for `tests/loom`.
//!
//! * `Engine` — workers that run kernels, and a bus.
//! * `Job`, `Event`, `Outcome` — a call from the queue to its end, and what is told of it on the way.
//! * `Registry`, `Kernel`, `load`, `Signature` — kernels by name, from libraries or addresses, and what they take.
//! * `Arg`, `Buffer`, `Value`, `Channel` — what goes in and what comes out.
//! * [`bus`] — immutable blocks under keys, with rights that depend on the caller.
//! * `Patience` — for how long to look before going to sleep.
//! * [`Process`] — which side of a fork this is.
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
mod fork;
mod idle;
mod mailbox;
mod sync;

mod batch;
#[cfg(not(loom))]
mod builtin;
mod call;
mod channel;
mod engine;
mod error;
mod event;
mod job;
mod loader;
mod loans;
mod outcome;
mod patience;
mod pool;
mod queue;
mod registry;
mod signature;
mod trampoline;
mod value;

pub use block::{Block, Draft, Format, View, ALIGN};
pub use budget::{Budget, Charge};
pub use bus::{Bus, BusError, BusStats, Key, Policy, Watch};
pub use fork::{hold_off_forks, Process};
pub use idle::Idle;
pub use mailbox::{Mailbox, Wake};

pub use {
    batch::Batch,
    call::check_calls,
    channel::{Arrival, Channel, ChannelError, Order},
    engine::{Config, Engine, Stats},
    error::{ArgumentError, ArgumentErrorKind, RegistryError, SubmitError},
    event::Event,
    hybridloop_kernel::{abi, Code},
    job::{Job, Options, State},
    loader::{load, symbol},
    outcome::{KernelError, Outcome},
    patience::Patience,
    registry::{Kernel, Overrides, Registry},
    signature::{Param, Scalar, Signature, Type},
    value::{Arg, Buffer, Value},
};
