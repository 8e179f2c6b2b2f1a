//! Coroutines that await objects. They pass `send()`, `throw()` and `close()` on to the iterator that they are suspended in,
//! and what that returns or raises resumes the operation, as CPython does for `await`.

use pyo3::exceptions::{PyGeneratorExit, PyRuntimeError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::python::awaitable::{self, Sent};
use crate::python::coroutine::{thrown, CoroutineObject, Operation, Resumed, State, Step};
use crate::python::{ErrSet, FfiResult, Ref};

impl<T: Operation> CoroutineObject<T> {
    fn as_ptr(&self) -> *mut PyObject {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// Resumes a coroutine that the caller has claimed. `suspended_in` is its future or iterator.
    pub(super) fn resume_awaiting(
        &self,
        before: State,
        suspended_in: Option<Ref>,
        value: *mut PyObject,
    ) -> FfiResult<Resumed> {
        match suspended_in {
            Some(iterator) if before == State::Awaiting => {
                let sent = awaitable::send(&iterator, value);
                match self.outcome(iterator, sent) {
                    Ok(outcome) => self.run(None, outcome),
                    Err(value) => Ok(Resumed::Yielded(value)),
                }
            }
            future => self.run(future, Ok(Ref::none())),
        }
    }

    /// What the iterator has returned or raised; or the value that it has yielded, with the coroutine suspended in it.
    fn outcome(&self, iterator: Ref, sent: Sent) -> Result<FfiResult<Ref>, Ref> {
        match sent {
            Sent::Yielded(value) => {
                drop(self.future.replace(Some(iterator)));
                self.state.replace(State::Awaiting);
                Err(value)
            }
            Sent::Returned(value) => Ok(Ok(value)),
            Sent::Raised(raised) => Ok(Err(raised)),
        }
    }

    /// Runs the operation until it ends or is suspended. The caller has claimed the coroutine.
    fn run(&self, mut waited: Option<Ref>, mut outcome: FfiResult<Ref>) -> FfiResult<Resumed> {
        loop {
            let Some(operation) = self.operation() else {
                return Err(super::reused());
            };
            match operation.resumed(self.as_ptr(), outcome) {
                Ok(Step::Await(iterator)) => {
                    // SAFETY: `None` is always live.
                    let sent = awaitable::send(&iterator, unsafe { ffi::Py_None() });
                    match self.outcome(iterator, sent) {
                        Ok(next) => outcome = next,
                        Err(value) => return Ok(Resumed::Yielded(value)),
                    }
                }
                Ok(Step::Wait(future)) => match self.suspend(&future, waited.as_ref()) {
                    Ok(()) => return Ok(Resumed::Yielded(future)),
                    Err(raised) => outcome = Err(raised),
                },
                Ok(Step::Yield) => {
                    self.state.replace(State::Waiting);
                    return Ok(Resumed::Yielded(Ref::none()));
                }
                Ok(Step::Done(value)) => {
                    self.finish();
                    return Ok(Resumed::Returned(value));
                }
                Err(raised) => {
                    self.finish_raised();
                    return Err(raised);
                }
            }
            waited = None;
        }
    }

    /// `throw()` into a suspended coroutine, which the caller has claimed.
    #[cold]
    pub(super) fn throw_into(
        &self,
        before: State,
        arguments: &[*mut PyObject],
    ) -> FfiResult<Resumed> {
        // SAFETY: coroutines run in attached threads.
        let py = unsafe { Python::assume_attached() };
        let exception =
            || -> FfiResult<PyErr> { Ok(PyErr::from_value(thrown::exception(py, arguments)?)) };
        let Some(iterator) = self.future.take().filter(|_| before == State::Awaiting) else {
            let raised = exception().and_then(|error| Err(error.into()));
            return self.run(None, raised);
        };
        if thrown::is_generator_exit(arguments) {
            if let Err(raised) = awaitable::close(&iterator) {
                return self.run(None, Err(raised));
            }
        } else if let Some(sent) = thrown::throw(py, &iterator, arguments) {
            return match self.outcome(iterator, sent) {
                Ok(outcome) => self.run(None, outcome),
                Err(value) => Ok(Resumed::Yielded(value)),
            };
        }
        match exception() {
            Ok(error) => self.run(None, Err(error.into())),
            Err(refused) => {
                // Nothing was thrown: it stays as it is.
                drop(self.future.replace(Some(iterator)));
                self.state.replace(before);
                Err(refused)
            }
        }
    }

    /// `close()` of a suspended coroutine, which the caller has claimed.
    #[cold]
    pub(super) fn close_suspended(&self, before: State) -> FfiResult<Ref> {
        // SAFETY: coroutines run in attached threads.
        let py = unsafe { Python::assume_attached() };
        let closed = match self.future.take() {
            Some(iterator) if before == State::Awaiting => awaitable::close(&iterator),
            _ => Ok(()),
        };
        let exit = closed.and_then(|()| Err(PyGeneratorExit::new_err(()).into()));
        match self.run(None, exit) {
            Ok(Resumed::Yielded(_)) => {
                Err(PyRuntimeError::new_err("coroutine ignored GeneratorExit").into())
            }
            Ok(Resumed::Returned(value)) if cfg!(Py_3_13) => Ok(value),
            Ok(Resumed::Returned(_)) => Ok(Ref::none()),
            Err(ErrSet) => {
                let error = PyErr::fetch(py);
                if error.is_instance_of::<PyGeneratorExit>(py) {
                    return Ok(Ref::none());
                }
                Err(error.into())
            }
        }
    }

    /// Ends a coroutine that nobody can reach any more. An exception that is set stays.
    #[cold]
    pub(super) fn close_unreachable(&self) {
        let before = self.state.get();
        if !before.is_suspended() {
            self.end();
            return;
        }
        // SAFETY: coroutines end in attached threads.
        let py = unsafe { Python::assume_attached() };
        let error = PyErr::take(py);
        if self.transition_to_running() == before {
            if let Err(ErrSet) = self.close_suspended(before) {
                // SAFETY: the coroutine is live, and the thread attached.
                let slf = unsafe { Bound::from_borrowed_ptr(py, self.as_ptr()) };
                PyErr::fetch(py).write_unraisable(py, Some(&slf));
            }
        }
        if let Some(error) = error {
            error.restore(py);
        }
    }
}
