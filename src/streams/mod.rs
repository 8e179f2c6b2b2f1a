//! Readers and writers over stream transports.
//!
//! * [`reader`] — `StreamReaderCore`: what feeds it, and what it knows.
//! * [`read_ops`] — the coroutines that read from it.
//! * [`writer`] — `StreamWriterCore`: `write()`, `drain()`.
//! * [`protocol`] — between them and the transport.
//! * [`separators`] — looking for the end of a line or record.
//! * [`buffer`] — what was received and not read.
//! * [`asyncio_reader`] — feeding `asyncio.StreamReader` without a Python call.
//! * [`waiter`] — futures that readers and writers wait for.
//! * [`args`] — arguments of their methods.

mod args;
mod asyncio_reader;
mod buffer;
mod protocol;
mod read_ops;
mod reader;
mod separators;
mod waiter;
mod writer;

use pyo3::prelude::*;

/// Adds the classes to the module and makes the native protocols known.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    reader::register(module)?;
    writer::register(module)?;
    protocol::register(module)?;
    asyncio_reader::register(module.py())
}
