//! *Variables of a context*: a `contextvars.Context` keeps its variables in one immutable map, so two contexts have the same
//! variables if their pointers to it are equal. No public function compares that.
//!
//! * Reads: the word of the thread state that points to the current context, and the word of a context that points to its map.
//! * Pythons: 3.11 to 3.15.
//! * Probe: at import both words are searched for in contexts that are known to differ and to agree; each must be found in
//!   exactly one place.
//! * Otherwise: each callback gets a copy of the context when it is scheduled, as in asyncio.

use std::sync::OnceLock;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::python::context::{copy, run_in};
use crate::python::refs::Ref;

pub const NAME: &str = "context_vars";

/// How far into the thread state the search goes; it is longer than that on every supported Python.
const THREAD_STATE_BYTES: usize = 256;
const WORD: usize = size_of::<usize>();

/// Offsets in bytes from the start of the thread state and of the context.
struct Layout {
    current: usize,
    vars: usize,
}

static LAYOUT: OnceLock<Option<Layout>> = OnceLock::new();

pub fn init(py: Python<'_>) -> PyResult<()> {
    if LAYOUT.get().is_none() {
        let layout = if super::is_allowed(py, NAME) {
            probe(py)?
        } else {
            None
        };
        // A second import finds the layout set.
        let _ = LAYOUT.set(layout);
    }
    Ok(())
}

pub fn is_on() -> bool {
    LAYOUT.get().is_some_and(Option::is_some)
}

fn probe(py: Python<'_>) -> PyResult<Option<Layout>> {
    let variable = py
        .import("contextvars")?
        .getattr("ContextVar")?
        .call1(("probe",))?;
    let set = |context: &Ref, value: usize| -> PyResult<()> {
        let set = variable.getattr("set")?;
        context.bind(py).call_method1("run", (set, value))?;
        Ok(())
    };
    // SAFETY: `py` proves that the thread is attached. The result is a new reference, or null after an error.
    let new = || unsafe { Ref::new(ffi::PyContext_New()) };
    let (one, empty) = (new()?, new()?);
    set(&one, 1)?;
    let same = copy(&one)?;
    let changed = copy(&one)?;
    set(&changed, 2)?;

    // SAFETY: `one` holds the object, which keeps its type alive.
    let size = unsafe { (*ffi::Py_TYPE(one.as_ptr())).tp_basicsize.unsigned_abs() };
    // SAFETY: the offsets below are less than `size`, the size of the object.
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

    // SAFETY: `py` proves that the thread is attached, so it has a thread state.
    let state = unsafe { ffi::PyThreadState_Get() }.cast::<u8>();
    let find = |wanted: &Ref| -> Vec<usize> {
        (0..THREAD_STATE_BYTES)
            .step_by(WORD)
            // SAFETY: the thread state is longer than `THREAD_STATE_BYTES` on every supported Python.
            .filter(|&at| unsafe { read_word(state, at) } == wanted.as_ptr() as usize)
            .collect()
    };
    // SAFETY: `one` and `empty` hold both contexts.
    let (inside, in_other) = unsafe {
        (
            run_in(one.as_ptr(), || Ok(find(&one)))?,
            run_in(empty.as_ptr(), || Ok(find(&empty)))?,
        )
    };
    // Each is found at one offset only, and not after the context is left.
    Ok(match (&*vars, &*inside, &*find(&one)) {
        (&[vars], &[current], []) if in_other == [current] => Some(Layout { current, vars }),
        _ => None,
    })
}

/// # Safety
/// `offset` is within the object at `base`.
unsafe fn read_word(base: *const u8, offset: usize) -> usize {
    // SAFETY: the caller guarantees that `offset` is within the object at `base`.
    unsafe { base.add(offset).cast::<usize>().read_unaligned() }
}

/// The map of the current context; `None` if there is no context yet, or if the optimisation is off.
#[inline]
pub fn current() -> Option<usize> {
    let layout = LAYOUT.get()?.as_ref()?;
    // SAFETY: code of this folder runs in attached threads, which have a thread state. The probe has found the offsets in it.
    unsafe {
        let state = ffi::PyThreadState_Get().cast::<u8>();
        let current = read_word(state, layout.current) as *const u8;
        (!current.is_null()).then(|| read_word(current, layout.vars))
    }
}

/// The map of a context; `None` if the optimisation is off.
#[inline]
pub fn of(context: &Ref) -> Option<usize> {
    let layout = LAYOUT.get()?.as_ref()?;
    // SAFETY: the callers pass contexts only, and the probe has found the offset in contexts.
    Some(unsafe { read_word(context.as_ptr().cast(), layout.vars) })
}
