//! Async generators of steps.

use std::cell::UnsafeCell;
use std::ffi::{c_void, CStr};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::{
    PyImportError, PyRuntimeError, PyStopAsyncIteration, PyStopIteration, PyTypeError,
};
use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;

use crate::awaitables::step::{Body, Checked, Stop};
use crate::python::coroutine::Step;
use crate::python::{ErrSet, FfiResult, LoopCell, Ref, SlotCell};

#[derive(Clone, Copy, PartialEq)]
pub enum State {
    /// Nothing was asked for.
    Fresh,
    Suspended,
    /// A call of `asend()` or a related method has begun and not ended.
    Running,
    Closed,
    /// Closed, because it has given an item after `GeneratorExit`.
    Ignored,
}

#[repr(C)]
pub struct Generator {
    ob_base: PyObject,
    pub weakrefs: *mut PyObject,
    pub name: &'static CStr,
    state: LoopCell<State>,
    /// The call that runs, borrowed: it holds the generator, and takes itself out.
    pub call: LoopCell<*const c_void>,
    /// Whether the first call has told the hook of the event loop.
    is_announced: LoopCell<bool>,
    /// The hook for one that is dropped before its end.
    pub finalizer: SlotCell<Ref>,
    body: UnsafeCell<Option<Body>>,
}

// SAFETY: only the thread whose call has set the state to `Running` uses the body, and the other fields are cells.
unsafe impl Sync for Generator {}

/// The class, made by [`generator_class`](super::generator_class).
pub static TYPE: AtomicPtr<PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// A new generator.
pub fn new(spec: Checked, name: &'static CStr) -> FfiResult<Ref> {
    let body = Body::new(spec)?;
    let ty = TYPE.load(Ordering::Relaxed);
    // SAFETY: the type was made at import. All fields are written before the object is tracked or returned.
    unsafe {
        let Some(alloc) = (*ty).tp_alloc else {
            return Err(PyImportError::new_err("generators cannot be allocated").into());
        };
        let object = Ref::new(alloc(ty, 0))?.into_ptr();
        ffi::PyObject_GC_UnTrack(object.cast());
        let this = object.cast::<Generator>();
        (&raw mut (*this).weakrefs).write(ptr::null_mut());
        (&raw mut (*this).name).write(name);
        (&raw mut (*this).state).write(LoopCell::new(State::Fresh));
        (&raw mut (*this).call).write(LoopCell::new(ptr::null()));
        (&raw mut (*this).is_announced).write(LoopCell::new(false));
        (&raw mut (*this).finalizer).write(SlotCell::new(None));
        (&raw mut (*this).body).write(UnsafeCell::new(Some(body)));
        ffi::PyObject_GC_Track(object.cast());
        Ref::new(object)
    }
}

/// The generator of an object.
///
/// # Safety
/// `object` is a live generator of this class.
pub unsafe fn of<'a>(object: *mut PyObject) -> &'a Generator {
    // SAFETY: the caller guarantees it.
    unsafe { &*object.cast::<Generator>() }
}

/// What a call has brought.
pub enum Brought {
    Step(Step),
    Item(Ref),
    /// The generator has ended.
    End,
}

impl Generator {
    /// The state of the program.
    pub fn user_state(&self) -> *mut c_void {
        self.body().map_or(ptr::null_mut(), Body::state)
    }

    pub fn body(&self) -> Option<&Body> {
        // SAFETY: only `close` changes the value, which the call that runs does at its end.
        unsafe { (*self.body.get()).as_ref() }
    }

    pub fn state(&self) -> State {
        self.state.get()
    }

    /// Drops what is left in a generator that is being deallocated.
    ///
    /// # Safety
    /// Nobody uses the generator any more.
    pub unsafe fn drop_fields(object: *mut PyObject) {
        // SAFETY: the caller guarantees it; the body is dropped already.
        unsafe { ptr::drop_in_place(&raw mut (*object.cast::<Self>()).finalizer) };
    }

