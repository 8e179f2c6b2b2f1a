//! Which job runs next, and the threads that run them.

pub mod idle;
pub mod queue;
pub mod worker;
