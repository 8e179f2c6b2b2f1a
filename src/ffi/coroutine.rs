//! Native coroutines: what `await` and tasks can drive, without a Python frame.
//!
//! An [`Operation`] is the body. [`new`] wraps one into an object that is a `collections.abc.Coroutine`, so that
//! `await`, `create_task()`, `wait_for()` and `gather()` take it. A finished call on data that is there costs no frame,
//! no future and mostly no allocation.
//!
//! How to use it: implement [`Operation`] for the state of one call, with a `static` [`Class`] of its own; call
//! [`Class::init`] at import; return `coroutine::new(operation, c"Owner.method")` from the method. Then:
//!
//! * the first `send(None)` runs [`Operation::step`]. [`Step::Done`] ends the coroutine with a value, an error ends it
//!   with the exception that is set;
//! * [`Step::Wait`] suspends it on an asyncio future (any object with `_asyncio_future_blocking`). When that is done
//!   with a result, `step` runs again, and looks for itself at what has changed. To wait for the same future twice is
//!   an error, as it is for futures: make a new one;
//! * [`Step::Yield`] suspends it for one turn of the loop, as `sleep(0)` does;
//! * an exception that is thrown in (the future's own, a cancellation, `close()`), and the end of a coroutine that was
//!   dropped while it waited, run [`Operation::abandon`], which undoes what `step` has set up; then the coroutine ends;
//! * the operation is dropped as soon as the coroutine ends.
//!
//! `step` takes `&self`: it may run Python, and the collector may look at the operation meanwhile, so its state is in
//! cells. It is never entered twice at a time.

use std::cell::{Cell, UnsafeCell};
use std::ffi::{c_int, c_void, CStr};
use std::mem::{offset_of, size_of};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::{PyImportError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi::{self, PyObject, PySendResult, PyTypeObject};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::fastcall::{guard, Method, Raised, Res};
use super::local::Local;
use super::refs::Ref;
use super::stop::{raise_stop, release_stop};
use super::typespec::{getset, getset_end, method_end, Slots};
use super::Args;

/// What one step of an operation came to.
pub enum Step {
    /// The coroutine returns this.
    Done(Ref),
    /// It goes on when this future is done.
    Wait(Ref),
    /// It goes on in the next turn of the loop.
    Yield,
}

/// Shows one object to the collector; what it returns is to be returned if it is not 0.
pub type Visit<'a> = &'a mut dyn FnMut(&Ref) -> c_int;

/// The body of a native coroutine.
pub trait Operation: Sized + Send + 'static {
    /// The Python class of these coroutines.
    fn class() -> &'static Class;

    /// Goes as far as it can. It may run Python.
    fn step(&self) -> Res<Step>;

    /// The coroutine ends without having returned or raised by itself. An exception may be set; it stays.
    fn abandon(&self) {}

    /// Shows the objects of the operation to the collector.
    fn traverse(&self, visit: Visit<'_>) -> c_int;
}

/// How many dead coroutines of a class are kept to be used again.
const SPARES: usize = 64;

/// The memory of a dead coroutine: its type is still counted, the operation is gone.
struct Spare(*mut PyObject);

// SAFETY: memory that nobody else knows.
unsafe impl Send for Spare {}

/// The Python class of one kind of coroutine.
pub struct Class {
    ty: AtomicPtr<PyTypeObject>,
    spares: Local<Vec<Spare>>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Fresh,
    Running,
    Waiting,
    Finished,
}

#[repr(C)]
struct CoroutineObject<T> {
    ob_base: PyObject,
    weakrefs: *mut PyObject,
    name: Cell<&'static CStr>,
    state: Cell<State>,
    /// What it was suspended on.
    future: Local<Option<Ref>>,
    operation: UnsafeCell<Option<T>>,
}

impl Class {
    pub const fn new() -> Self {
        Self {
            ty: AtomicPtr::new(ptr::null_mut()),
            spares: Local::new(Vec::new()),
        }
    }

    /// Makes the Python class, at import. `name` has the module in front.
    pub fn init<T: Operation>(&self, py: Python<'_>, name: &'static CStr) -> PyResult<()> {
        const { assert!(align_of::<CoroutineObject<T>>() <= 16) };
        if !self.ty.load(Ordering::Relaxed).is_null() {
            return Ok(());
        }
        let weakrefs = ffi::PyMemberDef {
            name: c"__weaklistoffset__".as_ptr(),
            type_code: ffi::Py_T_PYSSIZET,
            offset: offset_of!(CoroutineObject<T>, weakrefs).cast_signed(),
            flags: ffi::Py_READONLY,
            doc: ptr::null(),
        };
        // SAFETY: all-zero ends a table of members.
        let members_end = unsafe { std::mem::zeroed() };
        let slots = Slots::default()
            .add(ffi::Py_tp_traverse, traverse::<T> as *mut c_void)
            .add(ffi::Py_tp_clear, clear::<T> as *mut c_void)
            .add(ffi::Py_tp_dealloc, dealloc::<T> as *mut c_void)
            .add(ffi::Py_tp_repr, repr::<T> as *mut c_void)
            .add(ffi::Py_tp_iternext, next::<T> as *mut c_void)
            .add(ffi::Py_am_await, awaited::<T> as *mut c_void)
            .add(ffi::Py_am_send, send_slot::<T> as *mut c_void)
            .table(ffi::Py_tp_members, vec![weakrefs], members_end)
            .table(
                ffi::Py_tp_methods,
                vec![
                    method(
                        c"send",
                        ffi::PyMethodDefPointer { PyCFunction: send_entry::<T> },
                        ffi::METH_O,
                    )
                    .def(c"send($self, value, /)\n--\n\nGo on; raises StopIteration with the result."),
                    method(
                        c"throw",
                        ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: throw_entry::<T> },
                        ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
                    )
                    .def(c"throw($self, typ, val=None, tb=None, /)\n--\n\nEnd with an exception."),
                    method(
                        c"close",
                        ffi::PyMethodDefPointer { PyCFunction: close_entry::<T> },
                        ffi::METH_NOARGS,
                    )
                    .def(c"close($self, /)\n--\n\nEnd without a result."),
                ],
                method_end(),
            )
            .table(
                ffi::Py_tp_getset,
                vec![
                    getset(c"__name__", get_name::<T>, None),
                    getset(c"__qualname__", get_qualname::<T>, None),
                    getset(c"cr_running", get_running::<T>, None),
                    getset(c"cr_await", get_await::<T>, None),
                ],
                getset_end(),
            );
        // SAFETY: the layout begins with that of `object`.
        let class = unsafe { slots.build(py, name, size_of::<CoroutineObject<T>>(), 0, None)? };
        self.ty.store(class.into_ptr().cast(), Ordering::Relaxed);
        Ok(())
    }
}

