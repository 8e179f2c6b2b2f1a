//! Memory of a program that a coroutine owns.

use std::ffi::{c_int, c_void};

use pyo3::ffi::{visitproc, PyObject};
use pyo3::prelude::*;

use crate::python::coroutine::Visit;
use crate::python::Ref;

/// Releases what the memory holds.
pub type DropState = unsafe extern "C" fn(*mut c_void);
/// Shows the objects that the memory holds to the collector.
pub type TraverseState = unsafe extern "C" fn(*mut c_void, visitproc, *mut c_void) -> c_int;

/// A pointer of the program, with what is called at its end.
pub struct UserState {
    pub pointer: *mut c_void,
    pub drop: Option<DropState>,
    pub traverse: Option<TraverseState>,
}

// SAFETY: the pointer belongs to the program, which gets it back in attached threads only, one at a time.
unsafe impl Send for UserState {}

impl UserState {
    pub fn traverse(&self, visit: Visit<'_>) -> c_int {
        unsafe extern "C" fn entry(object: *mut PyObject, visit: *mut c_void) -> c_int {
            if object.is_null() {
                return 0;
            }
            // SAFETY: `arg` below is a `Visit` that outlives the call, and the program passes a live object.
            unsafe { (*visit.cast::<Visit<'_>>())(Ref::from_ptr_ref(&object)) }
        }
        let mut visit: Visit<'_> = visit;
        let arg = (&raw mut visit).cast();
        match self.traverse {
            // SAFETY: the program has given the function for this pointer.
            Some(traverse) => unsafe { traverse(self.pointer, entry, arg) },
            None => 0,
        }
    }
}

impl Drop for UserState {
    fn drop(&mut self) {
        self.end();
    }
}

impl UserState {
    /// Calls the function for the end, unless that was done.
    pub fn end(&mut self) {
        let Some(drop) = self.drop.take() else {
            return;
        };
        // SAFETY: the thread is attached: it drops an object, or runs a function of the table.
        let py = unsafe { Python::assume_attached() };
        let error = PyErr::take(py);
        // SAFETY: the program has given the function for this pointer, and it is called once.
        unsafe { drop(self.pointer) };
        if let Some(raised) = PyErr::take(py) {
            raised.write_unraisable(py, None);
        }
        if let Some(error) = error {
            error.restore(py);
        }
    }
}
