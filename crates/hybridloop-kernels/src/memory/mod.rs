//! Memory that kernels and the bus share, what limits it, and which buffers running jobs use.

pub mod block;
pub mod borrows;
pub mod limit;
