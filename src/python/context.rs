//! `contextvars.Context`, and contexts that the callbacks of a loop share.

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::python::cell::LoopCell;
use crate::python::greenlet::Greenlets;
use crate::python::refs::Ref;
use crate::python::unstable::context_vars;
use crate::python::vectorcall::{ErrSet, FfiResult};

/// `contextvars.copy_context()`.
#[inline]
pub fn copy_current() -> FfiResult<Ref> {
    // SAFETY: code of this folder runs in attached threads. The result is a new reference, or null after an error.
    unsafe { Ref::new(ffi::PyContext_CopyCurrent()) }
}

/// `context`, or a copy of the current context if that is `None`.
///
/// # Safety
/// The argument is live.
pub unsafe fn given_or_copy(context: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: the caller guarantees that `context` is live.
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
    // SAFETY: the holder of a `Ref` is attached, and its object is live. CPython checks that it is a context.
    unsafe { Ref::new(ffi::PyContext_Copy(context.as_ptr())) }
}

/// Runs `body` inside `context`, as `context.run` does. An exception of `body` stays set after the context is left.
///
/// # Safety
/// `context` is live for the whole call.
#[inline]
pub unsafe fn run_in<T>(
    context: *mut PyObject,
    body: impl FnOnce() -> FfiResult<T>,
) -> FfiResult<T> {
    // SAFETY: the caller guarantees a live object. CPython checks that it is a context.
    if unsafe { ffi::PyContext_Enter(context) } != 0 {
        return Err(ErrSet);
    }
    let result = body();
    if let Ok(value) = result {
        // SAFETY: the caller guarantees a live object, which this thread has entered above.
        if unsafe { ffi::PyContext_Exit(context) } != 0 {
            return Err(ErrSet);
        }
        return Ok(value);
    }
    leave_with_error(context);
    result
}

#[cold]
fn leave_with_error(context: *mut PyObject) {
    // SAFETY: `run_in` calls this in an attached thread.
    let py = unsafe { Python::assume_attached() };
    let error = PyErr::fetch(py);
    // SAFETY: the caller of `run_in` guarantees a live context, which `run_in` has entered.
    if unsafe { ffi::PyContext_Exit(context) } != 0 {
        PyErr::fetch(py).write_unraisable(py, None);
    }
    error.restore(py);
}

/// Leaves the contexts that `greenlet`, the running one, has entered since `base`, and returns them, the innermost first: others
/// can enter them until [`enter`].
pub fn leave(greenlets: &Greenlets, greenlet: &Ref, base: &Ref) -> FfiResult<Vec<Ref>> {
    let mut left = Vec::new();
    loop {
        let current = greenlets.context_of(greenlet)?;
        // SAFETY: `None` is always live.
        let none = unsafe { ffi::Py_None() };
        if current.as_ptr() == base.as_ptr() || current.as_ptr() == none {
            return Ok(left);
        }
        // A context that is current but was not entered cannot be left: it is the last one.
        // SAFETY: the thread is attached and the object is live. CPython checks that it is a context.
        if unsafe { ffi::PyContext_Exit(current.as_ptr()) } != 0 {
            // SAFETY: the exception of the call is set.
            unsafe { ffi::PyErr_Clear() };
            return Ok(left);
        }
        left.push(current);
    }
}

/// Enters what [`leave`] has left.
pub fn enter(left: &[Ref]) -> FfiResult<()> {
    for context in left.iter().rev() {
        // SAFETY: the thread is attached and the object is live. CPython checks that it is a context.
        if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
            return Err(ErrSet);
        }
    }
    Ok(())
}

/// The contexts of callbacks that were scheduled without one.
///
/// asyncio copies the current context for each of them. Here they share one copy, the template, while the variables of the
/// current context are the same. Each callback runs in its own copy. If the callback has not changed that copy, and no other
/// code holds it, the next callback reuses it. Callbacks see the same variables, but a burst of 100,000 makes two contexts
/// instead of 100,000.
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
            // SAFETY: the closure compares pointers and counts a reference, so it runs no Python code and no destructor.
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

    /// A context with the variables of `template` that no other code uses.
    #[inline]
    pub fn lease(cell: &LoopCell<Self>, template: &Ref) -> FfiResult<Ref> {
        // SAFETY: the closure only moves a reference, so it runs no Python code and no destructor.
        let spare = unsafe { cell.with_leaf(|contexts| contexts.spare.take()) };
        if let Some(spare) = spare {
            let vars = context_vars::of(&spare);
            if vars.is_some() && vars == context_vars::of(template) {
                return Ok(spare);
            }
        }
        copy(template)
    }

    /// Returns a leased context after its callback has run.
    #[inline]
    pub fn give_back(cell: &LoopCell<Self>, context: Ref) {
        // Free-threaded builds split the reference count, so it does not show whether the context is shared.
        // SAFETY: `context` holds the object.
        if !cfg!(Py_GIL_DISABLED) && unsafe { ffi::Py_REFCNT(context.as_ptr()) } == 1 {
            // SAFETY: the closure only moves a reference, so it runs no Python code and no destructor.
            let old = unsafe { cell.with_leaf(|contexts| contexts.spare.replace(context)) };
            drop(old);
        }
    }

    /// Takes all stored contexts, for the caller to drop: a sleeping loop must not keep values of variables alive.
    pub fn take_all(cell: &LoopCell<Self>) -> impl Sized {
        cell.take()
    }

    /// All stored contexts, for the garbage collector.
    pub fn iter(&self) -> impl Iterator<Item = &Ref> {
        self.template.iter().chain(&self.spare)
    }
}