fn method(name: &'static CStr, meth: ffi::PyMethodDefPointer, flags: c_int) -> Method {
    Method { name, meth, flags }
}

/// A coroutine that runs `operation`. `name` is its qualified name: `Owner.method`.
#[inline]
pub fn new<T: Operation>(operation: T, name: &'static CStr) -> Res<Ref> {
    let class = T::class();
    let ty = class.ty.load(Ordering::Relaxed);
    // Free-threaded builds would need a lock for the spares.
    let spare = if cfg!(Py_GIL_DISABLED) {
        None
    } else {
        class.spares.with(Vec::pop)
    };
    // SAFETY: the type was made at import; the fields are written before anybody else sees the object.
    unsafe {
        let object = match spare {
            Some(Spare(object)) => {
                // The type is counted anew.
                ffi::PyObject_Init(object, ty);
                object
            }
            None => {
                let alloc = (*ty).tp_alloc;
                let Some(alloc) = alloc else {
                    return Err(PyImportError::new_err("coroutines cannot be allocated").into());
                };
                let object = Ref::new(alloc(ty, 0))?.into_ptr();
                ffi::PyObject_GC_UnTrack(object.cast());
                object
            }
        };
        let this = object.cast::<CoroutineObject<T>>();
        (&raw mut (*this).weakrefs).write(ptr::null_mut());
        (&raw mut (*this).name).write(Cell::new(name));
        (&raw mut (*this).state).write(Cell::new(State::Fresh));
        (&raw mut (*this).future).write(Local::new(None));
        (&raw mut (*this).operation).write(UnsafeCell::new(Some(operation)));
        ffi::PyObject_GC_Track(object.cast());
        Ref::new(object)
    }
}

/// The coroutine behind an object.
unsafe fn of<'a, T>(object: *mut PyObject) -> &'a CoroutineObject<T> {
    // SAFETY: slots and methods of the type get objects of the type.
    unsafe { &*object.cast::<CoroutineObject<T>>() }
}

