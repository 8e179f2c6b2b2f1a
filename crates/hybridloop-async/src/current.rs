//! The coroutine that is being polled, for the futures in it.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;

use pyo3::prelude::*;

use crate::driven::Await;
use crate::listener::Listener;
use crate::waker::Shared;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
}

/// What a coroutine shares with the futures in it.
pub struct Core {
    pub shared: Arc<Shared>,
    pub waker: Waker,
    /// The awaitables of Python that it waits for.
    pub awaits: RefCell<Vec<Weak<Await>>>,
    /// The futures that want to be told of a cancellation.
    pub listeners: RefCell<Vec<Weak<Listener>>>,
    /// Ends the coroutine, past its future.
    pub failed: Cell<Option<PyErr>>,
}

impl Core {
    pub fn new() -> Self {
        let shared = Arc::new(Shared::new());
        Self {
            waker: Waker::from(shared.clone()),
            shared,
            awaits: RefCell::default(),
            listeners: RefCell::default(),
            failed: Cell::default(),
        }
    }

    /// Whether something beside Python's awaitables may wake it: the coroutine itself has two references.
    pub fn is_awaited_by_others(&self) -> bool {
        Arc::strong_count(&self.shared) > 2
    }
}

/// The coroutine that is being polled by this thread.
pub fn current() -> Option<Rc<Core>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Runs `f` with `core` as the current coroutine.
pub fn with_current<R>(core: &Rc<Core>, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Rc<Core>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    let _restore = Restore(CURRENT.replace(Some(core.clone())));
    f()
}

/// Those that are still there; the others are removed.
pub fn alive<T>(list: &RefCell<Vec<Weak<T>>>) -> Vec<Rc<T>> {
    let mut found = Vec::new();
    list.borrow_mut().retain(|item| {
        let item = item.upgrade();
        let is_alive = item.is_some();
        found.extend(item);
        is_alive
    });
    found
}
