//! `DeferredDrop`: a Python object, or anything else that needs attachment, that any thread may drop. The last job of a kernel may
//! end on a worker, which is not attached to the interpreter, so it cannot drop what the kernel keeps alive.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

use hybridloop_sync::fork;
use hybridloop_sync::primitives::lock;
use pyo3::ffi;
use pyo3::prelude::*;

/// What any thread may drop. A thread that is not attached leaves it to the next call of [`drop_deferred`].
pub struct DeferredDrop<T: Send + 'static = Py<PyAny>>(Option<T>);

impl DeferredDrop {
    pub fn new(object: &Bound<'_, PyAny>) -> Self {
        Self(Some(object.clone().unbind()))
    }
}

impl<T: Send> DeferredDrop<T> {
    pub fn of(content: T) -> Self {
        Self(Some(content))
    }
}

/// What was dropped by threads that were not attached. Forks are held off while it is locked, because workers lock it, and the
/// child of a fork could not unlock it.
static DEFERRED: Mutex<Vec<Box<dyn Any + Send>>> = Mutex::new(Vec::new());

/// Whether an attached thread has something to do: to drop deferred objects, or to dispatch the events of detached jobs. One
/// flag for both, because it is read for every job that is submitted.
static DRAIN_REQUESTED: AtomicBool = AtomicBool::new(false);

/// Requests that an attached thread drains what has been deferred. Can be called by any thread.
pub fn request_drain() {
    DRAIN_REQUESTED.store(true, Ordering::Release);
}

#[inline]
pub fn is_drain_requested() -> bool {
    DRAIN_REQUESTED.load(Ordering::Relaxed)
}

/// Withdraws the request, before the draining begins: what is added from here on requests it again.
pub fn begin_drain() {
    DRAIN_REQUESTED.store(false, Ordering::SeqCst);
}

impl<T: Send> Drop for DeferredDrop<T> {
    fn drop(&mut self) {
        let Some(object) = self.0.take() else { return };
        // SAFETY: both functions can be called by any thread. PyGILState_Check() alone does not suffice: it returns 1 in every
        // thread once there is a subinterpreter.
        let is_attached = unsafe {
            !ffi::PyGILState_GetThisThreadState().is_null() && ffi::PyGILState_Check() != 0
        };
        if is_attached {
            drop(object);
            return;
        }
        let object = Box::new(object);
        let no_forks = fork::block();
        let mut deferred = lock(&DEFERRED);
        deferred.push(object);
        IS_PENDING.store(true, Ordering::Release);
        drop((deferred, no_forks));
        request_drain();
    }
}

/// Whether there is anything in it, for loops, which look after each dispatch.
static IS_PENDING: AtomicBool = AtomicBool::new(false);

/// Drops the objects that threads dropped while they were not attached.
#[inline]
pub fn drop_deferred(_py: Python<'_>) {
    if IS_PENDING.load(Ordering::Acquire) {
        drop_all();
    }
}

#[cold]
fn drop_all() {
    let no_forks = fork::block();
    let mut deferred = lock(&DEFERRED);
    let objects = std::mem::take(&mut *deferred);
    IS_PENDING.store(false, Ordering::Release);
    drop((deferred, no_forks));
    drop(objects);
}
