//! A coroutine whose body is a future.

use std::ffi::{c_char, c_int, c_void};
use std::future::Future;
use std::pin::Pin;
use std::ptr;
use std::rc::Rc;
use std::task::{Context, Poll};

use pyo3::exceptions::PyGeneratorExit;
use pyo3::prelude::*;

use crate::abi::{imported, status, Frame, Spec};
use crate::asyncio::asyncio;
use crate::current::{alive, with_current, Core};
use crate::driven::Await;
use crate::panics;

pub type Body = Pin<Box<dyn Future<Output = PyResult<Py<PyAny>>>>>;

/// The state of the coroutine. Python's memory, zeroed at first.
#[repr(C)]
pub struct State(*mut Task);

impl State {
    /// Gives the coroutine its body.
    ///
    /// # Safety
    /// `state` is that of a coroutine with a spec of this module that has no body yet.
    pub unsafe fn fill(state: *mut c_void, body: Body) {
        let task = Box::new(Task {
            body: Some(body),
            core: Rc::new(Core::new()),
            in_place: None,
        });
        // SAFETY: the caller guarantees the state.
        unsafe { *state.cast() = Self(Box::into_raw(task)) };
    }
}

pub struct Task {
    body: Option<Body>,
    core: Rc<Core>,
    /// The awaitable that the coroutine itself drives.
    in_place: Option<Rc<Await>>,
}

/// The spec of all coroutines that have no name of their own.
pub static SPEC: Spec = spec(ptr::null());

pub const fn spec(qualname: *const c_char) -> Spec {
    Spec {
        size: size_of::<Spec>(),
        qualname,
        step,
        state_size: size_of::<State>(),
        traverse: ptr::null(),
        drop: drop_state,
        flags: 0,
        reserved: 0,
    }
}

unsafe extern "C" fn step(frame: *mut Frame) -> c_int {
    // SAFETY: hybridloop calls it in an attached thread, with the frame of a coroutine that nobody else runs meanwhile, and that
    // `State::fill` has given its body.
    unsafe {
        let py = Python::assume_attached();
        let task = &mut *(*(*frame).state.cast::<State>()).0;
        let status = panics::catch(|| task.step(py, frame));
        status.unwrap_or_else(|error| {
            error.restore(py);
            status::ERROR
        })
    }
}

unsafe extern "C" fn drop_state(state: *mut c_void) {
    // SAFETY: hybridloop calls it once, in an attached thread, at the end of the coroutine.
    unsafe {
        let task = (*state.cast::<State>()).0;
        if task.is_null() {
            return;
        }
        let mut task = Box::from_raw(task);
        if task.body.is_some() {
            let py = Python::assume_attached();
            let raised = PyErr::take(py);
            task.end(py);
            if let Some(raised) = raised {
                raised.restore(py);
            }
        }
    }
}

impl Task {
    /// # Safety
    /// `frame` is that of the coroutine, whose step runs.
    unsafe fn step(&mut self, py: Python<'_>, frame: *mut Frame) -> c_int {
        self.core.shared.end_waiting(ptr::null_mut());
        // SAFETY: the caller guarantees the frame, which owns the objects in it.
        let (value, error) = unsafe {
            (
                Bound::from_borrowed_ptr_or_opt(py, (*frame).value),
                Bound::from_borrowed_ptr_or_opt(py, (*frame).error),
            )
        };
        let error = error.map(PyErr::from_value);
        match (self.in_place.take(), error) {
            (_, Some(error)) if error.is_instance_of::<PyGeneratorExit>(py) => {
                self.end(py);
                return status::RERAISE;
            }
            (Some(awaited), Some(error)) => awaited.finish(Err(error)),
            (Some(awaited), None) => {
                awaited.finish(Ok(value.map_or_else(|| py.None(), Bound::unbind)));
            }
            (None, Some(error)) => match self.passes_on(py, &error) {
                Ok(true) => {}
                Ok(false) => {
                    self.end(py);
                    return status::RERAISE;
                }
                Err(error) => {
                    self.end(py);
                    error.restore(py);
                    return status::ERROR;
                }
            },
            (None, None) => {}
        }
        // SAFETY: as of this function.
        match unsafe { self.run(py, frame) } {
            Ok(status) => status,
            Err(error) => {
                self.end(py);
                error.restore(py);
                status::ERROR
            }
        }
    }