    /// Begins a call. Returns the state before.
    ///
    /// # Errors
    /// `RuntimeError` if another call runs.
    pub fn begin(&self, method: &str, call: *const c_void) -> FfiResult<State> {
        let before = self.state.with(|state| match *state {
            State::Fresh | State::Suspended => std::mem::replace(state, State::Running),
            other => other,
        });
        match before {
            State::Running => Err(PyRuntimeError::new_err(format!(
                "{method}(): asynchronous generator is already running"
            ))
            .into()),
            State::Closed | State::Ignored => Ok(before),
            State::Fresh | State::Suspended => {
                self.call.replace(call);
                Ok(before)
            }
        }
    }

    /// The first call has ended before it did anything.
    pub fn unbegin(&self) {
        self.call.replace(ptr::null());
        self.state.replace(State::Fresh);
    }

    /// The call that runs ends, and the generator waits for the next one.
    fn pause(&self) {
        self.call.replace(ptr::null());
        self.state.replace(State::Suspended);
    }

    /// The generator ends. An exception that is set stays. The call that runs, or the deallocator, calls this.
    pub fn close(&self) {
        // SAFETY: coroutines end in attached threads.
        let py = unsafe { Python::assume_attached() };
        let error = PyErr::take(py);
        self.call.replace(ptr::null());
        // SAFETY: the caller has no reference to the body any more.
        let body = unsafe { (*self.body.get()).take() };
        self.state.replace(State::Closed);
        drop(body);
        if let Some(error) = error {
            error.restore(py);
        }
    }

    /// The generator has ignored `GeneratorExit`. An exception that is set stays.
    pub fn close_ignoring(&self) {
        self.close();
        self.state.replace(State::Ignored);
    }

    /// Runs the body until it gives an item, waits or ends. `slf` is this generator, whose call runs.
    pub fn run(&self, slf: *mut PyObject, outcome: FfiResult<Ref>) -> FfiResult<Brought> {
        let Some(body) = self.body() else {
            return outcome.map(|_| Brought::End);
        };
        match body.run(slf, outcome) {
            Ok(Stop::Item(item)) => {
                self.pause();
                Ok(Brought::Item(item))
            }
            Ok(Stop::Step(Step::Done(value))) => {
                self.close();
                // SAFETY: `None` is always live.
                if value.as_ptr() != unsafe { ffi::Py_None() } {
                    let text = "an async generator cannot return a value";
                    return Err(PyTypeError::new_err(text).into());
                }
                Ok(Brought::End)
            }
            Ok(Stop::Step(step)) => Ok(Brought::Step(step)),
            Err(ErrSet) => {
                self.close();
                Err(replace_stop())
            }
        }
    }

    /// Tells the hook of the event loop of a generator that begins.
    pub fn announce(&self, slf: &Ref) -> FfiResult<()> {
        if self.is_announced.replace(true) {
            return Ok(());
        }
        // SAFETY: the holder of a `Ref` is attached.
        let py = unsafe { Python::assume_attached() };
        let hooks = py.import("sys")?.getattr("get_asyncgen_hooks")?.call0()?;
        let finalizer = hooks.getattr("finalizer")?;
        if !finalizer.is_none() {
            drop(self.finalizer.replace(Some(finalizer.into())));
        }
        let first = hooks.getattr("firstiter")?;
        if !first.is_none() {
            first.call1((slf.bind(py),))?;
        }
        Ok(())
    }
}

/// A `StopIteration` or `StopAsyncIteration` of the body becomes a `RuntimeError`.
#[cold]
fn replace_stop() -> ErrSet {
    // SAFETY: coroutines run in attached threads.
    let py = unsafe { Python::assume_attached() };
    let error = PyErr::fetch(py);
    let kind = if error.is_instance_of::<PyStopIteration>(py) {
        "StopIteration"
    } else if error.is_instance_of::<PyStopAsyncIteration>(py) {
        "StopAsyncIteration"
    } else {
        return error.into();
    };
    let text = format!("async generator raised {kind}");
    let instead = PyRuntimeError::new_err(text);
    instead.set_cause(py, Some(error));
    instead.into()
}
