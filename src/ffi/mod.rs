//! Raw CPython: owned references, fast-call methods, type creation and contexts behind small typed wrappers.
//!
//! Everything here is called by a thread that is attached to the interpreter.

pub mod arguments;
pub mod buffer;
pub mod bytes;
pub mod context;
pub mod coroutine;
pub mod fastcall;
pub mod finalization;
pub mod future;
pub mod handle;
pub mod interpreters;
pub mod local;
pub mod nested_drop;
pub mod refs;
pub mod socket;
mod stop;
pub mod typespec;

pub use fastcall::{Args, Raised, Res};
pub use local::{Cell, Flag, Flags, Local, Word};
pub use refs::Ref;
