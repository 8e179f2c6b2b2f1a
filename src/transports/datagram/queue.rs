//! Datagrams that wait to be sent, and addresses in both of their forms.

use std::collections::VecDeque;

use socket2::SockAddr;

use crate::allocator::push_back;
use crate::python::Ref;

/// What the size of a queued datagram counts besides its data. asyncio counts headers since Python 3.13.
const HEADER_SIZE: usize = if cfg!(Py_3_13) { 8 } else { 0 };

/// Where a datagram goes.
pub enum Target {
    /// To the peer that the socket is connected to.
    Peer,
    Address(SockAddr),
    /// To an address that Python has to look at: a host name, or a mistake.
    Python(Ref),
}

pub struct Queued {
    /// An exact `bytes` object.
    pub data: Ref,
    pub target: Target,
}

impl Queued {
    fn size(&self) -> usize {
        // SAFETY: an exact `bytes` object.
        HEADER_SIZE + unsafe { pyo3::ffi::Py_SIZE(self.data.as_ptr()) }.unsigned_abs()
    }
}

/// Datagrams in the order in which they leave.
#[derive(Default)]
pub struct Queue {
    datagrams: VecDeque<Queued>,
    size: usize,
}

impl Queue {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Bytes queued, as flow control counts them.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Adds a datagram; it comes back if there is no memory for it.
    pub fn push(&mut self, datagram: Queued) -> Option<Queued> {
        let size = datagram.size();
        let left = push_back(&mut self.datagrams, datagram).err();
        if left.is_none() {
            self.size += size;
        }
        left
    }

    pub fn pop(&mut self) -> Option<Queued> {
        let datagram = self.datagrams.pop_front()?;
        self.size -= datagram.size();
        Some(datagram)
    }

    /// Puts back what was popped last.
    pub fn unpop(&mut self, datagram: Queued) {
        self.size += datagram.size();
        self.datagrams.push_front(datagram);
    }
}

/// An address as the system writes it and as Python shows it: peers mostly send more than one datagram, and get answers.
#[derive(Default)]
pub struct SeenAddress(Option<(SockAddr, Ref)>);

impl SeenAddress {
    pub fn new(system: SockAddr, python: Ref) -> Self {
        Self(Some((system, python)))
    }

    /// What Python shows for an address of the system.
    #[inline]
    pub fn python(&self, system: &[u8]) -> Option<Ref> {
        let (seen, python) = self.0.as_ref()?;
        (bytes(seen) == system).then(|| python.clone())
    }

    /// The system's form of an object that was seen. Such objects do not change.
    #[inline]
    pub fn system(&self, python: *mut pyo3::ffi::PyObject) -> Option<&SockAddr> {
        let (system, seen) = self.0.as_ref()?;
        (seen.as_ptr() == python).then_some(system)
    }
}

/// The bytes of an address.
#[inline]
fn bytes(address: &SockAddr) -> &[u8] {
    // SAFETY: an address is as long as it says.
    unsafe { std::slice::from_raw_parts(address.as_ptr().cast(), address.len() as usize) }
}
