//! The attributes of `DatagramTransport`.

use pyo3::ffi;

use crate::python::Ref;
use crate::transports::attributes::{attribute, common, object_or_none};
use crate::transports::base::LOST;
use crate::transports::datagram::state::DatagramTransport;

pub fn attributes() -> Vec<ffi::PyGetSetDef> {
    let mut attributes = common::<DatagramTransport>();
    attributes.extend([
        attribute(c"_sock", |transport: &DatagramTransport| {
            if transport.has(LOST) {
                return Ok(Ref::none());
            }
            object_or_none(&transport.socket)
        }),
        attribute(c"_address", |transport: &DatagramTransport| {
            object_or_none(&transport.remote_address)
        }),
    ]);
    attributes
}
