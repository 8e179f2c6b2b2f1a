//! What the loop asks of native I/O objects. The rooms above make them; the loop knows them only by this.

use hybridloop_reactor::Event;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;

use super::LoopCore;
use crate::ffi::{Ref, Res};

/// Where a call comes from.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    pub py: Python<'a>,
    pub core: &'a LoopCore,
    /// The loop object of `core`.
    pub event_loop: *mut PyObject,
}

/// The functions of one kind of I/O object. Each gets an object of its kind, which is live.
pub struct Kind {
    /// The descriptor is ready.
    pub ready: unsafe fn(Caller<'_>, &Ref, Event) -> Res<()>,
    /// A turn later: there is more to do than one event allows.
    pub go_on: unsafe fn(Caller<'_>, &Ref) -> Res<()>,
    /// At the end of the turn: send what was gathered.
    pub flush: unsafe fn(Caller<'_>, &Ref) -> Res<()>,
    /// Whether nobody else may watch the descriptor.
    pub is_exclusive: unsafe fn(*mut PyObject) -> bool,
    /// Whether the descriptor table's pointer counts as a reference.
    pub is_held: unsafe fn(*mut PyObject) -> bool,
    /// The table has dropped its pointer, and with it the reference if it was one.
    pub dropped: unsafe fn(*mut PyObject),
    /// Whether removing the reader of the descriptor takes the object out, as for a listening socket.
    pub is_reader: bool,
}

/// An I/O object in the descriptor table. It takes itself out before it dies.
#[derive(Clone, Copy)]
pub struct Native {
    pub object: *mut PyObject,
    pub kind: &'static Kind,
}

// SAFETY: the pointer is used by the thread that holds the loop.
unsafe impl Send for Native {}

impl Native {
    /// A reference of its own, for the length of a call.
    #[inline]
    pub fn hold(self) -> Pending {
        Pending {
            // SAFETY: what is in the table is live.
            object: unsafe { Ref::borrowed(self.object) },
            kind: self.kind,
        }
    }

    pub fn is_exclusive(self) -> bool {
        // SAFETY: what is in the table is live and of its kind.
        unsafe { (self.kind.is_exclusive)(self.object) }
    }

    pub fn is_held(self) -> bool {
        // SAFETY: as above.
        unsafe { (self.kind.is_held)(self.object) }
    }

    /// Lets go of an object that was taken out of the table.
    pub fn forget(self) {
        let held = self.hold();
        // SAFETY: held here, so giving back the table's reference does not end it.
        unsafe { (self.kind.dropped)(held.object.as_ptr()) };
    }
}

/// An I/O object that waits for its turn.
pub struct Pending {
    pub object: Ref,
    pub kind: &'static Kind,
}
