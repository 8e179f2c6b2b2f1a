//! `contextvars.Context`, and how a loop makes one for each callback without making many.

use std::sync::OnceLock;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::python::cell::LoopCell;
use crate::python::refs::Ref;
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
        if let Some(vars) = current_vars() {
            let known = cell.with(|it| {
                let template = it.template.as_ref()?;
                (vars_of(template.as_ptr())? == vars).then(|| template.clone())
            });
            if let Some(template) = known {
                return Ok(template);
            }
        }
        let template = copy_current()?;
        let old = cell.with(|it| it.template.replace(template.clone()));
        drop(old);
        Ok(template)
    }

    /// A context with the variables of `template` that nobody else uses.
    #[inline]
    pub fn lease(cell: &LoopCell<Self>, template: &Ref) -> FfiResult<Ref> {
        let spare = cell.with(|it| it.spare.take());
        if let Some(spare) = spare {
            let vars = vars_of(spare.as_ptr());
            if vars.is_some() && vars == vars_of(template.as_ptr()) {
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
            let old = cell.with(|it| it.spare.replace(context));
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

/// Where CPython keeps the current context and the variables of a context, in bytes from the start of the thread state
/// and of the context. There is no call to ask whether two contexts have the same variables, but they are kept in one
/// immutable map, so that comparing the pointers tells.
struct Layout {
    current: usize,
    vars: usize,
}

static LAYOUT: OnceLock<Option<Layout>> = OnceLock::new();

/// Finds out the layout by looking at contexts that are known to differ. If this Python does not show what is expected,
/// every callback gets a copy of its own at once.
pub fn probe(py: Python<'_>) -> PyResult<()> {
    if LAYOUT.get().is_none() {
        let layout = find_layout(py)?;
        // A second import finds the layout set.
        let _ = LAYOUT.set(layout);
    }
    Ok(())
}

fn find_layout(py: Python<'_>) -> PyResult<Option<Layout>> {
    /// How far into the thread state the search goes; it is longer than that in every supported version.
    const THREAD_STATE_BYTES: usize = 256;
    const WORD: usize = size_of::<usize>();

    let variable = py
        .import("contextvars")?
        .getattr("ContextVar")?
        .call1(("probe",))?;
    let set = |context: &Ref, value: usize| -> PyResult<()> {
        let set = variable.getattr("set")?;
        context.bind(py).call_method1("run", (set, value))?;
        Ok(())
    };
    // SAFETY: attached; a new reference or an error.
    let new = || unsafe { Ref::new(ffi::PyContext_New()) };
    let (one, empty) = (new()?, new()?);
    set(&one, 1)?;
    let same = copy(&one)?;
    let changed = copy(&one)?;
    set(&changed, 2)?;

    // SAFETY: the words of a context, up to the size of its type.
    let size = unsafe { (*ffi::Py_TYPE(one.as_ptr())).tp_basicsize.unsigned_abs() };
    // SAFETY: the offset is within the object.
    let word = |object: &Ref, offset: usize| unsafe { read_word(object.as_ptr().cast(), offset) };
    let vars: Vec<_> = (size_of::<PyObject>()..size)
        .step_by(WORD)
        .filter(|&at| {
            let found = word(&one, at);
            found != 0
                && found == word(&same, at)
                && found != word(&changed, at)
                && found != word(&empty, at)
        })
        .collect();

    // SAFETY: the state of this thread, which is attached.
    let state = unsafe { ffi::PyThreadState_Get() }.cast::<u8>();
    let find = |wanted: &Ref| -> Vec<usize> {
        (0..THREAD_STATE_BYTES)
            .step_by(WORD)
            // SAFETY: the offset is within the thread state.
            .filter(|&at| unsafe { read_word(state, at) } == wanted.as_ptr() as usize)
            .collect()
    };
    // SAFETY: the contexts are live.
    let (inside, in_other) = unsafe {
        (
            run_in(one.as_ptr(), || Ok(find(&one)))?,
            run_in(empty.as_ptr(), || Ok(find(&empty)))?,
        )
    };
    // In one place only, and gone when the context is left.
    Ok(match (&*vars, &*inside, &*find(&one)) {
        (&[vars], &[current], []) if in_other == [current] => Some(Layout { current, vars }),
        _ => None,
    })
}

unsafe fn read_word(base: *const u8, offset: usize) -> usize {
    // SAFETY: the caller's offset is within the object, and objects are aligned to words.
    unsafe { base.add(offset).cast::<usize>().read_unaligned() }
}

/// The variables of the current context; `None` if there is no context yet, or if that can't be told.
#[inline]
fn current_vars() -> Option<usize> {
    let layout = LAYOUT.get()?.as_ref()?;
    // SAFETY: attached; the layout was found in this interpreter.
    unsafe {
        let state = ffi::PyThreadState_Get().cast::<u8>();
        let current = read_word(state, layout.current) as *const u8;
        (!current.is_null()).then(|| read_word(current, layout.vars))
    }
}

/// The variables of a context.
#[inline]
fn vars_of(context: *mut PyObject) -> Option<usize> {
    let layout = LAYOUT.get()?.as_ref()?;
    // SAFETY: a live context; the layout was found in this interpreter.
    Some(unsafe { read_word(context.cast(), layout.vars) })
}
