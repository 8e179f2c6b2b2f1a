//! An awaitable of Python that a coroutine awaits: the coroutine itself drives it, or a task of asyncio.

use std::cell::RefCell;
use std::mem::replace;
use std::task::{Context, Poll, Waker};

use pyo3::prelude::*;

use crate::asyncio::{asyncio, Callback};

enum State {
    /// Nothing drives it yet.
    New(Py<PyAny>),
    /// The coroutine itself drives it, or is about to start its task.
    InPlace,
    /// A task of asyncio drives it.
    Task(Py<PyAny>, Py<Callback>),
    Done(PyResult<Py<PyAny>>),
    /// The future was dropped, or has given its result.
    Over,
}

/// An awaitable of Python that a coroutine awaits.
pub struct Await {
    state: RefCell<State>,
    /// That of the future, if it is not the coroutine's: executors in a coroutine poll only what was woken.
    waker: RefCell<Option<Waker>>,
}

impl Await {
    pub fn new(object: Py<PyAny>) -> Self {
        Self {
            state: RefCell::new(State::New(object)),
            waker: RefCell::default(),
        }
    }

    /// The awaitable, if nothing drives it yet: the caller does from now on.
    pub fn drive(&self) -> Option<Py<PyAny>> {
        let mut state = self.state.borrow_mut();
        match replace(&mut *state, State::InPlace) {
            State::New(object) => Some(object),
            before => {
                *state = before;
                None
            }
        }
    }

    /// Has a task drive it, if nothing does yet. `false` if that fails: then it is done.
    pub fn start(&self, py: Python<'_>, coroutine: &Waker) -> bool {
        let Some(object) = self.drive() else {
            return true;
        };
        let waker = self
            .waker
            .borrow()
            .clone()
            .unwrap_or_else(|| coroutine.clone());
        match start_task(py, object, &waker) {
            Ok((task, callback)) => {
                self.state.replace(State::Task(task, callback));
                true
            }
            Err(error) => {
                self.state.replace(State::Done(Err(error)));
                waker.wake();
                false
            }
        }
    }

    /// The coroutine has driven it to its end.
    pub fn finish(&self, outcome: PyResult<Py<PyAny>>) {
        self.state.replace(State::Done(outcome));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Cancels its task. Whether that has accepted.
    pub fn cancel(&self, py: Python<'_>) -> PyResult<bool> {
        let task = match &*self.state.borrow() {
            State::Task(task, _) => task.clone_ref(py),
            _ => return Ok(false),
        };
        task.bind(py).call_method0("cancel")?.extract()
    }

    /// Polls the future that awaits it. `coroutine` is the waker of the coroutine itself.
    pub fn poll(&self, context: &Context<'_>, coroutine: &Waker) -> Poll<PyResult<Py<PyAny>>> {
        let before = self.state.replace(State::Over);
        let next = match before {
            State::Done(outcome) => return Poll::Ready(outcome),
            State::Task(task, callback) => {
                if callback.get().poll(context.waker()) {
                    let outcome = Python::attach(|py| task.call_method0(py, "result"));
                    return Poll::Ready(outcome);
                }
                State::Task(task, callback)
            }
            other => other,
        };
        self.state.replace(next);
        let waker = context.waker();
        let waker = (!waker.will_wake(coroutine)).then(|| waker.clone());
        let before = self.waker.replace(waker);
        drop(before);
        Poll::Pending
    }

    /// The future is dropped: what it awaits is closed, or its task cancelled.
    pub fn end(&self) {
        self.waker.take();
        let state = self.state.replace(State::Over);
        // Without an interpreter nothing has to be closed.
        Python::try_attach(|py| {
            let ended = match state {
                State::New(object) => close(object.bind(py)),
                State::Task(task, callback) => {
                    callback.get().forget();
                    task.bind(py).call_method0("cancel").map(drop)
                }
                _ => Ok(()),
            };
            if let Err(error) = ended {
                error.write_unraisable(py, None);
            }
        });
    }
}

fn start_task(
    py: Python<'_>,
    object: Py<PyAny>,
    waker: &Waker,
) -> PyResult<(Py<PyAny>, Py<Callback>)> {
    let asyncio = asyncio(py)?;
    // `ensure_future` would look for a loop that does not run.
    let running = asyncio.get_running_loop.bind(py).call0();
    let task = running.and_then(|_| asyncio.ensure_future.bind(py).call1((&object,)));
    let task = match task {
        Ok(task) => task,
        Err(error) => {
            // No warning that it was never awaited.
            close(object.bind(py))?;
            return Err(error);
        }
    };
    let callback = Bound::new(py, Callback::new(waker))?;
    task.call_method1("add_done_callback", (&callback,))?;
    Ok((task.unbind(), callback.unbind()))
}

/// Closes a coroutine.
fn close(object: &Bound<'_, PyAny>) -> PyResult<()> {
    if object.hasattr("close")? && object.hasattr("send")? {
        object.call_method0("close")?;
    }
    Ok(())
}