/// How a suspended or finished coroutine answers.
enum Answer {
    Yielded(Ref),
    Returned(Ref),
}

impl<T: Operation> CoroutineObject<T> {
    fn operation(&self) -> Option<&T> {
        // SAFETY: it is taken out only by `finish`, which nothing calls while the operation is in use.
        unsafe { (*self.operation.get()).as_ref() }
    }

    /// Ends the coroutine: drops the operation.
    #[inline]
    fn finish(&self) {
        self.state.set(State::Finished);
        // SAFETY: the operation is not in use: `state` was not `Running`, or the caller is who was running it.
        let operation = unsafe { (*self.operation.get()).take() };
        drop(operation);
        drop(self.future.take());
    }

    /// Runs the operation until it ends or waits.
    #[inline]
    fn resume(&self) -> Res<Answer> {
        match self.state.get() {
            State::Fresh | State::Waiting => {}
            State::Running => return Err(already_executing()),
            State::Finished => return Err(reused()),
        }
        self.state.set(State::Running);
        let waited = self.future.take();
        let step = match self.operation() {
            Some(operation) => operation.step(),
            None => return Err(reused()),
        };
        match step {
            Ok(Step::Done(value)) => {
                self.finish();
                Ok(Answer::Returned(value))
            }
            Ok(Step::Wait(future)) => match self.suspend(&future, waited.as_ref()) {
                Ok(()) => Ok(Answer::Yielded(future)),
                Err(raised) => {
                    self.end_abandoned();
                    Err(raised)
                }
            },
            Ok(Step::Yield) => {
                self.state.set(State::Waiting);
                Ok(Answer::Yielded(Ref::none()))
            }
            Err(raised) => {
                self.finish_raised();
                Err(raised)
            }
        }
    }

    fn suspend(&self, future: &Ref, waited: Option<&Ref>) -> Res<()> {
        if waited.is_some_and(|waited| waited.as_ptr() == future.as_ptr()) {
            return Err(PyRuntimeError::new_err("await wasn't used with future").into());
        }
        super::future::block(future)?;
        drop(self.future.replace(Some(future.clone())));
        self.state.set(State::Waiting);
        Ok(())
    }

    /// Ends with the exception that is set.
    #[cold]
    fn finish_raised(&self) {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        let error = PyErr::fetch(py);
        self.finish();
        error.restore(py);
    }

    /// Undoes what the operation has set up, and ends; an exception that is set stays.
    #[cold]
    fn end_abandoned(&self) {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        let error = PyErr::take(py);
        self.state.set(State::Running);
        if let Some(operation) = self.operation() {
            operation.abandon();
        }
        self.finish();
        if let Some(error) = error {
            error.restore(py);
        }
    }
}

#[cold]
fn already_executing() -> Raised {
    PyValueError::new_err("coroutine already executing").into()
}

#[cold]
fn reused() -> Raised {
    PyRuntimeError::new_err("cannot reuse already awaited coroutine").into()
}

/// `__await__`: the coroutine is its own iterator.
unsafe extern "C" fn awaited<T: Operation>(slf: *mut PyObject) -> *mut PyObject {
    // SAFETY: the slot gets a live coroutine.
    unsafe {
        if of::<T>(slf).state.get() == State::Waiting {
            return guard(|| {
                Err(PyRuntimeError::new_err("coroutine is being awaited already").into())
            });
        }
        ffi::Py_INCREF(slf);
    }
    slf
}

/// What `await` calls since Python 3.12.
unsafe extern "C" fn next<T: Operation>(slf: *mut PyObject) -> *mut PyObject {
    // SAFETY: the slot gets a live coroutine.
    guard(|| match unsafe { of::<T>(slf) }.resume()? {
        Answer::Yielded(value) => Ok(value),
        Answer::Returned(value) => Err(raise_stop(value)),
    })
}

