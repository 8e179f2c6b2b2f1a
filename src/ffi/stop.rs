//! `StopIteration` with a value: how an iterator's result reaches `await` since Python 3.12.

#[cfg(all(Py_3_12, not(Py_GIL_DISABLED)))]
use pyo3::ffi;
#[cfg(not(all(Py_3_12, not(Py_GIL_DISABLED))))]
use pyo3::prelude::*;

use super::fastcall::Raised;
use super::refs::Ref;

/// Sets `StopIteration(value)`.
///
/// What `await` does with it is to take the value out and drop it, so one exception object serves all of them, unless
/// somebody kept it. Between two uses it holds no value: [`release_stop`] takes it out.
#[cfg(all(Py_3_12, not(Py_GIL_DISABLED)))]
pub fn raise_stop(value: Ref) -> Raised {
    // SAFETY: attached; `None` is always live.
    if value.as_ptr() == unsafe { ffi::Py_None() } {
        // The end of an iterator without an exception stands for None.
        return Raised;
    }
    let stop = match spare::take() {
        Some(stop) => stop,
        None => match spare::make() {
            Ok(stop) => stop,
            Err(raised) => return raised,
        },
    };
    spare::set_value(&stop, Some(value));
    spare::keep(stop.clone());
    // SAFETY: attached; takes over the reference.
    unsafe { ffi::PyErr_SetRaisedException(stop.into_ptr()) };
    Raised
}

/// Takes the value out of the exception that was last raised, when whoever awaited has it.
#[cfg(all(Py_3_12, not(Py_GIL_DISABLED)))]
#[inline]
pub fn release_stop() {
    spare::release();
}

#[cfg(not(all(Py_3_12, not(Py_GIL_DISABLED))))]
pub fn raise_stop(value: Ref) -> Raised {
    // SAFETY: attached.
    let py = unsafe { Python::assume_attached() };
    let value = value.bind(py).clone().unbind();
    pyo3::exceptions::PyStopIteration::new_err((value,)).into()
}

#[cfg(not(all(Py_3_12, not(Py_GIL_DISABLED))))]
pub fn release_stop() {}

#[cfg(all(Py_3_12, not(Py_GIL_DISABLED)))]
mod spare {
    use pyo3::exceptions::PyStopIteration;
    use pyo3::ffi::{self, PyStopIterationObject};
    use pyo3::prelude::*;

    use crate::ffi::{Local, Ref, Res};

    static SPARE: Local<Option<Ref>> = Local::new(None);

    pub fn make() -> Res<Ref> {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        Ok(Ref::from(py.get_type::<PyStopIteration>().call0()?))
    }

    /// The spare, if nobody else has it and it has not been through anything.
    pub fn take() -> Option<Ref> {
        let stop = SPARE.take()?;
        // SAFETY: an exact StopIteration.
        let clean = unsafe {
            let fields = stop.as_ptr().cast::<PyStopIterationObject>();
            ffi::Py_REFCNT(stop.as_ptr()) == 1
                && (*fields).traceback.is_null()
                && (*fields).context.is_null()
                && (*fields).cause.is_null()
                && (*fields).dict.is_null()
                && (*fields).notes.is_null()
        };
        clean.then_some(stop)
    }

    pub fn keep(stop: Ref) {
        drop(SPARE.replace(Some(stop)));
    }

    pub fn set_value(stop: &Ref, value: Option<Ref>) {
        // SAFETY: an exact StopIteration; its value is an owned reference or null.
        let old = unsafe {
            let field = &raw mut (*stop.as_ptr().cast::<PyStopIterationObject>()).value;
            let value = value.map_or(std::ptr::null_mut(), Ref::into_ptr);
            std::mem::replace(&mut *field, value)
        };
        // SAFETY: owned until now.
        unsafe { ffi::Py_XDECREF(old) };
    }

    #[inline]
    pub fn release() {
        let used = SPARE.with(|spare| {
            spare.as_ref().is_some_and(|stop| {
                // SAFETY: an exact StopIteration.
                !unsafe { (*stop.as_ptr().cast::<PyStopIterationObject>()).value }.is_null()
            })
        });
        if used {
            if let Some(stop) = take() {
                set_value(&stop, None);
                keep(stop);
            }
        }
    }
}
