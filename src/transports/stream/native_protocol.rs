//! Native protocols: a stream transport hands them received bytes without a Python call.
//!
//! The modules that define such protocols [`register`] a lookup at import. A transport asks [`find`] once for each protocol
//! that it gets. A native protocol is still a complete asyncio protocol: the transport calls every other method of it
//! through Python, and other transports call `data_received()` or `buffer_updated()` as well.

use std::sync::{Mutex, PoisonError};

use crate::event_loop::LoopContext;
use crate::python::{FfiResult, Ref};

/// How a native protocol takes received bytes.
pub struct NativeProtocol {
    /// Takes what one `recv` returned; the bytes are valid during the call. The transport calls it in its own context, and
    /// sends what the protocol writes meanwhile when it returns.
    ///
    /// Safety: the reference is to a protocol for which a [`Lookup`] returned this.
    pub data_received: unsafe fn(LoopContext<'_>, &Ref, &[u8]) -> FfiResult<()>,
    /// The message for the loop's exception handler when `data_received` raises.
    pub error_message: &'static str,
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