/// What tasks call, and `await` up to Python 3.11.
unsafe extern "C" fn send_slot<T: Operation>(
    slf: *mut PyObject,
    value: *mut PyObject,
    result: *mut *mut PyObject,
) -> PySendResult {
    let mut returned = false;
    let object = guard(|| {
        // SAFETY: the slot gets a live coroutine and a live value.
        let this = unsafe { of::<T>(slf) };
        refuse_value(this, value)?;
        match this.resume()? {
            Answer::Yielded(value) => Ok(value),
            Answer::Returned(value) => {
                returned = true;
                Ok(value)
            }
        }
    });
    // SAFETY: the caller's place for the result.
    unsafe { *result = object };
    match (object.is_null(), returned) {
        (true, _) => PySendResult::PYGEN_ERROR,
        (false, true) => PySendResult::PYGEN_RETURN,
        (false, false) => PySendResult::PYGEN_NEXT,
    }
}

fn refuse_value<T>(this: &CoroutineObject<T>, value: *mut PyObject) -> Res<()> {
    // SAFETY: `None` is always live.
    if this.state.get() == State::Fresh && value != unsafe { ffi::Py_None() } {
        return Err(
            PyTypeError::new_err("can't send non-None value to a just-started coroutine").into(),
        );
    }
    Ok(())
}

unsafe fn send<T: Operation>(slf: *mut PyObject, value: *mut PyObject) -> Res<Ref> {
    // SAFETY: the method descriptor has checked `self`.
    let this = unsafe { of::<T>(slf) };
    refuse_value(this, value)?;
    match this.resume()? {
        Answer::Yielded(value) => Ok(value),
        Answer::Returned(value) => {
            // SAFETY: attached.
            let py = unsafe { Python::assume_attached() };
            let value = value.bind(py).clone().unbind();
            Err(pyo3::exceptions::PyStopIteration::new_err((value,)).into())
        }
    }
}

unsafe fn throw<T: Operation>(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe {
        let py = Python::assume_attached();
        let this = of::<T>(slf);
        let argument = |at: usize| {
            let object = args.positional.get(at).copied()?;
            (object != ffi::Py_None()).then(|| Bound::from_borrowed_ptr(py, object))
        };
        let Some(kind) = argument(0) else {
            return Err(PyTypeError::new_err("throw() needs an exception").into());
        };
        let error = exception_of(&kind, argument(1).as_ref())?;
        if let Some(traceback) = argument(2) {
            ffi::PyException_SetTraceback(error.value(py).as_ptr(), traceback.as_ptr());
        }
        if this.state.get() == State::Running {
            return Err(already_executing());
        }
        if this.state.get() == State::Finished {
            return Err(reused());
        }
        if this.state.get() == State::Fresh {
            this.finish();
        } else {
            this.end_abandoned();
        }
        Err(error.into())
    }
}

/// The exception that `throw(kind, value)` means.
fn exception_of(kind: &Bound<'_, PyAny>, value: Option<&Bound<'_, PyAny>>) -> PyResult<PyErr> {
    let py = kind.py();
    let base = py.get_type::<pyo3::exceptions::PyBaseException>();
    if kind.is_instance(&base)? {
        return Ok(PyErr::from_value(kind.clone()));
    }
    let is_class = kind
        .cast::<pyo3::types::PyType>()
        .is_ok_and(|class| class.is_subclass(&base).unwrap_or(false));
    if !is_class {
        return Err(PyTypeError::new_err(format!(
            "exceptions must be classes or instances deriving from BaseException, not {}",
            kind.get_type().name()?
        )));
    }
    let made = match value {
        Some(value) if value.is_instance(kind)? => value.clone(),
        Some(value) => kind.call1((value,))?,
        None => kind.call0()?,
    };
    Ok(PyErr::from_value(made))
}

unsafe fn close<T: Operation>(slf: *mut PyObject) -> Res<Ref> {
    // SAFETY: the method descriptor has checked `self`.
    let this = unsafe { of::<T>(slf) };
    match this.state.get() {
        State::Running => return Err(already_executing()),
        State::Waiting => this.end_abandoned(),
        State::Fresh => this.finish(),
        State::Finished => {}
    }
    Ok(Ref::none())
}

// The macros of `fastcall` make functions that cannot be generic.

unsafe extern "C" fn send_entry<T: Operation>(
    slf: *mut PyObject,
    value: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: CPython passes a live `self` and argument.
    guard(|| unsafe { send::<T>(slf, value) })
}

unsafe extern "C" fn throw_entry<T: Operation>(
    slf: *mut PyObject,
    args: *const *mut PyObject,
    n: isize,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: CPython passes what the convention says.
    guard(|| unsafe { throw::<T>(slf, Args::new(args, n, names)) })
}

