//! Coroutines of steps: a C function that goes on where it has stopped.

use std::cell::UnsafeCell;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::mem::{offset_of, replace};
use std::ptr;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::awaitables::queue::{discard, no_memory};
use crate::awaitables::returned::{no_exception, occurred, raise, with_cause, Handled};
use crate::awaitables::state::{DropState, TraverseState, UserState};
use crate::awaitables::wait::Waiting;
use crate::python::coroutine::{self, Class, Operation, Step, Visit};
use crate::python::{awaitable, Cell, ErrSet, FfiResult, Ref};

/// `HLA_GENERATOR`
pub const GENERATOR: u32 = 1;

/// What a step returns: `HLA_STEP_*`.
mod status {
    use std::ffi::c_int;

    pub const RERAISE: c_int = -2;
    pub const ERROR: c_int = -1;
    pub const RETURN: c_int = 0;
    pub const AWAIT: c_int = 1;
    pub const SLEEP: c_int = 2;
    pub const WAIT: c_int = 3;
    pub const YIELD: c_int = 4;
}

/// `hla_frame`. The references in it are owned, but for `slf`.
#[repr(C)]
pub struct Frame {
    slf: *mut PyObject,
    state: *mut c_void,
    value: *mut PyObject,
    error: *mut PyObject,
    out: *mut PyObject,
    line: c_int,
    reserved: u32,
}

/// `hla_spec`
#[repr(C)]
pub struct Spec {
    size: usize,
    pub qualname: *const c_char,
    step: Option<unsafe extern "C" fn(*mut Frame) -> c_int>,
    state_size: usize,
    traverse: Option<TraverseState>,
    drop: Option<DropState>,
    flags: u32,
}

