//! Raw CPython: owned references, fast-call methods, type creation and contexts behind small typed wrappers.
//!
//! Everything here is called by a thread that is attached to the interpreter.

pub mod args;
pub mod awaitable;
pub mod buffer;
pub mod bytes;
pub mod cell;
pub mod context;
pub mod coroutine;
pub mod fallible;
pub mod finalization;
pub mod fork;
pub mod future;
pub mod greenlet;
pub mod handle;
pub mod interpreters;
pub mod nested_drop;
pub mod once;
pub mod package;
pub mod queue_cell;
pub mod rdtsc;
pub mod refs;
pub mod stdlib;
mod stop_iteration;
pub mod typespec;
pub mod unstable;
pub mod vectorcall;

pub use cell::{AtomicFlags, Cell, Counted, LoopCell, RelaxedBool, RelaxedU64, SlotCell};
pub use queue_cell::QueueCell;
pub use refs::Ref;
pub use vectorcall::{normalized, Args, ErrSet, FfiResult};
