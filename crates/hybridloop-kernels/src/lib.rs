//! The kernel engine of hybridloop, without Python.
//!
//! All modules but the built-in kernels can be built with `--cfg loom`, for `tests/loom`.
//!
//! * `Engine` — workers that run kernels, and a bus.
//! * `Job`, `JobResult`, `Batch` — a call of a kernel from the queue to its result; calls that were submitted together.
//! * `Event`, `EventQueue` — what native threads report to an event loop.
//! * `Registry`, `Kernel`, `load`, `Signature` — kernels by name, from libraries or addresses, and their parameters.
//! * `Arg`, `Buffer`, `Value`, `Channel` — arguments, results, and lists that kernels and Python share.
//! * [`bus`] — immutable blocks under keys, with rights that depend on the caller.
//! * [`Block`], [`View`] — memory with a reference count, which counts towards a [`MemoryLimit`].

#![allow(
    clippy::must_use_candidate,
    reason = "getters whose result nobody drops by mistake"
)]
#![cfg_attr(all(test, not(loom)), allow(clippy::unwrap_used))]

mod arg;
#[cfg(not(loom))]
mod builtin;
pub mod bus;
mod call;
mod channel;
mod engine;
mod error;
mod job;
mod memory;
mod order;
mod registry;
mod scheduler;
mod value;

pub use arg::{Arg, Buffer};
pub use bus::{Bus, BusError, BusStats, Key, KeyListener, KeyWatch, Policy};
pub use call::set_call_check;
pub use channel::{Channel, ChannelError, ChannelListener};
pub use engine::{Config, Engine, Stats};
pub use error::{ArgumentError, ArgumentErrorKind, RegistryError, SubmitError};
pub use hybridloop_kernel::{abi, Code};
pub use job::batch::{Batch, BatchListener};
pub use job::event::{Event, EventQueue};
pub use job::result::{JobResult, KernelError};
pub use job::{Job, JobListener, JobOptions, JobState};
pub use memory::block::{has_objects, Block, BlockBuilder, Format, Owner, View, ALIGN};
pub use memory::limit::{set_memory_check, MemoryLimit, Reservation};
pub use order::Order;
pub use registry::kernel::{Kernel, Overrides};
pub use registry::loader::{find_symbol, load};
pub use registry::signature::{Param, Scalar, Signature, Type};
pub use registry::Registry;
pub use scheduler::idle::Idle;
pub use value::{Text, Value};