/// A spec that was checked. It is constant, as the names in it.
#[derive(Clone, Copy)]
pub struct Checked(&'static Spec);

impl Checked {
    /// # Errors
    /// `ValueError` for a spec without a step, of another size or with unknown flags.
    ///
    /// # Safety
    /// `spec` is null or a constant `hla_spec`.
    pub unsafe fn new(spec: *const Spec) -> FfiResult<Self> {
        // SAFETY: exception classes are never released.
        let class = unsafe { ffi::PyExc_ValueError };
        // SAFETY: the caller guarantees null or a constant.
        let Some(spec) = (unsafe { spec.as_ref() }) else {
            return Err(raise(class, c"the hla_spec is NULL"));
        };
        if spec.size < offset_of!(Spec, flags) + size_of::<u32>() {
            return Err(raise(class, c"the hla_spec has a wrong size"));
        }
        if spec.step.is_none() {
            return Err(raise(class, c"the hla_spec has no step"));
        }
        if spec.flags & !GENERATOR != 0 {
            return Err(raise(class, c"the hla_spec has unknown flags"));
        }
        Ok(Self(spec))
    }

    pub fn is_generator(self) -> bool {
        self.0.flags & GENERATOR != 0
    }

    /// The qualified name, or `other` if there is none.
    pub fn name(self, other: &'static CStr) -> &'static CStr {
        if self.0.qualname.is_null() {
            other
        } else {
            // SAFETY: the header demands a constant.
            unsafe { CStr::from_ptr(self.0.qualname) }
        }
    }
}

/// Where a step has stopped.
pub enum Stop {
    Step(Step),
    /// A generator gives an item.
    Item(Ref),
}

/// The function of a program, with its frame and state.
#[repr(C)]
pub struct Body {
    /// First: a pointer to it is one to the body.
    frame: UnsafeCell<Frame>,
    spec: Checked,
    state: Memory,
    pub waiting: Waiting,
}

// SAFETY: only the thread that has claimed the coroutine runs the body, and that is attached.
unsafe impl Send for Body {}

/// The memory of the state: Python's, and zeroed at first.
struct Memory(UserState);

impl Drop for Memory {
    fn drop(&mut self) {
        let pointer = self.0.pointer;
        self.0.end();
        // SAFETY: the memory was allocated in `Body::new`, and is freed once. The thread is attached.
        unsafe { ffi::PyMem_Free(pointer) };
    }
}

impl Body {
    pub fn new(spec: Checked) -> FfiResult<Self> {
        // SAFETY: the caller is attached.
        let state = unsafe { ffi::PyMem_Calloc(1, spec.0.state_size) };
        if state.is_null() {
            return Err(no_memory());
        }
        Ok(Self {
            frame: UnsafeCell::new(Frame {
                slf: ptr::null_mut(),
                state,
                value: ptr::null_mut(),
                error: ptr::null_mut(),
                out: ptr::null_mut(),
                line: 0,
                reserved: 0,
            }),
            spec,
            state: Memory(UserState {
                pointer: state,
                drop: spec.0.drop,
                traverse: spec.0.traverse,
            }),
            waiting: Waiting::default(),
        })
    }

    /// The state of the program.
    pub fn state(&self) -> *mut c_void {
        self.state.0.pointer
    }

    /// The body of a frame that a program passes from within a step.
    ///
    /// # Safety
    /// `frame` is that of a body, and its step runs.
    pub unsafe fn of<'a>(frame: *mut Frame) -> &'a Self {
        // SAFETY: the caller guarantees a frame of a body, which begins with it.
        unsafe { &*frame.cast::<Self>() }
    }

    /// Gives the result of an await to the step, or the exception that is set.
    fn resume_with(&self, slf: *mut PyObject, outcome: FfiResult<Ref>) {
        // SAFETY: exceptions are taken in attached threads.
        let py = unsafe { Python::assume_attached() };
        let (value, error) = match outcome {
            Ok(value) => (value.into_ptr(), ptr::null_mut()),
            Err(ErrSet) => (
                ptr::null_mut(),
                PyErr::fetch(py).into_value(py).into_ptr().cast(),
            ),
        };
        let frame = self.frame.get();
        // SAFETY: the caller has claimed the coroutine. The fields are replaced before the old objects are dropped, which may
        // run Python code.
        unsafe {
            (*frame).slf = slf;
            let value = replace(&mut (*frame).value, value);
            let error = replace(&mut (*frame).error, error);
            ffi::Py_XDECREF(value);
            ffi::Py_XDECREF(error);
        }
    }

    fn step(&self) -> (c_int, Option<Ref>) {
        let frame = self.frame.get();
        // SAFETY: the caller has claimed the coroutine. The program has given the function for this, and owns what it puts into
        // `out` until it returns.
        unsafe {
            let error = (*frame).error;
            let _handled = (!error.is_null()).then(|| Handled::new(error));
            let status = self.spec.0.step.map_or(status::ERROR, |step| step(frame));
            let out = replace(&mut (*frame).out, ptr::null_mut());
            (status, Ref::new(out).ok())
        }
    }

    /// Runs the function until it ends or has to wait. The caller has claimed the coroutine `slf`.
    pub fn run(&self, slf: *mut PyObject, outcome: FfiResult<Ref>) -> FfiResult<Stop> {
        // SAFETY: coroutines run in attached threads. The class is never released.
        let (py, system_error) = unsafe { (Python::assume_attached(), ffi::PyExc_SystemError) };
        let mut outcome = self.waiting.resumed(py, outcome);
        loop {
            self.resume_with(slf, outcome);
            let (status, out) = self.step();
            if status >= 0 && occurred() && out.is_some() {
                if let Some(out) = out {
                    discard(out);
                }
                return Err(with_cause(
                    c"a step returned without an error, but an exception is set",
                ));
            }
            outcome = match (status, out) {
                (status::RETURN, Some(value)) => return Ok(Stop::Step(Step::Done(value))),
                (status::YIELD, Some(value)) => return Ok(Stop::Item(value)),
                (status::AWAIT, Some(awaitable)) => match awaitable::iterator(&awaitable) {
                    Ok(iterator) => return Ok(Stop::Step(Step::Await(iterator))),
                    Err(raised) => Err(raised),
                },
                (status::AWAIT | status::YIELD, None) => Err(raised_by_call()),
                (status::SLEEP, _) => return Ok(Stop::Step(Step::Yield)),
                (status::WAIT, _) => match self.waiting.begin(py) {
                    Ok(Some(future)) => return Ok(Stop::Step(Step::Wait(future))),
                    Ok(None) => Ok(Ref::none()),
                    Err(error) => Err(error.into()),
                },
                (status::RETURN, None) => return Err(raised_by_call()),
                (status::RERAISE, _) => return Err(self.reraise(py)),
                (..=status::ERROR, _) if occurred() => return Err(ErrSet),
                (..=status::ERROR, _) => return Err(no_exception()),
                _ => return Err(raise(system_error, c"a step returned an unknown value")),
            };
        }
    }

    fn reraise(&self, py: Python<'_>) -> ErrSet {
        let frame = self.frame.get();
        // SAFETY: the caller has claimed the coroutine, and the frame owns the exception.
        let error = unsafe { Ref::new(replace(&mut (*frame).error, ptr::null_mut())) };
        match error {
            Ok(error) => PyErr::from_value(error.bind(py).clone()).into(),
            Err(ErrSet) => raise(
                // SAFETY: the class is never released.
                unsafe { ffi::PyExc_SystemError },
                c"HLA_RERAISE without an exception",
            ),
        }
    }

    pub fn traverse(&self, visit: Visit<'_>) -> c_int {
        let frame = self.frame.get();
        // SAFETY: the collector runs in an attached thread, and the step does not change the frame meanwhile.
        let objects = unsafe { [(*frame).value, (*frame).error, (*frame).out] };
        for object in objects.iter().filter(|object| !object.is_null()) {
            // SAFETY: the frame owns the object.
            let stop = visit(unsafe { Ref::from_ptr_ref(object) });
            if stop != 0 {
                return stop;
            }
        }
        self.state.0.traverse(visit)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let frame = self.frame.get_mut();
        for object in [&mut frame.value, &mut frame.error, &mut frame.out] {
            // SAFETY: the frame owns the object, which is released once. The thread is attached.
            unsafe { ffi::Py_XDECREF(replace(object, ptr::null_mut())) };
        }
    }
}

/// A call in a step has given null: its exception is set.
fn raised_by_call() -> ErrSet {
    if occurred() {
        return ErrSet;
    }
    raise(
        // SAFETY: the class is never released.
        unsafe { ffi::PyExc_SystemError },
        c"a step gave NULL without an exception",
    )
}

static CLASS: Class = Class::new();

/// The operation of a coroutine of steps.
pub struct Steps {
    pub body: Body,
    /// The call that has made the coroutine has failed: nobody can await it.
    pub has_failed: Cell<bool>,
}

/// A new coroutine.
pub fn new(spec: Checked, name: &'static CStr) -> FfiResult<Ref> {
    let steps = Steps {
        body: Body::new(spec)?,
        has_failed: Cell::new(false),
    };
    coroutine::new(steps, name)
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    CLASS.init::<Steps>(module.py(), c"hybridloop._core.StepCoroutine")
}

impl Operation for Steps {
    const AWAITS: bool = true;

    fn class() -> &'static Class {
        &CLASS
    }

    fn step(&self) -> FfiResult<Step> {
        // `resumed` is called in its place.
        Ok(Step::Done(Ref::none()))
    }

    fn resumed(&self, slf: *mut PyObject, outcome: FfiResult<Ref>) -> FfiResult<Step> {
        match self.body.run(slf, outcome)? {
            Stop::Step(step) => Ok(step),
            Stop::Item(_) => Err(raise(
                // SAFETY: the class is never released.
                unsafe { ffi::PyExc_SystemError },
                c"HLA_YIELD in a coroutine: its hla_spec needs the flag HLA_GENERATOR",
            )),
        }
    }

    fn warns_if_never_awaited(&self) -> bool {
        !self.has_failed.get()
    }

    fn abandon(&self) {
        self.body.waiting.end();
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        self.body.traverse(visit)
    }
}
