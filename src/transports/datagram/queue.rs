//! Datagrams that wait to be sent.

use std::collections::VecDeque;

use pyo3::ffi;
use socket2::SockAddr;

use crate::python::fallible::push_back;
use crate::python::Ref;

/// What flow control counts for a datagram besides its data. asyncio counts a header since Python 3.13.
const HEADER_SIZE: usize = if cfg!(Py_3_13) { 8 } else { 0 };

/// Where a datagram is sent to.
pub enum Target {
    /// The peer that the socket is connected to.
    Peer,
    Address(SockAddr),
    /// An address that the Python socket has to resolve or refuse: a host name, or one that is not valid.
    Unresolved(Ref),
}

pub struct QueuedDatagram {
    /// An exact `bytes` object.
    pub data: Ref,
    pub target: Target,
}

impl QueuedDatagram {
    fn size(&self) -> usize {
        // SAFETY: `data` is a `bytes` object, which has a size.
        HEADER_SIZE + unsafe { ffi::Py_SIZE(self.data.as_ptr()) }.unsigned_abs()
    }
}

/// Datagrams in the order in which they are sent.
#[derive(Default)]
pub struct WriteQueue {
    datagrams: VecDeque<QueuedDatagram>,
    size: usize,
}

impl WriteQueue {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// The size that flow control counts, in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Adds a datagram. Returns it if there is no memory.
    pub fn push(&mut self, datagram: QueuedDatagram) -> Option<QueuedDatagram> {
        let size = datagram.size();
        let refused = push_back(&mut self.datagrams, datagram).err();
        if refused.is_none() {
            self.size += size;
        }
        refused
    }

    pub fn pop(&mut self) -> Option<QueuedDatagram> {
        let datagram = self.datagrams.pop_front()?;
        self.size -= datagram.size();
        Some(datagram)
    }

    /// Puts back the datagram that was popped last, into the place that it has left.
    pub fn push_front(&mut self, datagram: QueuedDatagram) {
        self.size += datagram.size();
        self.datagrams.push_front(datagram);
    }
}
