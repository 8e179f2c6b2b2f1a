//! Where native kernels run, without Python.
//!
//! All but the built-in kernels builds with `--cfg loom`, for `tests/loom`.
//!
//! * `Engine` — workers that run kernels, and a bus.
//! * `Job`, `Event`, `Outcome` — a call from the queue to its end, and what is told of it on the way.
//! * `Registry`, `Kernel`, `load`, `Signature` — kernels by name, from libraries or addresses, and what they take.
//! * `Arg`, `Buffer`, `Value`, `Channel` — what goes in and what comes out.
//! * [`bus`] — immutable blocks under keys, with rights that depend on the caller.
//! * [`Block`], [`View`] — memory that is shared by counting and charged to a [`Budget`].

#![allow(
    clippy::must_use_candidate,
    reason = "getters whose result nobody drops by mistake"
)]
#![cfg_attr(all(test, not(loom)), allow(clippy::unwrap_used))]

pub mod bus;
mod memory;
mod scheduler;

#[cfg(not(loom))]
mod builtin;
mod call;
mod channel;
mod engine;
mod error;
mod job;
mod registry;
mod value;

pub use bus::{Bus, BusError, BusStats, Key, Policy, Watch};
pub use memory::block::{Block, Draft, Format, View, ALIGN};
pub use memory::limit::{Budget, Charge};
pub use scheduler::idle::Idle;

pub use {
    call::check_calls,
    channel::{Arrival, Channel, ChannelError, Order},
    engine::{Config, Engine, Stats},
    error::{ArgumentError, ArgumentErrorKind, RegistryError, SubmitError},
    hybridloop_kernel::{abi, Code},
    job::batch::Batch,
    job::event::{Event, EventQueue},
    job::result::{KernelError, Outcome},
    job::{Job, Options, State},
    registry::loader::{load, symbol},
    registry::signature::{Param, Scalar, Signature, Type},
    registry::{Kernel, Overrides, Registry},
    value::{Arg, Buffer, Value},
};
