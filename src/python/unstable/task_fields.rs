//! *Fields of a task*: `_asyncio.Task` keeps the future that a task waits for, and whether `cancel()` is still to be delivered.
//! Python can read both (`_fut_waiter`, `_must_cancel`) and set none. An ordinary function that waits in a task
//! (`hybridloop.await_()`) sets them as the task itself does, so that `cancel()` reaches it.
//!
//! * Reads and writes: the pointer to the future, and the bit of the flag.
//! * Pythons: 3.11 to 3.15.
//! * Probe: when `hybridloop.sync` is imported, on tasks made for it. A pending task contains the pointer exactly once. The bit is
//!   the only one that the first `cancel()` sets and the second does not change. Both are changed and read by the attributes.
//! * Otherwise: an ordinary function cannot wait in tasks of this class, only in those of Python and in callbacks.

use std::ffi::c_int;
use std::sync::OnceLock;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::python::refs::Ref;

pub const NAME: &str = "task_fields";

const WORD: usize = size_of::<usize>();

struct Layout {
    class: Ref,
    /// The offset in bytes of the pointer to the future.
    waiter: usize,
    /// The offset of the byte with the flag, and its bit.
    must_cancel: (usize, u8),
}

static LAYOUT: OnceLock<Option<Layout>> = OnceLock::new();

/// Whether the optimisation is on. It is `None` before the probe, which needs tasks: `hybridloop.sync` makes them.
pub fn is_on() -> Option<bool> {
    LAYOUT.get().map(Option::is_some)
}

/// Probe the optimisation with tasks of exactly `_asyncio.Task`: one that waits for `future`, and one that has not begun, which is
/// cancelled. Returns whether the optimisation is on.
#[pyfunction]
pub fn _probe_task_fields(
    task: &Bound<'_, PyAny>,
    future: &Bound<'_, PyAny>,
    fresh: &Bound<'_, PyAny>,
) -> PyResult<bool> {
    let py = task.py();
    if LAYOUT.get().is_none() {
        let layout = if super::is_allowed(py, NAME) && !cfg!(Py_GIL_DISABLED) {
            probe(task, future, fresh)?
        } else {
            None
        };
        // Another thread may have been faster.
        let _ = LAYOUT.set(layout);
    }
    Ok(is_on() == Some(true))
}

fn probe(
    task: &Bound<'_, PyAny>,
    future: &Bound<'_, PyAny>,
    fresh: &Bound<'_, PyAny>,
) -> PyResult<Option<Layout>> {
    let py = task.py();
    let class = py.import("_asyncio")?.getattr("Task")?;
    if !task.get_type().is(&class) || !fresh.get_type().is(&class) {
        return Ok(None);
    }
    let size: usize = class.getattr("__basicsize__")?.extract()?;
    let image = |task: &Bound<'_, PyAny>| -> Vec<u8> {
        // SAFETY: the object is live and has `size` bytes, all of which were written when it was made.
        unsafe { std::slice::from_raw_parts(task.as_ptr().cast::<u8>(), size).to_vec() }
    };
    let word = |image: &[u8], at: usize| {
        let mut word = [0; WORD];
        word.copy_from_slice(&image[at..at + WORD]);
        usize::from_ne_bytes(word)
    };
    let words = || (size_of::<PyObject>()..=size - WORD).step_by(WORD);
    let before = image(task);
    let found: Vec<_> = words()
        .filter(|&at| word(&before, at) == future.as_ptr() as usize)
        .collect();
    let &[waiter] = &*found else {
        return Ok(None);
    };
    let message = pyo3::types::PyString::new(py, "hybridloop probes tasks");
    let fresh_image = image(fresh);
    fresh.call_method1("cancel", (&message,))?;
    let once = image(fresh);
    fresh.call_method1("cancel", (&message,))?;
    let twice = image(fresh);
    let pointer = message.as_ptr() as usize;
    let bits: Vec<_> = words()
        .filter(|&at| word(&once, at) != pointer)
        .flat_map(|at| at..at + WORD)
        .flat_map(|at| (0..8).map(move |bit| (at, 1_u8 << bit)))
        .filter(|&(at, bit)| {
            fresh_image[at] & bit == 0 && once[at] & bit != 0 && twice[at] & bit != 0
        })
        .collect();
    let &[must_cancel] = &*bits else {
        return Ok(None);
    };
    let layout = Layout {
        class: class.into(),
        waiter,
        must_cancel,
    };
    // Change both, and look through the attributes.
    // SAFETY: both tasks are live objects of the class, and the offsets are within them.
    let works = unsafe {
        let must_cancel = |task: &Bound<'_, PyAny>| task.getattr("_must_cancel")?.is_truthy();
        let was_set = must_cancel(fresh)?;
        layout.set_must_cancel(fresh.as_ptr(), false);
        let is_clear = !must_cancel(fresh)?;
        layout.set_must_cancel(fresh.as_ptr(), true);
        let is_set = must_cancel(fresh)?;
        layout.set_waiter(fresh.as_ptr(), future.as_ptr());
        let waits = fresh.getattr("_fut_waiter")?.is(future);
        layout.set_waiter(fresh.as_ptr(), std::ptr::null_mut());
        was_set && is_clear && is_set && waits && fresh.getattr("_fut_waiter")?.is_none()
    };
    Ok(works.then_some(layout))
}

