//! Coroutines of callbacks: what is queued is awaited in order, and callbacks get the results.

use std::ffi::{c_int, c_void, CStr};
use std::mem::take;

use pyo3::exceptions::PyStopAsyncIteration;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::awaitables::protocols;
use crate::awaitables::queue::{no_memory, Block, Callback, Current, Entry, Steps};
use crate::awaitables::returned::{
    call_defer, call_error, call_result, set_context, Failed, Handled,
};
use crate::awaitables::state::UserState;
use crate::python::coroutine::{self, Class, Operation, Step, Visit};
use crate::python::{awaitable, Cell, ErrSet, FfiResult, LoopCell, Ref, SlotCell};

static CLASS: Class = Class::new();

/// What few programs need: it is made on first use.
#[derive(Default)]
pub struct Saved {
    pub values: Vec<Ref>,
    pub pointers: Vec<*mut c_void>,
    pub state: Option<UserState>,
}

// SAFETY: the pointers belong to the program, which passes them between its own functions.
unsafe impl Send for Saved {}

/// The body of a coroutine of callbacks.
#[derive(Default)]
pub struct Callbacks {
    steps: LoopCell<Steps>,
    result: SlotCell<Ref>,
    pub saved: LoopCell<Option<Box<Saved>>>,
    /// The program has emptied the queue: it does not want the coroutine any more.
    is_given_up: Cell<bool>,
}

/// A new coroutine. `name` is its qualified name.
pub fn new(name: &'static CStr) -> FfiResult<Ref> {
    coroutine::new(Callbacks::default(), name)
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    CLASS.init::<Callbacks>(module.py(), c"hybridloop._core.CallbackCoroutine")
}

/// The class of these coroutines.
pub fn class() -> *mut ffi::PyTypeObject {
    CLASS.as_ptr()
}

/// Where the coroutine goes on: with a step, or with what is queued next.
type Next = Option<Step>;

impl Callbacks {
    /// Queues an entry behind those that the innermost block has.
    pub fn push(&self, entry: Entry) -> FfiResult<()> {
        self.is_given_up.set(false);
        match self.steps.with(|steps| steps.push(entry)) {
            Ok(()) => Ok(()),
            Err(entry) => {
                drop(entry);
                Err(no_memory())
            }
        }
    }

    pub fn set_result(&self, value: Ref) {
        drop(self.result.replace(Some(value)));
    }

    /// Empties the queue.
    pub fn clear(&self) {
        self.is_given_up.set(true);
        drop(self.steps.with(Steps::clear));
    }

    /// Suspends the coroutine in an iterator.
    fn suspend(&self, iterator: Ref, current: Current) -> Next {
        // Nothing has been awaited before.
        drop(
            self.steps
                .with(|steps| std::mem::replace(&mut steps.current, current)),
        );
        Some(Step::Await(iterator))
    }

    /// Handles the end of what was awaited.
    fn finish(
        &self,
        slf: *mut PyObject,
        current: Current,
        outcome: FfiResult<Ref>,
    ) -> FfiResult<Next> {
        match current {
            Current::Nothing => outcome.map(|_| None),
            Current::Await { callback, error } => {
                let called = outcome
                    .map_err(|ErrSet| Failed::Handle)
                    .and_then(|value| call_result(slf, callback, &value));
                handled(slf, called.map(drop), error)
            }
            Current::Enter { exit, body, error } => {
                let value = match outcome {
                    Ok(value) => value,
                    Err(ErrSet) => return handled(slf, Err(Failed::Handle), error),
                };
                let block = Block::With { exit, error };
                if let Err(block) = self.steps.with(|steps| steps.enter(block)) {
                    drop(block);
                    return Err(no_memory());
                }
                match call_result(slf, body, &value) {
                    Ok(_) => Ok(None),
                    Err(Failed::Handle) => Err(ErrSet),
                    Err(Failed::Raise) => {
                        self.forget_error_callback();
                        Err(ErrSet)
                    }
                }
            }
            Current::Exit { raised, error } => handled(
                slf,
                exited(raised, outcome).map_err(|ErrSet| Failed::Handle),
                error,
            ),
            Current::Next => self.iterated(slf, outcome),
        }
    }

    /// The innermost block raises past its error callback.
    fn forget_error_callback(&self) {
        self.steps.with(|steps| {
            if let Some(Block::With { error, .. } | Block::For { error, .. }) = steps.block() {
                *error = None;
            }
        });
    }

