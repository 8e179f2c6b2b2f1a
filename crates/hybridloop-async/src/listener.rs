//! A future that wants to be told of a cancellation.

use std::cell::RefCell;
use std::task::Waker;

use pyo3::prelude::*;

/// What the future shares with the coroutine.
#[derive(Default)]
pub struct Listener {
    pub error: RefCell<Option<PyErr>>,
    pub waker: RefCell<Option<Waker>>,
}

impl Listener {
    pub fn tell(&self, error: PyErr) {
        self.error.replace(Some(error));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
