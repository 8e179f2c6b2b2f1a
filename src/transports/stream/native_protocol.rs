//! Native protocols: a stream transport hands them received bytes without a Python call.
//!
//! The modules that define such protocols [`register`] a lookup at import. A transport asks [`find`] once for each protocol
//! that it gets. A native protocol is still a complete asyncio protocol: the transport calls every other method of it
//! through Python, and other transports call `data_received()` or `buffer_updated()` as well.

use std::mem;
use std::ops::Deref;
use std::sync::{Mutex, PoisonError};

use crate::event_loop::LoopContext;
use crate::python::{FfiResult, Ref};

/// How a native protocol takes received bytes.
pub struct NativeProtocol {
    /// Takes what one `recv` returned. The transport calls it in its own context, and sends what the protocol writes meanwhile
    /// when it returns.
    ///
    /// Safety: the reference is to a protocol for which a [`Lookup`] returned this.
    pub data_received: unsafe fn(LoopContext<'_>, &Ref, Received<'_>) -> FfiResult<()>,
    /// The protocol does not return from `data_received` soon: hand the transport what it defers until then.
    ///
    /// Safety: as for `data_received`, the reference is to a protocol for which a [`Lookup`] returned this.
    pub uncork: unsafe fn(LoopContext<'_>, &Ref) -> FfiResult<()>,
    /// The message for the loop's exception handler when `data_received` raises.
    pub error_message: &'static str,
}

/// Received bytes in a buffer that others share: it is given back when this is dropped. A protocol that calls Python drops it
/// before, so that a call that takes long does not keep it.
pub struct Received<'a> {
    buffer: Vec<u8>,
    size: usize,
    give_back: &'a dyn Fn(Vec<u8>),
}

impl<'a> Received<'a> {
    /// No bytes in `buffer`, which `give_back` takes at the end.
    #[inline]
    pub fn new(buffer: Vec<u8>, give_back: &'a dyn Fn(Vec<u8>)) -> Self {
        Self {
            buffer,
            size: 0,
            give_back,
        }
    }

    /// All bytes of `buffer`.
    #[inline]
    pub fn full(buffer: Vec<u8>, give_back: &'a dyn Fn(Vec<u8>)) -> Self {
        Self {
            size: buffer.len(),
            buffer,
            give_back,
        }
    }

    /// Fills the buffer by `body`, which returns the number of bytes.
    #[inline]
    pub fn fill<E>(
        &mut self,
        body: impl FnOnce(&mut Vec<u8>) -> Result<usize, E>,
    ) -> Result<usize, E> {
        self.size = 0;
        self.size = body(&mut self.buffer)?;
        Ok(self.size)
    }
}

impl Deref for Received<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.buffer[..self.size]
    }
}

impl Drop for Received<'_> {
    #[inline]
    fn drop(&mut self) {
        (self.give_back)(mem::take(&mut self.buffer));
    }
}

/// Returns how a protocol takes bytes, if it is one of the classes that the lookup is for.
pub type Lookup = fn(&Ref) -> Option<&'static NativeProtocol>;

static LOOKUPS: Mutex<Vec<Lookup>> = Mutex::new(Vec::new());

/// Adds a lookup, at import.
pub fn register(lookup: Lookup) {
    let mut lookups = LOOKUPS.lock().unwrap_or_else(PoisonError::into_inner);
    if !lookups
        .iter()
        .any(|known| std::ptr::fn_addr_eq(*known, lookup))
    {
        lookups.push(lookup);
    }
}

/// How `protocol` takes bytes, if it is native.
pub fn find(protocol: &Ref) -> Option<&'static NativeProtocol> {
    let lookups = LOOKUPS.lock().unwrap_or_else(PoisonError::into_inner);
    lookups.iter().find_map(|lookup| lookup(protocol))
}
