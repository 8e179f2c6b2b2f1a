//! *Type versions*: `tp_version_tag` of a class, a number that changes when an attribute of the class or of one of its bases is
//! set. While it is the same, the results of earlier attribute lookups are still true.
//!
//! * Reads: `PyTypeObject.tp_version_tag`. The field is in the public headers, its meaning is not documented.
//! * Pythons: 3.11 to 3.15. CPython has changed the range of the numbers, not what a change means.
//! * Probe: at import, a class gets another number, or none, when an attribute is set.
//! * Otherwise: the attributes are looked up each time.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use pyo3::ffi::PyTypeObject;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

pub const NAME: &str = "type_version";

/// No class has this version. CPython numbers them from 1 and stops before it.
const NONE: u32 = u32::MAX;

static IS_ON: AtomicBool = AtomicBool::new(false);

pub fn init(py: Python<'_>) {
    let is_on = super::is_allowed(py, NAME) && changes_with_attributes(py).unwrap_or(false);
    IS_ON.store(is_on, Ordering::Relaxed);
}

pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

fn changes_with_attributes(py: Python<'_>) -> PyResult<bool> {
    let attributes = PyDict::new(py);
    attributes.set_item("attribute", 0)?;
    let class = py
        .get_type::<PyType>()
        .call1(("Probe", PyTuple::empty(py), attributes))?
        .cast_into::<PyType>()?;
    let version = || {
        // A lookup gives the class a version.
        let found = class.getattr("attribute").is_ok();
        // SAFETY: `class` holds the type.
        (found, unsafe { tag(class.as_type_ptr()) })
    };
    let before = version();
    let same = version();
    class.setattr("attribute", 1)?;
    // SAFETY: `class` holds the type.
    let at_once = unsafe { tag(class.as_type_ptr()) };
    let after = version();
    Ok(before.0 && before == same && before.1 != 0 && at_once != before.1 && after.1 != before.1)
}

/// # Safety
/// `class` is a live type.
#[inline]
unsafe fn tag(class: *mut PyTypeObject) -> u32 {
    // SAFETY: the caller guarantees a live type.
    unsafe { (*class).tp_version_tag }
}

/// The version that a class had at the last lookup.
pub struct SeenVersion(AtomicU32);

impl Default for SeenVersion {
    fn default() -> Self {
        Self(AtomicU32::new(NONE))
    }
}

impl SeenVersion {
    /// Whether the class has not changed since [`SeenVersion::remember`].
    ///
    /// # Safety
    /// `class` is a live type.
    #[inline]
    pub unsafe fn is_current(&self, class: *mut PyTypeObject) -> bool {
        // SAFETY: the caller guarantees a live type.
        unsafe { tag(class) == self.0.load(Ordering::Relaxed) }
    }

    /// Stores the version of the class, after a lookup.
    ///
    /// # Safety
    /// `class` is a live type.
    pub unsafe fn remember(&self, class: *mut PyTypeObject) {
        // SAFETY: the caller guarantees a live type.
        let version = match unsafe { tag(class) } {
            // A class without a version may change unnoticed.
            0 => NONE,
            version if is_on() => version,
            _ => NONE,
        };
        self.0.store(version, Ordering::Relaxed);
    }

    /// Forces a lookup.
    pub fn forget(&self) {
        self.0.store(NONE, Ordering::Relaxed);
    }
}
