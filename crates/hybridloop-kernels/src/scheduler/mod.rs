//! Threads that run jobs: the queue, the workers, and how workers wait.

pub mod idle;
pub mod pool;
mod queue;
mod worker;
