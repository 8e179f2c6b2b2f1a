//! Memory that kernels and the bus share, its limits, and the buffers that jobs borrow.

pub mod block;
pub mod borrows;
pub mod limit;
