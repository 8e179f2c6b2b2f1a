//! *Feeding `asyncio.StreamReader`*: received data is put into the reader's private attributes, without a call of
//! `data_received()`. The code is in `streams/asyncio_reader.rs`; this is its switch.
//!
//! * Reads and writes: the attributes `_stream_reader_wr` of the protocol and `_buffer`, `_eof`, `_waiter`, `_transport`,
//!   `_paused`, `_limit` of the reader, by their names; no memory.
//! * Pythons: 3.11 to 3.15.
//! * Probe: both classes have the methods of asyncio's own file, and none was replaced.
//! * Otherwise: `data_received()` is called.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;

pub const NAME: &str = "stream_reader";

static IS_ON: AtomicBool = AtomicBool::new(false);

pub fn init(py: Python<'_>) {
    IS_ON.store(super::is_allowed(py, NAME), Ordering::Relaxed);
}

pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}