unsafe extern "C" fn close_entry<T: Operation>(
    slf: *mut PyObject,
    _: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: CPython passes a live `self`.
    guard(|| unsafe { close::<T>(slf) })
}

unsafe extern "C" fn repr<T: Operation>(slf: *mut PyObject) -> *mut PyObject {
    guard(|| {
        // SAFETY: the slot gets a live coroutine.
        unsafe {
            let name = of::<T>(slf).name.get();
            let py = Python::assume_attached();
            let text = format!("<coroutine object {} at {slf:p}>", name.to_string_lossy());
            Ok(PyString::new(py, &text).into())
        }
    })
}

unsafe extern "C" fn get_qualname<T: Operation>(
    slf: *mut PyObject,
    _: *mut c_void,
) -> *mut PyObject {
    // SAFETY: the descriptor has checked `self`.
    unsafe { ffi::PyUnicode_FromString(of::<T>(slf).name.get().as_ptr()) }
}

unsafe extern "C" fn get_name<T: Operation>(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    guard(|| {
        // SAFETY: the descriptor has checked `self`.
        let name = unsafe { of::<T>(slf) }.name.get().to_string_lossy();
        let name = name.rsplit('.').next().unwrap_or_default();
        // SAFETY: attached.
        Ok(PyString::new(unsafe { Python::assume_attached() }, name).into())
    })
}

unsafe extern "C" fn get_running<T: Operation>(
    slf: *mut PyObject,
    _: *mut c_void,
) -> *mut PyObject {
    // SAFETY: the descriptor has checked `self`.
    Ref::bool(unsafe { of::<T>(slf) }.state.get() == State::Running).into_ptr()
}

unsafe extern "C" fn get_await<T: Operation>(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: the descriptor has checked `self`.
    unsafe { of::<T>(slf) }
        .future
        .get()
        .unwrap_or_else(Ref::none)
        .into_ptr()
}

unsafe extern "C" fn traverse<T: Operation>(
    object: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live coroutine.
    unsafe {
        let this = of::<T>(object);
        let mut show = |it: &Ref| visit(it.as_ptr(), arg);
        let stop = visit(ffi::Py_TYPE(object).cast(), arg);
        if stop != 0 {
            return stop;
        }
        let future = this
            .future
            .with(|future| future.as_ref().map_or(ptr::null_mut(), Ref::as_ptr));
        if !future.is_null() {
            let stop = visit(future, arg);
            if stop != 0 {
                return stop;
            }
        }
        this.operation()
            .map_or(0, |operation| operation.traverse(&mut show))
    }
}

unsafe extern "C" fn clear<T: Operation>(object: *mut PyObject) -> c_int {
    // SAFETY: the collector passes a live coroutine; one that runs is reachable, so it is not cleared.
    unsafe {
        let this = of::<T>(object);
        match this.state.get() {
            State::Waiting => this.end_abandoned(),
            State::Fresh => this.finish(),
            State::Running | State::Finished => {}
        }
    }
    0
}

/// `RuntimeWarning`, as for coroutines of Python.
#[cold]
fn never_awaited(name: &'static CStr) {
    // SAFETY: attached. A warning that became an exception is shown, for want of a caller.
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

unsafe extern "C" fn dealloc<T: Operation>(object: *mut PyObject) {
    // SAFETY: the last reference is gone.
    unsafe {
        let ty = ffi::Py_TYPE(object);
        let this = of::<T>(object);
        ffi::PyObject_GC_UnTrack(object.cast());
        if !this.weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(object);
        }
        match this.state.get() {
            State::Fresh => {
                never_awaited(this.name.get());
                this.finish();
            }
            State::Waiting => this.end_abandoned(),
            State::Running | State::Finished => {}
        }
        release_stop();
        ptr::drop_in_place(&raw mut (*object.cast::<CoroutineObject<T>>()).future);
        ptr::drop_in_place(&raw mut (*object.cast::<CoroutineObject<T>>()).operation);
        let class = T::class();
        let kept = !cfg!(Py_GIL_DISABLED)
            && class.spares.with(|spares| {
                let room = spares.len() < SPARES;
                if room {
                    spares.push(Spare(object));
                }
                room
            });
        if !kept {
            if let Some(free) = (*ty).tp_free {
                free(object.cast());
            }
        }
        ffi::Py_DECREF(ty.cast());
    }
}
