//! `contextvars.Context`, and how a loop makes one for each callback without making many.

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::python::cell::LoopCell;
use crate::python::refs::Ref;
use crate::python::unstable::context_vars;
use crate::python::vectorcall::FfiResult;

/// `contextvars.copy_context()`.
#[inline]
pub fn copy_current() -> FfiResult<Ref> {
    // SAFETY: attached; returns a new reference or raises.
    unsafe { Ref::new(ffi::PyContext_CopyCurrent()) }
}

/// `context`, or a copy of the current context if that is `None`.
///
/// # Safety
/// The argument is live.
pub unsafe fn given_or_copy(context: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: the caller upholds it, and `None` is always live.
    unsafe {
        if context == ffi::Py_None() {
            copy_current()
        } else {
            Ok(Ref::borrowed(context))
        }
    }
}

/// `context.copy()`.
pub fn copy(context: &Ref) -> FfiResult<Ref> {
    // SAFETY: attached; raises TypeError for what is no context.
    unsafe { Ref::new(ffi::PyContext_Copy(context.as_ptr())) }
}

/// Runs `body` inside `context`, as `context.run` does. The error of the body survives leaving the context.
///
/// # Safety
/// `context` is live for the whole call.
#[inline]
pub unsafe fn run_in<T>(
    context: *mut PyObject,
    body: impl FnOnce() -> FfiResult<T>,
) -> FfiResult<T> {
    // SAFETY: the caller keeps the context alive; CPython checks that it is one.
    if unsafe { ffi::PyContext_Enter(context) } != 0 {
        return Err(crate::python::ErrSet);
    }
    let result = body();
    if let Ok(value) = result {
        // SAFETY: entered above, on this thread.
        if unsafe { ffi::PyContext_Exit(context) } != 0 {
            return Err(crate::python::ErrSet);
        }
        return Ok(value);
    }
    leave_with_error(context);
    result
}

#[cold]
fn leave_with_error(context: *mut PyObject) {
    // SAFETY: attached, and the context was entered by `run_in`.
    let py = unsafe { Python::assume_attached() };
    let error = PyErr::fetch(py);
    // SAFETY: as above.
    if unsafe { ffi::PyContext_Exit(context) } != 0 {
        PyErr::fetch(py).write_unraisable(py, None);
    }
    error.restore(py);
}

/// The contexts of callbacks that were scheduled without one.
///
/// asyncio copies the current context for each of them. Here they share one copy, the template, as long as the variables
/// of the current context are the same; each callback gets its own copy when it runs, and when it has left that as it
/// was, and nobody kept it, the next callback gets it. What callbacks see is the same, but a burst of 100,000 makes two
/// contexts, not 100,000.
#[derive(Default)]
pub struct Contexts {
    template: Option<Ref>,
    spare: Option<Ref>,
}

impl Contexts {
    /// A copy of the current context that must only be entered through [`Contexts::lease`].
    #[inline]
    pub fn template(cell: &LoopCell<Self>) -> FfiResult<Ref> {
        if let Some(vars) = context_vars::current() {
            // SAFETY: comparing pointers and counting a reference runs no other code.
            let known = unsafe {
                cell.with_leaf(|contexts| {
                    let template = contexts.template.as_ref()?;
                    (context_vars::of(template)? == vars).then(|| template.clone())
                })
            };
            if let Some(template) = known {
                return Ok(template);
            }
        }
        let template = copy_current()?;
        let old = cell.with(|contexts| contexts.template.replace(template.clone()));
        drop(old);
        Ok(template)
    }

    /// A context with the variables of `template` that nobody else uses.
    #[inline]
    pub fn lease(cell: &LoopCell<Self>, template: &Ref) -> FfiResult<Ref> {
        // SAFETY: moving a reference runs no other code.
        let spare = unsafe { cell.with_leaf(|contexts| contexts.spare.take()) };
        if let Some(spare) = spare {
            let vars = context_vars::of(&spare);
            if vars.is_some() && vars == context_vars::of(template) {
                return Ok(spare);
            }
        }
        copy(template)
    }

    /// Takes a leased context back after its callback has run.
    #[inline]
    pub fn give_back(cell: &LoopCell<Self>, context: Ref) {
        // Free-threaded builds split the count, so that it does not tell.
        // SAFETY: the context is live.
        if !cfg!(Py_GIL_DISABLED) && unsafe { ffi::Py_REFCNT(context.as_ptr()) } == 1 {
            // SAFETY: moving a reference runs no other code.
            let old = unsafe { cell.with_leaf(|contexts| contexts.spare.replace(context)) };
            drop(old);
        }
    }

    /// Everything kept, to be dropped: a loop that goes to sleep must not keep the values of variables alive.
    pub fn take_all(cell: &LoopCell<Self>) -> impl Sized {
        cell.with(std::mem::take)
    }

    /// Everything kept, for the collector.
    pub fn iter(&self) -> impl Iterator<Item = &Ref> {
        self.template.iter().chain(&self.spare)
    }
}
