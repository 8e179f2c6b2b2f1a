//! Native coroutines: awaitable objects without a Python frame.
//!
//! An [`Operation`] is the body. [`new`] wraps one into an object that is a `collections.abc.Coroutine`, so that `await`,
//! `create_task()`, `wait_for()` and `gather()` accept it. A call that finishes at once makes no frame and no future, and
//! mostly allocates nothing else.
//!
//! How to use it: implement [`Operation`] for the state of one call, with a `static` [`Class`] of its own; call [`Class::init`]
//! at import; return `coroutine::new(operation, c"Owner.method")` from the method. Then:
//!
//! * the first `send(None)` runs [`Operation::step`]. [`Step::Done`] ends the coroutine with a value, an error ends it with the
//!   exception that is set;
//! * [`Step::Wait`] suspends it on an asyncio future (any object with `_asyncio_future_blocking`). When that is done with a
//!   result, `step` runs again and checks its state. Waiting for the same future twice is an error, as in asyncio: make a new
//!   one;
//! * [`Step::Yield`] suspends it for one iteration of the loop, as `sleep(0)` does;
//! * [`Step::Await`] awaits an object: `send()`, `throw()` and `close()` go to its iterator until it ends. Only operations
//!   with [`Operation::AWAITS`] may return it; [`delegation`] is their code, which the others do without;
//! * an exception that is thrown in (the future's own, a cancellation, `close()`), and the end of a coroutine that was dropped
//!   while it waited, run [`Operation::abandon`], which undoes the registrations of `step`; then the coroutine ends;
//! * the operation is dropped as soon as the coroutine ends.
//!
//! An operation that awaits gets everything that resumes it by [`Operation::resumed`]: the result of the await, or its
//! exception, which need not end the coroutine.
//!
//! `step` takes `&self`: it may run Python, and the collector may then traverse the operation, so its state is in cells. It is
//! never called while it runs.

mod delegation;
mod slots;
mod thrown;
mod view;
mod wrapper;

use std::cell::UnsafeCell;
use std::ffi::{c_int, CStr};
use std::mem::size_of;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::{PyImportError, PyRuntimeError, PyStopIteration, PyTypeError, PyValueError};
use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;

use crate::python::cell::{LoopCell, SlotCell};
use crate::python::nested_drop;
use crate::python::refs::Ref;

use crate::python::vectorcall::{ErrSet, FfiResult};
pub use thrown::{check_count as check_throw, exception as thrown_exception};
pub use view::{code_of, frame_of, last_part};
pub use wrapper::CoroutineWrapper;

/// The result of one step of an operation.
pub enum Step {
    /// The coroutine returns this value.
    Done(Ref),
    /// The coroutine resumes when this future is done.
    Wait(Ref),
    /// The coroutine resumes in the next iteration of the loop.
    Yield,
    /// The coroutine resumes when this iterator has ended, as [`awaitable::iterator`](super::awaitable::iterator) makes it.
    Await(Ref),
}

/// Visits one object, for the garbage collector. `traverse` returns its result if that is not 0.
pub type Visit<'a> = &'a mut dyn FnMut(&Ref) -> c_int;

/// The kind of the Python object.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// A coroutine, which can be awaited once.
    Coroutine,
    /// The iterator that `__await__()` of a future returns. It may be dropped before it is used, and after its end it raises
    /// `StopIteration`.
    Iterator,
}

/// The body of a native coroutine.
pub trait Operation: Sized + Send + 'static {
    const KIND: Kind = Kind::Coroutine;

    /// Whether the operation returns [`Step::Await`], and handles exceptions that are thrown in.
    const AWAITS: bool = false;

    /// The Python class of these coroutines.
    fn class() -> &'static Class;

    /// Runs until it is done or must wait. It may run Python.
    fn step(&self) -> FfiResult<Step>;

    /// Resumes an operation that [`AWAITS`](Self::AWAITS), instead of `step`: with the result of what was awaited, with `None`
    /// at the first step and after the other suspensions, or with the exception that is set. `slf` is the coroutine.
    fn resumed(&self, slf: *mut PyObject, outcome: FfiResult<Ref>) -> FfiResult<Step> {
        let _ = slf;
        outcome?;
        self.step()
    }

    /// Whether to warn if the coroutine is dropped before its first step.
    fn warns_if_never_awaited(&self) -> bool {
        true
    }

    /// The coroutine ends before it has returned or raised. An exception may be set, and must stay set.
    fn abandon(&self) {}

    /// Visits the objects of the operation, for the garbage collector.
    fn traverse(&self, visit: Visit<'_>) -> c_int;
}

