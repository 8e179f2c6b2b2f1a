//! Futures that await Python's awaitables.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use pyo3::prelude::*;

use crate::asyncio::not_in_a_coroutine;
use crate::current::{current, Core};
use crate::driven::Await;

/// The future of [`Cx::awaiting`](crate::Cx::awaiting) and [`await_py`](crate::await_py).
#[must_use = "futures do nothing unless they are awaited"]
pub struct Awaiting<F> {
    make: Option<F>,
    begun: Option<(Rc<Await>, Rc<Core>)>,
}

impl<F> Awaiting<F> {
    pub(crate) fn new(make: F) -> Self {
        Self {
            make: Some(make),
            begun: None,
        }
    }
}

// The function is called by value, and never pinned.
impl<F> Unpin for Awaiting<F> {}

impl<F> Future for Awaiting<F>
where
    F: for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>>,
{
    type Output = PyResult<Py<PyAny>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(make) = self.make.take() {
            let Some(core) = current() else {
                return Poll::Ready(Err(not_in_a_coroutine()));
            };
            let object = Python::attach(|py| make(py).map(Bound::unbind))?;
            let begun = Rc::new(Await::new(object));
            core.awaits.borrow_mut().push(Rc::downgrade(&begun));
            self.begun = Some((begun, core));
        }
        match &self.begun {
            Some((begun, core)) => begun.poll(context, &core.waker),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for Awaiting<F> {
    fn drop(&mut self) {
        if let Some((begun, _)) = self.begun.take() {
            begun.end();
        }
    }
}