impl Layout {
    /// # Safety
    /// `task` is a live object of the class or of a subclass, `future` is live or null, and the thread is attached.
    unsafe fn set_waiter(&self, task: *mut PyObject, future: *mut PyObject) {
        // SAFETY: the caller guarantees live objects. The word holds a reference that the task owns, or null.
        unsafe {
            ffi::Py_XINCREF(future);
            let word = task.byte_add(self.waiter).cast::<*mut PyObject>();
            let old = word.replace(future);
            ffi::Py_XDECREF(old);
        }
    }

    /// # Safety
    /// `task` is a live object of the class or of a subclass, and the thread is attached.
    unsafe fn set_must_cancel(&self, task: *mut PyObject, value: bool) {
        let (at, bit) = self.must_cancel;
        // SAFETY: the caller guarantees a live object, which has this byte.
        unsafe {
            let byte = task.cast::<u8>().add(at);
            *byte = if value { *byte | bit } else { *byte & !bit };
        }
    }
}

fn of(task: &Bound<'_, PyAny>) -> PyResult<&'static Layout> {
    let Some(layout) = LAYOUT.get().and_then(Option::as_ref) else {
        return Err(PyRuntimeError::new_err("the layout of tasks is not known"));
    };
    // SAFETY: both objects are live.
    let is_task: c_int =
        unsafe { ffi::PyObject_TypeCheck(task.as_ptr(), layout.class.as_ptr().cast()) };
    if is_task == 0 {
        return Err(PyTypeError::new_err("not a task of _asyncio"));
    }
    Ok(layout)
}

/// Sets the future that a task waits for, or `None`. Returns false if it is no task of `_asyncio`.
pub fn try_set_waiter(task: &Bound<'_, PyAny>, future: &Bound<'_, PyAny>) -> bool {
    let Some(layout) = LAYOUT.get().and_then(Option::as_ref) else {
        return false;
    };
    let future = if future.is_none() {
        std::ptr::null_mut()
    } else {
        future.as_ptr()
    };
    // SAFETY: all objects are live during the call, and the class is checked before the field is set.
    unsafe {
        let is_task = ffi::PyObject_TypeCheck(task.as_ptr(), layout.class.as_ptr().cast()) != 0;
        if is_task {
            layout.set_waiter(task.as_ptr(), future);
        }
        is_task
    }
}

/// Set whether a cancellation of a task of `_asyncio` is still to be delivered.
#[pyfunction]
pub fn _set_task_must_cancel(task: &Bound<'_, PyAny>, value: bool) -> PyResult<()> {
    // SAFETY: `of` has checked the class, and the object is live during the call.
    unsafe { of(task)?.set_must_cancel(task.as_ptr(), value) };
    Ok(())
}