    /// Handles the end of `__anext__()`.
    fn iterated(&self, slf: *mut PyObject, outcome: FfiResult<Ref>) -> FfiResult<Next> {
        let Ok(value) = outcome else {
            // SAFETY: the callers are attached.
            let py = unsafe { Python::assume_attached() };
            let raised = PyErr::fetch(py);
            if !raised.is_instance_of::<PyStopAsyncIteration>(py) {
                return Err(raised.into());
            }
            drop(raised);
            let ended = self.steps.with(Steps::end);
            return match ended {
                Some(Block::For { end: Some(end), .. }) => call_defer(slf, end).map(|()| None),
                _ => Ok(None),
            };
        };
        let item = self.steps.with(|steps| match steps.block() {
            Some(Block::For { item, .. }) => *item,
            _ => None,
        });
        match call_result(slf, item, &value) {
            Ok(status) => {
                self.steps.with(|steps| {
                    if let Some(Block::For { is_broken, .. }) = steps.block() {
                        *is_broken = status > 0;
                    }
                });
                Ok(None)
            }
            Err(Failed::Handle) => Err(ErrSet),
            Err(Failed::Raise) => {
                self.forget_error_callback();
                Err(ErrSet)
            }
        }
    }

    /// Takes the exception that is set out of the innermost block.
    #[cold]
    fn unwind(&self, slf: *mut PyObject) -> FfiResult<Next> {
        loop {
            // What the block has queued is closed, without a change of the exception.
            let left = self.steps.with(Steps::leave);
            match left.map(|(block, _)| block) {
                None => return Err(ErrSet),
                Some(Block::For { error, .. }) => {
                    if call_error(slf, error).is_ok() {
                        return Ok(None);
                    }
                }
                Some(Block::With { exit, error }) => {
                    // SAFETY: the callers are attached.
                    let py = unsafe { Python::assume_attached() };
                    let raised = PyErr::fetch(py);
                    let called = {
                        let value = Ref::from(raised.value(py).as_any());
                        // SAFETY: the exception is live, and the thread attached.
                        let _handled = unsafe { Handled::new(value.as_ptr()) };
                        let traceback = raised.traceback(py);
                        let arguments = (raised.get_type(py), raised.value(py), traceback);
                        exit.bind(py)
                            .call1(arguments)
                            .map_err(ErrSet::from)
                            .and_then(|awaitable| awaitable::iterator(&awaitable.into()))
                    };
                    match called {
                        Ok(iterator) => {
                            let raised = Some(Ref::from(raised.into_value(py).into_bound(py)));
                            let current = Current::Exit { raised, error };
                            return Ok(self.suspend(iterator, current));
                        }
                        Err(ErrSet) if call_error(slf, error).is_ok() => return Ok(None),
                        Err(ErrSet) => {}
                    }
                }
            }
        }
    }

    /// Runs what is queued next.
    fn next(&self, slf: *mut PyObject) -> FfiResult<Next> {
        match self.steps.with(Steps::pop) {
            Some(Entry::Await {
                awaitable,
                callback,
                error,
            }) => match awaitable::iterator(&awaitable) {
                Ok(iterator) => Ok(self.suspend(iterator, Current::Await { callback, error })),
                Err(ErrSet) => handled(slf, Err(Failed::Handle), error),
            },
            Some(Entry::Defer(callback)) => call_defer(slf, callback).map(|()| None),
            Some(Entry::With {
                enter,
                exit,
                body,
                error,
            }) => match call_method(&enter, None) {
                Ok(iterator) => Ok(self.suspend(iterator, Current::Enter { exit, body, error })),
                Err(ErrSet) => handled(slf, Err(Failed::Handle), error),
            },
            Some(Entry::For {
                iterable,
                item,
                end,
                error,
            }) => match protocols::async_iterator(&iterable) {
                Ok(iterator) => {
                    let block = Block::For {
                        iterator,
                        item,
                        end,
                        error,
                        is_broken: false,
                    };
                    match self.steps.with(|steps| steps.enter(block)) {
                        Ok(()) => Ok(None),
                        Err(block) => {
                            drop(block);
                            Err(no_memory())
                        }
                    }
                }
                Err(ErrSet) => handled(slf, Err(Failed::Handle), error),
            },
            None => self.end_block(slf),
        }
    }

