//! *Setter of a future's flag*: `_asyncio.Future._asyncio_future_blocking`, which a coroutine sets on the future that it waits
//! for, is set by the C function of its descriptor.
//!
//! * Reads: `PyGetSetDescrObject.d_getset`. The structure is in the public headers, and not documented.
//! * Pythons: 3.11 to 3.15.
//! * Probe: the attribute is an exact `types.GetSetDescriptorType` with a setter.
//! * Otherwise: the attribute is set by its name.

use std::ffi::c_void;
use std::sync::OnceLock;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

pub const NAME: &str = "future_blocking";

struct Setter {
    class: *mut PyObject,
    set: ffi::setter,
    closure: *mut c_void,
}

// SAFETY: the class is immortal for this module, and the closure of an attribute is constant.
unsafe impl Send for Setter {}
// SAFETY: nothing is changed after it was made.
unsafe impl Sync for Setter {}

static SETTER: OnceLock<Option<Setter>> = OnceLock::new();

pub fn init(py: Python<'_>) {
    if SETTER.get().is_none() {
        let setter = if super::is_allowed(py, NAME) {
            find(py).unwrap_or_default()
        } else {
            None
        };
        // A second import finds it set.
        let _ = SETTER.set(setter);
    }
}

pub fn is_on() -> bool {
    SETTER.get().is_some_and(Option::is_some)
}

fn find(py: Python<'_>) -> PyResult<Option<Setter>> {
    let class = py.import("_asyncio")?.getattr("Future")?;
    let descriptor = class
        .getattr("__dict__")?
        .get_item("_asyncio_future_blocking")?;
    let kind = py.import("types")?.getattr("GetSetDescriptorType")?;
    if !descriptor.get_type().is(&kind) {
        return Ok(None);
    }
    // SAFETY: the descriptor is of this type, as was checked, and lives as long as its class.
    let (set, closure) = unsafe {
        let attribute = (*descriptor.as_ptr().cast::<ffi::PyGetSetDescrObject>()).d_getset;
        ((*attribute).set, (*attribute).closure)
    };
    Ok(set.map(|set| Setter {
        // Never given back, so that the pointer stays valid.
        class: class.into_ptr(),
        set,
        closure,
    }))
}

/// `future._asyncio_future_blocking = True`: what the C function returns; `None` if it is not to be called.
///
/// # Safety
/// Attached; `future` is live.
#[inline]
pub unsafe fn set(future: *mut PyObject) -> Option<std::ffi::c_int> {
    let setter = SETTER.get()?.as_ref()?;
    // SAFETY: the future is live and exactly of the class that the setter is for.
    unsafe {
        std::ptr::eq(ffi::Py_TYPE(future).cast(), setter.class)
            .then(|| (setter.set)(future, ffi::Py_True(), setter.closure))
    }
}
