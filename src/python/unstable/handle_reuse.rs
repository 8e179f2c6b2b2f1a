//! *Reuse of handles*: a handle that has run is reused if it has no other references, and the collector does not track it while
//! only the loop holds it.
//!
//! * Relies on: with a reference count of 1 no other code can reach the object.
//! * Pythons: 3.11 to 3.15, with the global interpreter lock; free-threaded builds split the count.
//! * Probe: none, the count is public.
//! * Otherwise: every handle is a new object that the collector tracks.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;

pub const NAME: &str = "handle_reuse";

static IS_ON: AtomicBool = AtomicBool::new(false);

pub fn init(py: Python<'_>) {
    let has_lock = cfg!(not(Py_GIL_DISABLED));
    IS_ON.store(has_lock && super::is_allowed(py, NAME), Ordering::Relaxed);
}

#[inline]
pub fn is_on() -> bool {
    // A constant on free-threaded builds, where the count is split.
    cfg!(not(Py_GIL_DISABLED)) && IS_ON.load(Ordering::Relaxed)
}