    /// The innermost block has nothing queued any more.
    fn end_block(&self, slf: *mut PyObject) -> FfiResult<Next> {
        enum End {
            All,
            With,
            Next(Ref),
            Break,
        }
        let end = self.steps.with(|steps| match steps.block() {
            None => End::All,
            Some(Block::With { .. }) => End::With,
            Some(Block::For {
                is_broken: true, ..
            }) => End::Break,
            Some(Block::For { iterator, .. }) => End::Next(iterator.clone()),
        });
        match end {
            End::All => {
                let result = self.result.take();
                Ok(Some(Step::Done(result.unwrap_or_else(Ref::none))))
            }
            End::Next(iterator) => {
                let next = protocols::next(&iterator)?;
                Ok(self.suspend(next, Current::Next))
            }
            End::Break => {
                let ended = self.steps.with(Steps::end);
                drop(ended);
                Ok(None)
            }
            End::With => {
                let ended = self.steps.with(Steps::end);
                let Some(Block::With { exit, error }) = ended else {
                    return Ok(None);
                };
                match call_method(&exit, Some(3)) {
                    Ok(iterator) => {
                        let raised = None;
                        Ok(self.suspend(iterator, Current::Exit { raised, error }))
                    }
                    Err(ErrSet) => handled(slf, Err(Failed::Handle), error),
                }
            }
        }
    }
}

/// The iterator of what a method returns that is called with so many times `None`.
fn call_method(method: &Ref, nones: Option<usize>) -> FfiResult<Ref> {
    // SAFETY: the holder of a `Ref` is attached, and its object is live, as is `None`.
    let awaitable = unsafe {
        let arguments = [ffi::Py_None(); 3];
        Ref::new(ffi::PyObject_Vectorcall(
            method.as_ptr(),
            arguments.as_ptr(),
            nones.unwrap_or(0),
            std::ptr::null_mut(),
        ))?
    };
    awaitable::iterator(&awaitable)
}

/// Gives the exception that is set to the error callback, if it is for that.
fn handled(
    slf: *mut PyObject,
    result: Result<(), Failed>,
    error: Option<Callback>,
) -> FfiResult<Next> {
    match result {
        Ok(()) => Ok(None),
        Err(Failed::Raise) => Err(ErrSet),
        Err(Failed::Handle) => call_error(slf, error).map(|()| None),
    }
}

/// The end of `__aexit__()`, which was called with the exception `raised`: what it suppresses is not raised again.
fn exited(raised: Option<Ref>, outcome: FfiResult<Ref>) -> FfiResult<()> {
    let Some(raised) = raised else {
        return outcome.map(drop);
    };
    // SAFETY: the callers are attached.
    let py = unsafe { Python::assume_attached() };
    let error = PyErr::from_value(raised.bind(py).clone());
    let is_true = outcome
        .map_err(PyErr::from)
        .and_then(|value| value.bind(py).is_truthy());
    match is_true {
        Ok(true) => Ok(()),
        Ok(false) => Err(error.into()),
        Err(other) => {
            set_context(py, &other, &error);
            Err(other.into())
        }
    }
}

impl Operation for Callbacks {
    const AWAITS: bool = true;

    fn class() -> &'static Class {
        &CLASS
    }

    fn step(&self) -> FfiResult<Step> {
        // `resumed` is called in its place.
        Ok(Step::Done(Ref::none()))
    }

    fn resumed(&self, slf: *mut PyObject, outcome: FfiResult<Ref>) -> FfiResult<Step> {
        let current = self.steps.with(|steps| take(&mut steps.current));
        let mut next = self.finish(slf, current, outcome);
        loop {
            next = match next {
                Ok(Some(step)) => return Ok(step),
                Ok(None) => self.next(slf),
                Err(ErrSet) => match self.unwind(slf) {
                    Err(raised) => return Err(raised),
                    unwound => unwound,
                },
            };
        }
    }

    fn warns_if_never_awaited(&self) -> bool {
        !self.is_given_up.get()
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        let stop = self.steps.with(|steps| steps.traverse(visit));
        if stop != 0 {
            return stop;
        }
        if let Some(result) = self.result.as_ptr() {
            // SAFETY: the slot holds the object, and the collector changes nothing.
            let stop = visit(unsafe { Ref::from_ptr_ref(&result) });
            if stop != 0 {
                return stop;
            }
        }
        self.saved.with(|saved| {
            let Some(saved) = saved else {
                return 0;
            };
            for value in &saved.values {
                let stop = visit(value);
                if stop != 0 {
                    return stop;
                }
            }
            saved
                .state
                .as_ref()
                .map_or(0, |state| state.traverse(visit))
        })
    }
}