    /// Polls the future until it ends or has to wait.
    ///
    /// # Safety
    /// As of `step`.
    unsafe fn run(&mut self, py: Python<'_>, frame: *mut Frame) -> PyResult<c_int> {
        loop {
            self.core.shared.reset();
            if let Poll::Ready(outcome) = self.poll()? {
                let value = outcome?;
                self.end(py);
                // SAFETY: the caller guarantees the frame.
                unsafe { (*frame).out = value.into_ptr() };
                return Ok(status::RETURN);
            }
            if let Some(error) = self.core.failed.take() {
                return Err(error);
            }
            // SAFETY: as of this function.
            if let Some(status) = unsafe { self.suspend(py, frame)? } {
                return Ok(status);
            }
        }
    }

    fn poll(&mut self) -> PyResult<Poll<PyResult<Py<PyAny>>>> {
        let Some(body) = &mut self.body else {
            return Ok(Poll::Pending);
        };
        let core = &self.core;
        let mut context = Context::from_waker(&core.waker);
        panics::catch(|| with_current(core, || body.as_mut().poll(&mut context)))
    }

    /// Whether an exception that was thrown in while nothing of Python was awaited in place reaches the future.
    fn passes_on(&self, py: Python<'_>, error: &PyErr) -> PyResult<bool> {
        if !error.is_instance(py, asyncio(py)?.cancelled_error.bind(py)) {
            return Ok(false);
        }
        let listeners = alive(&self.core.listeners);
        if !listeners.is_empty() {
            for listener in listeners {
                listener.tell(error.clone_ref(py));
            }
            return Ok(true);
        }
        let mut is_accepted = false;
        for awaited in alive(&self.core.awaits) {
            is_accepted |= awaited.cancel(py)?;
        }
        Ok(is_accepted)
    }

    /// What the step returns to wait; nothing if the future has to be polled again at once.
    ///
    /// # Safety
    /// As of `step`.
    unsafe fn suspend(&mut self, py: Python<'_>, frame: *mut Frame) -> PyResult<Option<c_int>> {
        let core = &self.core;
        let awaits = alive(&core.awaits);
        let is_alone = !core.is_awaited_by_others() && !core.shared.is_woken();
        if let ([awaited], true) = (&*awaits, is_alone) {
            if let Some(object) = awaited.drive() {
                self.in_place = Some(awaited.clone());
                // SAFETY: the caller guarantees the frame.
                unsafe { (*frame).out = object.into_ptr() };
                return Ok(Some(status::AWAIT));
            }
        }
        let mut are_started = true;
        for awaited in &awaits {
            are_started &= awaited.start(py, &core.waker);
        }
        if !are_started {
            return Ok(None);
        }
        // SAFETY: the caller guarantees the frame of the step that runs.
        let waker = unsafe { (imported().waker_new)(frame) };
        // SAFETY: the waker is new.
        if unsafe { core.shared.wait(waker) } {
            return Ok(Some(status::WAIT));
        }
        // A future has woken itself: the loop, if one runs, lets the others run.
        asyncio(py)?.get_running_loop.bind(py).call0()?;
        Ok(Some(status::SLEEP0))
    }

    /// Drops the future; what its destructors do is done with no exception set.
    fn end(&mut self, py: Python<'_>) {
        self.core.shared.end_waiting(ptr::null_mut());
        let body = self.body.take();
        if let Err(error) = panics::catch(|| drop(body)) {
            error.write_unraisable(py, None);
        }
    }
}
