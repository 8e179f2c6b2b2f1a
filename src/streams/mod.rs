//! Stream readers and writers over transports.
//!
//! * [`reader`] — `StreamReaderCore`: the state of a reader, and what feeds it.
//! * [`read_ops`] — the coroutines that read from it.
//! * [`reader_class`] — its Python class.
//! * [`writer`] — `StreamWriterCore`: `write()`, `drain()`.
//! * [`protocol`] — `StreamProtocolCore`, between them and the transport.
//! * [`separators`] — the search for the end of a line or record.
//! * [`buffer`] — data that was received and not read.
//! * [`waiter`] — futures that readers and writers wait for, and the loop that makes them.
//! * [`asyncio_reader`] — feeding `asyncio.StreamReader` without a Python call.

mod asyncio_reader;
mod buffer;
mod protocol;
mod read_ops;
mod reader;
mod reader_class;
mod separators;
mod waiter;
mod writer;

use pyo3::prelude::*;

/// Adds the classes to the module, and the lookups of their protocols to stream transports.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    reader_class::register(module)?;
    writer::register(module)?;
    protocol::register(module)?;
    asyncio_reader::register(module.py())
}