/// The Python class of one kind of coroutine.
pub struct Class {
    ty: AtomicPtr<PyTypeObject>,
}

// In this order, so that one comparison tells which can run.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Fresh,
    /// Suspended until a future is done, or for one iteration.
    Waiting,
    /// Suspended in the iterator of an object that it awaits.
    Awaiting,
    Running,
    Finished,
}

impl State {
    fn is_suspended(self) -> bool {
        matches!(self, Self::Waiting | Self::Awaiting)
    }
}

#[repr(C)]
struct CoroutineObject<T> {
    ob_base: PyObject,
    weakrefs: *mut PyObject,
    name: &'static CStr,
    /// `Running`: one thread has exclusive use of the operation.
    state: LoopCell<State>,
    /// The future that the coroutine waits for, or the iterator that it is suspended in.
    future: SlotCell<Ref>,
    operation: UnsafeCell<Option<T>>,
}

impl Class {
    pub const fn new() -> Self {
        Self {
            ty: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The Python class, once it is made.
    pub fn as_ptr(&self) -> *mut PyTypeObject {
        self.ty.load(Ordering::Relaxed)
    }

    /// Makes the Python class, at import. `name` begins with the module.
    pub fn init<T: Operation>(&self, py: Python<'_>, name: &'static CStr) -> PyResult<()> {
        const { assert!(align_of::<CoroutineObject<T>>() <= 16) };
        if !self.ty.load(Ordering::Relaxed).is_null() {
            return Ok(());
        }
        let slots = slots::all::<T>();
        // SAFETY: `CoroutineObject` is `repr(C)` and begins with a `PyObject`, and the slots are for objects of this layout.
        let class = unsafe { slots.build(py, name, size_of::<CoroutineObject<T>>(), 0, None)? };
        let class = class.into_ptr().cast();
        // SAFETY: the type was just made of these slots, and no other code has it yet.
        unsafe { slots::set_iterator_slots::<T>(class) };
        self.ty.store(class, Ordering::Relaxed);
        Ok(())
    }
}

/// A coroutine that runs `operation`. `name` is its qualified name: `Owner.method`.
#[inline]
pub fn new<T: Operation>(operation: T, name: &'static CStr) -> FfiResult<Ref> {
    make(operation, name, State::Fresh)
}

/// A coroutine that is suspended already, as by [`Step::Yield`], so its end before it returns runs [`Operation::abandon`].
pub fn suspended<T: Operation>(operation: T, name: &'static CStr) -> FfiResult<Ref> {
    make(operation, name, State::Waiting)
}

#[inline]
fn make<T: Operation>(operation: T, name: &'static CStr, state: State) -> FfiResult<Ref> {
    let class = T::class();
    let ty = class.ty.load(Ordering::Relaxed);
    // SAFETY: the type was made at import. All fields are written before the object is tracked or returned.
    unsafe {
        let Some(alloc) = (*ty).tp_alloc else {
            return Err(PyImportError::new_err("coroutines cannot be allocated").into());
        };
        let object = Ref::new(alloc(ty, 0))?.into_ptr();
        ffi::PyObject_GC_UnTrack(object.cast());
        let this = object.cast::<CoroutineObject<T>>();
        (&raw mut (*this).weakrefs).write(ptr::null_mut());
        (&raw mut (*this).name).write(name);
        (&raw mut (*this).state).write(LoopCell::new(state));
        (&raw mut (*this).future).write(SlotCell::new(None));
        (&raw mut (*this).operation).write(UnsafeCell::new(Some(operation)));
        ffi::PyObject_GC_Track(object.cast());
        Ref::new(object)
    }
}

/// The operation of a coroutine that has not ended.
///
/// # Errors
/// `TypeError` if the object is no coroutine of `T`, `RuntimeError` if it has ended.
///
/// # Safety
/// `object` is live. The coroutine does not end while the result is used: it runs, or no Python code does.
pub unsafe fn operation<'a, T: Operation>(object: *mut PyObject) -> FfiResult<&'a T> {
    // SAFETY: the caller guarantees a live object, and the comparison that it is a coroutine of `T`.
    unsafe {
        if ffi::Py_TYPE(object) != T::class().ty.load(Ordering::Relaxed) {
            return Err(other_class(object));
        }
        of::<T>(object).operation().ok_or_else(ended)
    }
}

#[cold]
fn other_class(object: *mut PyObject) -> ErrSet {
    // SAFETY: the caller of `operation` guarantees a live object, and is attached.
    let kind = unsafe { Bound::from_borrowed_ptr(Python::assume_attached(), object).get_type() };
    let text = format!("expected a native coroutine, not {kind}");
    PyTypeError::new_err(text).into()
}

#[cold]
fn ended() -> ErrSet {
    PyRuntimeError::new_err("the coroutine has ended").into()
}

/// The coroutine of an object.
///
/// # Safety
/// `object` is a live coroutine of `T`.
unsafe fn of<'a, T>(object: *mut PyObject) -> &'a CoroutineObject<T> {
    // SAFETY: the caller guarantees a live coroutine of `T`.
    unsafe { &*object.cast::<CoroutineObject<T>>() }
}

/// The result of resuming a coroutine.
enum Resumed {
    Yielded(Ref),
    Returned(Ref),
}

impl<T: Operation> CoroutineObject<T> {
    fn operation(&self) -> Option<&T> {
        // SAFETY: only `take` changes the value, and only the thread that has set the state to `Running` calls it, after its
        // last use.
        unsafe { (*self.operation.get()).as_ref() }
    }

    /// Sets the state to `Running` if the coroutine can run. Returns the previous state.
    #[inline]
    fn transition_to_running(&self) -> State {
        self.state.with(|state| {
            let before = *state;
            if matches!(before, State::Fresh | State::Waiting | State::Awaiting) {
                *state = State::Running;
            }
            before
        })
    }

    /// Ends the coroutine, which the caller has set to `Running`: drops the operation.
    #[inline]
    fn finish(&self) {
        drop(self.take());
    }

    /// Ends the coroutine, and returns the operation and the future for the caller to drop.
    #[inline]
    fn take(&self) -> (Option<T>, Option<Ref>) {
        // SAFETY: the caller has set the state to `Running` and has no reference to the operation any more.
        let operation = unsafe { (*self.operation.get()).take() };
        self.state.replace(State::Finished);
        (operation, self.future.take())
    }

    /// Runs the operation until it ends or waits. `value` is for what it awaits.
    #[inline]
    fn resume(&self, value: *mut PyObject) -> FfiResult<Resumed> {
        let before = self.transition_to_running();
        match before {
            State::Fresh | State::Waiting | State::Awaiting => {}
            State::Running => return Err(already_executing()),
            State::Finished if T::KIND == Kind::Iterator => {
                return Ok(Resumed::Returned(Ref::none()))
            }
            State::Finished => return Err(reused()),
        }
        let waited = self.future.take();
        if T::AWAITS {
            return self.resume_awaiting(before, waited, value);
        }
        let step = match self.operation() {
            Some(operation) => operation.step(),
            None => return Err(reused()),
        };
        match step {
            Ok(Step::Done(value)) => {
                self.finish();
                Ok(Resumed::Returned(value))
            }
            Ok(Step::Wait(future)) => match self.suspend(&future, waited.as_ref()) {
                Ok(()) => Ok(Resumed::Yielded(future)),
                Err(raised) => {
                    self.end_abandoned();
                    Err(raised)
                }
            },
            Ok(Step::Yield) => {
                self.state.replace(State::Waiting);
                Ok(Resumed::Yielded(Ref::none()))
            }
            Ok(Step::Await(_)) => {
                self.finish();
                Err(PyRuntimeError::new_err("the operation does not await").into())
            }
            Err(raised) => {
                self.finish_raised();
                Err(raised)
            }
        }
    }

    fn suspend(&self, future: &Ref, waited: Option<&Ref>) -> FfiResult<()> {
        if waited.is_some_and(|waited| waited.as_ptr() == future.as_ptr()) {
            return Err(PyRuntimeError::new_err("await wasn't used with future").into());
        }
        crate::python::future::block(future)?;
        drop(self.future.replace(Some(future.clone())));
        self.state.replace(State::Waiting);
        Ok(())
    }

    /// Ends a coroutine that is being deallocated or is garbage.
    fn end(&self) {
        match self.transition_to_running() {
            State::Fresh => {
                let warns = self
                    .operation()
                    .is_some_and(Operation::warns_if_never_awaited);
                if T::KIND == Kind::Coroutine && warns {
                    never_awaited(self.name);
                }
                // The coroutine may be deallocating.
                nested_drop::drop_content(self.take());
            }
            State::Waiting | State::Awaiting => self.end_abandoned(),
            State::Running | State::Finished => {}
        }
    }

    /// Ends with the exception that is set.
    #[cold]
    fn finish_raised(&self) {
        // SAFETY: coroutines run and end in attached threads.
        let py = unsafe { Python::assume_attached() };
        let error = PyErr::fetch(py);
        self.finish();
        if T::KIND == Kind::Coroutine {
            replace_stop_iteration(py, error).restore(py);
        } else {
            error.restore(py);
        }
    }

    /// Abandons the operation and ends the coroutine, which the caller has set to `Running`. An exception that is set stays.
    #[cold]
    fn end_abandoned(&self) {
        // SAFETY: coroutines run and end in attached threads.
        let py = unsafe { Python::assume_attached() };
        let error = PyErr::take(py);
        if let Some(operation) = self.operation() {
            operation.abandon();
        }
        // The coroutine may be deallocating.
        nested_drop::drop_content(self.take());
        if let Some(error) = error {
            error.restore(py);
        }
    }
}

/// The `RuntimeWarning` of Python's coroutines.
#[cold]
fn never_awaited(name: &'static CStr) {
    // SAFETY: coroutines end in attached threads. The text is a C string. A warning that is raised as an exception goes to
    // `sys.unraisablehook`.
    unsafe {
        let py = Python::assume_attached();
        let error = PyErr::take(py);
        let text = format!("coroutine '{}' was never awaited\0", name.to_string_lossy());
        if ffi::PyErr_WarnEx(ffi::PyExc_RuntimeWarning, text.as_ptr().cast(), 1) != 0 {
            PyErr::fetch(py).write_unraisable(py, None);
        }
        if let Some(error) = error {
            error.restore(py);
        }
    }
}

/// The exception that a coroutine raises. A `StopIteration` becomes a `RuntimeError`: `await` would use it as the result.
fn replace_stop_iteration(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyStopIteration>(py) {
        return error;
    }
    let instead = PyRuntimeError::new_err("coroutine raised StopIteration");
    // SAFETY: `py` proves that the thread is attached. The call takes ownership of `context`.
    unsafe {
        let context = error.clone_ref(py).into_value(py).into_ptr();
        ffi::PyException_SetContext(instead.value(py).as_ptr(), context);
    }
    instead.set_cause(py, Some(error));
    instead
}

#[cold]
fn already_executing() -> ErrSet {
    PyValueError::new_err("coroutine already executing").into()
}

#[cold]
fn reused() -> ErrSet {
    PyRuntimeError::new_err("cannot reuse already awaited coroutine").into()
}
