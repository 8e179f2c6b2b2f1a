//! Futures that are told of a cancellation.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use pyo3::prelude::*;

use crate::current::current;
use crate::listener::Listener;

/// The future of [`Cx::on_cancel`](crate::Cx::on_cancel).
#[derive(Default)]
#[must_use = "futures do nothing unless they are awaited"]
pub struct OnCancel {
    listener: Option<Rc<Listener>>,
}

impl Future for OnCancel {
    type Output = PyErr;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<PyErr> {
        if self.listener.is_none() {
            let Some(core) = current() else {
                // Nobody cancels it here.
                return Poll::Pending;
            };
            let listener = Rc::new(Listener::default());
            core.listeners.borrow_mut().push(Rc::downgrade(&listener));
            self.listener = Some(listener);
        }
        if let Some(listener) = &self.listener {
            if let Some(error) = listener.error.take() {
                self.listener = None;
                return Poll::Ready(error);
            }
            listener.waker.replace(Some(context.waker().clone()));
        }
        Poll::Pending
    }
}
