//! Native protocols: a stream hands them what it has read without a Python call.
//!
//! The rooms above, which make such protocols, say so with [`register`] when the module is imported; a stream asks
//! [`find`] once for each protocol it gets. A protocol with a sink is still a whole asyncio protocol: everything but
//! received bytes reaches it by its methods, and so do the bytes if the transport is not a stream of ours.

#![allow(dead_code)]

use std::sync::{Mutex, PoisonError};

use crate::event_loop::LoopContext;
use crate::python::{FfiResult, Ref};
use crate::transports::stream::Stream;

/// What a native protocol does with bytes.
pub struct Sink {
    /// Takes what one `recv` brought. It is called with the protocol, in the transport's context; the stream is corked,
    /// so what is written meanwhile leaves when this returns. The bytes are good until then.
    pub received: unsafe fn(LoopContext<'_>, &Source<'_>, &[u8]) -> FfiResult<()>,
    /// What the loop's exception handler is told when `received` raises.
    pub failure: &'static str,
}

/// Who hands over bytes, and to whom.
pub struct Source<'a> {
    pub protocol: &'a Ref,
    pub transport: &'a Ref,
    /// The state of `transport`.
    pub stream: &'a Stream,
}

/// Tells whether a protocol is one of a room's own, and how it takes bytes.
pub type Finder = fn(&Ref) -> Option<&'static Sink>;

static FINDERS: Mutex<Vec<Finder>> = Mutex::new(Vec::new());

/// Makes a room's protocols known, at import.
pub fn register(finder: Finder) {
    let mut finders = FINDERS.lock().unwrap_or_else(PoisonError::into_inner);
    if !finders
        .iter()
        .any(|known| std::ptr::fn_addr_eq(*known, finder))
    {
        finders.push(finder);
    }
}

/// How a protocol takes bytes, if it is native.
pub fn find(protocol: &Ref) -> Option<&'static Sink> {
    let finders = FINDERS.lock().unwrap_or_else(PoisonError::into_inner);
    finders.iter().find_map(|finder| finder(protocol))
}
