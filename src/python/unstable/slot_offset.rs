//! *Slots of a class*: the value of a name in `__slots__` is read at its offset, without the descriptor.
//!
//! * Reads: a word of an instance behind the fields of its base class.
//! * Pythons: 3.11 to 3.15, with the global interpreter lock.
//! * Probe: a value set by its name is found at the offset.
//! * Otherwise: the attribute is read by its name.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::python::refs::Ref;

pub const NAME: &str = "slot_offset";

static IS_ON: AtomicBool = AtomicBool::new(false);

pub fn init(py: Python<'_>) {
    let has_lock = cfg!(not(Py_GIL_DISABLED));
    IS_ON.store(has_lock && super::is_allowed(py, NAME), Ordering::Relaxed);
}

pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// The only slot that a class adds to its base.
pub struct Slot {
    name: &'static str,
    /// 0 if the attribute has to be read by its name.
    offset: AtomicUsize,
}

impl Slot {
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            offset: AtomicUsize::new(0),
        }
    }

    /// Looks for the slot in `sample`, an instance of `class`; its value is changed.
    pub fn probe(&self, class: &Bound<'_, PyType>, sample: &Bound<'_, PyAny>) -> PyResult<()> {
        if !is_on() {
            return Ok(());
        }
        let size_of_class = |class: &Bound<'_, PyAny>| class.getattr("__basicsize__")?.extract();
        let offset: usize = size_of_class(&class.getattr("__base__")?)?;
        let size: usize = size_of_class(class.as_any())?;
        let mark = PyTuple::new(class.py(), ["mark", "of", "its", "own"])?;
        sample.setattr(self.name, &mark)?;
        if size < offset + size_of::<usize>() {
            return Ok(());
        }
        // SAFETY: the word lies within the object, as its size says.
        let found = unsafe { Self::word(sample.as_ptr(), offset) };
        if found == mark.as_ptr() {
            self.offset.store(offset, Ordering::Relaxed);
        }
        Ok(())
    }

    unsafe fn word(object: *mut PyObject, offset: usize) -> *mut PyObject {
        // SAFETY: `offset` is within the object: the callers uphold it.
        unsafe { object.byte_add(offset).cast::<*mut PyObject>().read() }
    }

    /// The value, if there is one.
    ///
    /// # Safety
    /// Attached; `object` is a live instance of the class.
    #[inline]
    pub unsafe fn get(&self, object: *mut PyObject) -> Option<Ref> {
        let offset = self.offset.load(Ordering::Relaxed);
        // SAFETY: attached, as the caller upholds; the probe has found the slot in instances of the class.
        unsafe {
            if offset == 0 {
                let object = Bound::from_borrowed_ptr(Python::assume_attached(), object);
                return object.getattr(self.name).ok().map(Ref::from);
            }
            let value = Self::word(object, offset);
            (!value.is_null()).then(|| Ref::borrowed(value))
        }
    }
}
