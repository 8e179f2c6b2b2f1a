//! The interface of native I/O objects. Higher layers implement it; the loop uses nothing else of them.

use std::mem::ManuallyDrop;

use hybridloop_reactor::Event;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::event_loop::LoopCore;
#[cfg(Py_GIL_DISABLED)]
use crate::python::refs::WeakRef;
use crate::python::{FfiResult, Ref};

/// The loop that makes a call, for native code.
#[derive(Clone, Copy)]
pub struct LoopContext<'a> {
    pub py: Python<'a>,
    pub core: &'a LoopCore,
    /// The loop object of `core`.
    pub event_loop: *mut PyObject,
}

/// The functions of one class of I/O objects. The loop passes each a live object of that class.
pub struct SourceVTable {
    /// The descriptor is ready.
    pub ready: unsafe fn(LoopContext<'_>, &Ref, Event) -> FfiResult<()>,
    /// Continue reading, an iteration later: one event does not read everything.
    pub resume: unsafe fn(LoopContext<'_>, &Ref) -> FfiResult<()>,
    /// Send corked writes, at the end of the iteration.
    pub flush: unsafe fn(LoopContext<'_>, &Ref) -> FfiResult<()>,
    /// The protocol does not return from a call soon: no longer defer what it has written.
    pub uncork: unsafe fn(LoopContext<'_>, &Ref) -> FfiResult<()>,
    /// Whether nothing else may watch the descriptor.
    pub is_exclusive: unsafe fn(*mut PyObject) -> bool,
    /// Whether the descriptor table's pointer counts as a reference.
    pub is_held: unsafe fn(*mut PyObject) -> bool,
    /// The table has dropped its pointer, and with it the reference if it was one.
    pub dropped: unsafe fn(*mut PyObject),
    /// Whether `remove_reader()` of the descriptor removes the object, as for a listening socket.
    pub is_reader: bool,
}

/// An I/O object in the descriptor table.
///
/// Its memory is valid while it is in the table: an object that the table does not hold removes itself before its memory is
/// freed. Python code may run between the drop of its last reference and that removal: in slots of a subclass, or in other
/// threads of free-threaded builds. [`IoSource::hold`] then returns `None`: with the global interpreter lock it checks the
/// reference count, without one a weak reference.
pub struct IoSource {
    object: *mut PyObject,
    pub vtable: &'static SourceVTable,
    #[cfg(Py_GIL_DISABLED)]
    weak: Option<WeakRef>,
}

// SAFETY: the loop uses the pointer only while it has the table open, or while an `IoRef` holds the object.
unsafe impl Send for IoSource {}

impl IoSource {
    /// For an object that removes itself from the table.
    ///
    /// # Safety
    /// The thread is attached, and `object` is live and of the vtable's class.
    pub unsafe fn new(object: *mut PyObject, vtable: &'static SourceVTable) -> FfiResult<Self> {
        Ok(Self {
            object,
            vtable,
            #[cfg(Py_GIL_DISABLED)]
            // SAFETY: the caller guarantees an attached thread and a live object.
            weak: Some(unsafe { WeakRef::new(object)? }),
        })
    }

    /// For an object that the table holds a reference to, until `dropped` releases it.
    pub fn owned(object: Ref, vtable: &'static SourceVTable) -> Self {
        Self {
            object: object.into_ptr(),
            vtable,
            #[cfg(Py_GIL_DISABLED)]
            weak: None,
        }
    }

    /// An owned reference for the duration of a call; `None` if the object is being deallocated.
    #[inline]
    pub fn hold(&self) -> Option<IoRef> {
        #[cfg(Py_GIL_DISABLED)]
        if let Some(weak) = &self.weak {
            return Some(IoRef {
                object: weak.upgrade()?,
                vtable: self.vtable,
            });
        }
        // SAFETY: the memory of an object outlasts its entry in the table: `dropped` or its deallocator removes it first. It is
        // live if its reference count is not 0.
        let object =
            unsafe { (ffi::Py_REFCNT(self.object) > 0).then(|| Ref::borrowed(self.object))? };
        Some(IoRef {
            object,
            vtable: self.vtable,
        })
    }

    /// The object, if the table's pointer counts as a reference. The result must not be dropped.
    pub fn held(&self) -> Option<ManuallyDrop<Ref>> {
        // SAFETY: the caller has found `self` in the table, so its memory is valid, and it was made with the vtable of its
        // class. If `is_held`, the table's reference keeps the object alive.
        unsafe {
            (self.vtable.is_held)(self.object).then(|| ManuallyDrop::new(Ref::unowned(self.object)))
        }
    }

    /// Releases an object that was removed from the table.
    pub fn forget(self) {
        if let Some(held) = self.hold() {
            // SAFETY: `held` keeps the object alive while `dropped` releases the table's reference.
            unsafe { (self.vtable.dropped)(held.object.as_ptr()) };
        }
    }
}

/// An owned reference to an I/O object.
pub struct IoRef {
    pub object: Ref,
    pub vtable: &'static SourceVTable,
}

impl IoRef {
    /// Whether nothing else may watch the descriptor. It may run Python.
    pub fn is_exclusive(&self) -> bool {
        // SAFETY: `self` holds the object, and was made with the vtable of its class.
        unsafe { (self.vtable.is_exclusive)(self.object.as_ptr()) }
    }
}
