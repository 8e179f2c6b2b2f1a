//! *Reuse of objects*: handles that have run, and native coroutines that have ended, are kept and used again if nobody else
//! holds them. A handle is not even tracked by the collector while only the loop holds it.
//!
//! * Relies on: a reference count of 1 means that nobody else can reach the object; `PyObject_Init` makes an object of memory
//!   that was one before.
//! * Pythons: 3.11 to 3.15, with the global interpreter lock; free-threaded builds split the count.
//! * Probe: none, the count is public.
//! * Otherwise: every handle and coroutine is a new object.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;

pub const HANDLES: &str = "handle_reuse";
pub const COROUTINES: &str = "coroutine_reuse";

static HANDLES_ON: AtomicBool = AtomicBool::new(false);
static COROUTINES_ON: AtomicBool = AtomicBool::new(false);

pub fn init(py: Python<'_>) {
    let has_lock = cfg!(not(Py_GIL_DISABLED));
    HANDLES_ON.store(
        has_lock && super::is_allowed(py, HANDLES),
        Ordering::Relaxed,
    );
    COROUTINES_ON.store(
        has_lock && super::is_allowed(py, COROUTINES),
        Ordering::Relaxed,
    );
}

/// Whether handles are used again.
#[inline]
pub fn of_handles() -> bool {
    // Known at compile time where the count does not tell.
    cfg!(not(Py_GIL_DISABLED)) && HANDLES_ON.load(Ordering::Relaxed)
}

/// Whether native coroutines are used again.
#[inline]
pub fn of_coroutines() -> bool {
    cfg!(not(Py_GIL_DISABLED)) && COROUTINES_ON.load(Ordering::Relaxed)
}
