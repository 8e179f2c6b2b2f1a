//! One address in the system's form and in Python's: most peers send more than one datagram, and get answers.

use pyo3::ffi::PyObject;
use socket2::SockAddr;

use crate::python::Ref;

#[derive(Default)]
pub struct AddressCache(Option<(SockAddr, Ref)>);

impl AddressCache {
    /// `python` is immutable: a tuple, a `str` or `bytes`.
    pub fn new(system: SockAddr, python: Ref) -> Self {
        Self(Some((system, python)))
    }

    /// Python's form of an address in the system's form, if it is the one in the cache.
    #[inline]
    pub fn to_python(&self, system: &[u8]) -> Option<Ref> {
        let (cached, python) = self.0.as_ref()?;
        (bytes(cached) == system).then(|| python.clone())
    }

    /// The system's form of an address, if it is the object in the cache.
    #[inline]
    pub fn to_system(&self, python: *mut PyObject) -> Option<&SockAddr> {
        let (system, cached) = self.0.as_ref()?;
        (cached.as_ptr() == python).then_some(system)
    }
}

/// The bytes of an address in the system's form.
#[inline]
fn bytes(address: &SockAddr) -> &[u8] {
    // SAFETY: a `SockAddr` has `len()` valid bytes.
    unsafe { std::slice::from_raw_parts(address.as_ptr().cast(), address.len() as usize) }
}
