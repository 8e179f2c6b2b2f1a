//! Raw CPython: owned references, fast-call methods, type creation and contexts behind small typed wrappers.
//!
//! Everything here is called by a thread that is attached to the interpreter.

pub mod bytes;
pub mod context;
pub mod fastcall;
pub mod handle;
pub mod local;
pub mod refs;
pub mod typespec;

pub use fastcall::{Args, Raised, Res};
pub use local::Local;
pub use refs::Ref;
