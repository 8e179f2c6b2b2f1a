//! What the loop asks of native I/O objects. The rooms above make them; the loop knows them only by this.

use std::mem::ManuallyDrop;

use hybridloop_reactor::Event;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::event_loop::LoopCore;
#[cfg(Py_GIL_DISABLED)]
use crate::python::refs::WeakRef;
use crate::python::{FfiResult, Ref};

/// Where a call comes from.
#[derive(Clone, Copy)]
pub struct LoopContext<'a> {
    pub py: Python<'a>,
    pub core: &'a LoopCore,
    /// The loop object of `core`.
    pub event_loop: *mut PyObject,
}

/// The functions of one kind of I/O object. Each gets an object of its vtable, which is live.
pub struct SourceVTable {
    /// The descriptor is ready.
    pub ready: unsafe fn(LoopContext<'_>, &Ref, Event) -> FfiResult<()>,
    /// An iteration later: there is more to do than one event allows.
    pub resume: unsafe fn(LoopContext<'_>, &Ref) -> FfiResult<()>,
    /// At the end of the iteration: send what was gathered.
    pub flush: unsafe fn(LoopContext<'_>, &Ref) -> FfiResult<()>,
    /// Whether nobody else may watch the descriptor.
    pub is_exclusive: unsafe fn(*mut PyObject) -> bool,
    /// Whether the descriptor table's pointer counts as a reference.
    pub is_held: unsafe fn(*mut PyObject) -> bool,
    /// The table has dropped its pointer, and with it the reference if it was one.
    pub dropped: unsafe fn(*mut PyObject),
    /// Whether removing the reader of the descriptor takes the object out, as for a listening socket.
    pub is_reader: bool,
}

/// An I/O object in the descriptor table.
///
/// Its memory lasts as long as it is in there: one of which the table's pointer does not count as a reference takes itself out
/// before its memory is freed. Python may run between its last reference's end and that: in what a subclass of its class has in
/// slots, or in other threads of builds without a global interpreter lock. Then it is not to be had any longer: with the lock
/// its count of references tells, without one a weak reference.
pub struct IoSource {
    object: *mut PyObject,
    pub vtable: &'static SourceVTable,
    #[cfg(Py_GIL_DISABLED)]
    weak: Option<WeakRef>,
}

// SAFETY: the pointer is used while the table is locked, or while the object is held.
unsafe impl Send for IoSource {}

impl IoSource {
    /// For an object that takes itself out of the table.
    ///
    /// # Safety
    /// Attached; `object` is live, and of that kind.
    pub unsafe fn new(object: *mut PyObject, vtable: &'static SourceVTable) -> FfiResult<Self> {
        Ok(Self {
            object,
            vtable,
            #[cfg(Py_GIL_DISABLED)]
            // SAFETY: the caller's promise.
            weak: Some(unsafe { WeakRef::new(object)? }),
        })
    }

    /// For an object of which the table has a reference, until `dropped` gives it back.
    pub fn owned(object: Ref, vtable: &'static SourceVTable) -> Self {
        Self {
            object: object.into_ptr(),
            vtable,
            #[cfg(Py_GIL_DISABLED)]
            weak: None,
        }
    }

    /// A reference of its own, for the length of a call; `None` if the object is dying.
    #[inline]
    pub fn hold(&self) -> Option<IoRef> {
        #[cfg(Py_GIL_DISABLED)]
        if let Some(weak) = &self.weak {
            return Some(IoRef {
                object: weak.upgrade()?,
                vtable: self.vtable,
            });
        }
        // SAFETY: what is in the table, or was taken out of it just now, has its memory; it is live if it is counted.
        let object =
            unsafe { (ffi::Py_REFCNT(self.object) > 0).then(|| Ref::borrowed(self.object))? };
        Some(IoRef {
            object,
            vtable: self.vtable,
        })
    }

    /// The object of one that is in the table, if the table's pointer counts as a reference; it must not be dropped.
    pub fn held(&self) -> Option<ManuallyDrop<Ref>> {
        // SAFETY: what is in the table has its memory, and is of its vtable; a reference of the table keeps the object.
        unsafe {
            (self.vtable.is_held)(self.object).then(|| ManuallyDrop::new(Ref::unowned(self.object)))
        }
    }

    /// Lets go of an object that was taken out of the table.
    pub fn forget(self) {
        if let Some(held) = self.hold() {
            // SAFETY: held here, so giving back the table's reference does not end it.
            unsafe { (self.vtable.dropped)(held.object.as_ptr()) };
        }
    }
}

/// An I/O object that waits for its turn.
pub struct IoRef {
    pub object: Ref,
    pub vtable: &'static SourceVTable,
}

impl IoRef {
    /// Whether nobody else may watch the descriptor; to find that out may run Python.
    pub fn is_exclusive(&self) -> bool {
        // SAFETY: the object is held, and of its kind.
        unsafe { (self.vtable.is_exclusive)(self.object.as_ptr()) }
    }
}
