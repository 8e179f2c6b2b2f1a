//! Waiting for other threads: wakers, which need no interpreter.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hybridloop_kernels::{Event, EventQueue};
use hybridloop_sync::primitives::lock;
use hybridloop_sync::Process;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::kernels::completion_queue::CompletionQueue;
use crate::kernels::loop_handle::LoopHandle;
use crate::python::{FfiResult, LoopCell, Ref};

/// What the wakers of one coroutine share with it. It holds no Python object, so it may outlive the interpreter.
struct Shared {
    woken: AtomicBool,
    /// How many wakers there are.
    wakers: AtomicUsize,
    /// Where to post that the coroutine has to look, once it waits.
    post: Mutex<Option<(Arc<EventQueue>, u64)>>,
    process: Process,
}

impl Shared {
    /// Wakes the coroutine if it waits.
    fn notify(&self) {
        let post = lock(&self.post).take();
        if let Some((events, token)) = post {
            events.push(Event::Readable(token));
        }
    }

    /// Whether the coroutine was woken. A later call tells of later wakes.
    fn take_woken(&self) -> bool {
        self.woken.swap(false, Ordering::AcqRel)
    }

    fn is_abandoned(&self) -> bool {
        self.wakers.load(Ordering::Acquire) == 0
    }
}

/// The side of the coroutine.
#[derive(Default)]
pub struct Waiting {
    /// Made with the first waker.
    shared: LoopCell<Option<Arc<Shared>>>,
    /// The future that it waits for is registered there.
    registered: LoopCell<Option<(Arc<CompletionQueue>, u64)>>,
}

impl Waiting {
    /// A waker of the coroutine.
    fn new_waker(&self) -> *mut Waker {
        let shared = self.shared.with(|shared| {
            shared
                .get_or_insert_with(|| {
                    Arc::new(Shared {
                        woken: AtomicBool::new(false),
                        wakers: AtomicUsize::new(0),
                        post: Mutex::new(None),
                        process: Process::current(),
                    })
                })
                .clone()
        });
        Waker::new(shared)
    }

    /// Begins to wait: gives the future to wait for, or nothing if the coroutine was woken already.
    ///
    /// # Errors
    /// `RuntimeError` if nobody is left to wake it, or if no event loop of asyncio runs.
    pub fn begin(&self, py: Python<'_>) -> PyResult<Option<Ref>> {
        let Some(shared) = self.shared.with(|shared| shared.clone()) else {
            return Err(PyRuntimeError::new_err(
                "HLA_WAIT without a waker: nobody would wake the coroutine",
            ));
        };
        if shared.take_woken() {
            return Ok(None);
        }
        let Some(handle) = LoopHandle::running(py)? else {
            return Err(PyRuntimeError::new_err("no running event loop"));
        };
        let future = handle.create_future(py)?;
        handle.queue.reserve()?;
        let token = handle.queue.register_waiter(future.clone());
        let post = (handle.queue.events().clone(), token);
        let before = self.registered.replace(Some((handle.queue, token)));
        drop(before);
        *lock(&shared.post) = Some(post);
        // Wakers look for the post after they have told: what was told before it was there is seen here.
        if shared.take_woken() {
            self.end();
            return Ok(None);
        }
        if shared.is_abandoned() {
            self.end();
            return Err(nobody_left());
        }
        Ok(Some(future))
    }

    /// The coroutine goes on, maybe after it has waited, with that outcome.
    pub fn resumed(&self, _py: Python<'_>, outcome: FfiResult<Ref>) -> FfiResult<Ref> {
        if self.registered.with(|registered| registered.is_none()) {
            return outcome;
        }
        self.end();
        let value = outcome?;
        let shared = self.shared.with(|shared| shared.clone());
        if shared.is_some_and(|shared| !shared.take_woken() && shared.is_abandoned()) {
            return Err(nobody_left().into());
        }
        Ok(value)
    }

    /// Ends waiting. An exception that is set stays.
    pub fn end(&self) {
        let Some((queue, token)) = self.registered.take() else {
            return;
        };
        if !queue.is_current_process() {
            return;
        }
        let post = self
            .shared
            .with(|shared| shared.clone())
            .and_then(|shared| lock(&shared.post).take());
        drop(post);
        let future = queue.deregister_waiter(token);
        drop(future);
    }
}

#[cold]
fn nobody_left() -> PyErr {
    PyRuntimeError::new_err("nobody is left to wake the coroutine: all its wakers were dropped")
}

/// The functions of a waker. Threads that have imported nothing find them by the waker.
#[repr(C)]
struct WakerFunctions {
    clone: unsafe extern "C" fn(*mut Waker) -> *mut Waker,
    wake: unsafe extern "C" fn(*mut Waker),
    drop: unsafe extern "C" fn(*mut Waker),
}

static FUNCTIONS: WakerFunctions = WakerFunctions {
    clone,
    wake,
    drop: drop_waker,
};

/// `hla_waker`
#[repr(C)]
pub struct Waker {
    functions: *const c_void,
    shared: Arc<Shared>,
}

impl Waker {
    fn new(shared: Arc<Shared>) -> *mut Self {
        shared.wakers.fetch_add(1, Ordering::AcqRel);
        let functions = (&raw const FUNCTIONS).cast();
        Box::into_raw(Box::new(Self { functions, shared }))
    }

    /// Takes the waker that a program gives up; `None` in the child of a fork, where locks and memory are left alone.
    ///
    /// # Safety
    /// `waker` is one of `new` that was not given up yet.
    unsafe fn take(waker: *mut Self) -> Option<Arc<Shared>> {
        // SAFETY: the caller guarantees a waker that `new` has made.
        unsafe {
            let shared = &(*waker).shared;
            if !shared.process.is_current() {
                return None;
            }
            Some(Box::from_raw(waker).shared)
        }
    }
}

/// `hla_waker_new()`, for the coroutine with this body.
pub fn new_waker(waiting: &Waiting) -> *mut Waker {
    waiting.new_waker()
}

// Any thread may call these functions, also when there is no interpreter any more.

unsafe extern "C" fn clone(waker: *mut Waker) -> *mut Waker {
    // SAFETY: the program passes a waker that it has.
    Waker::new(unsafe { (*waker).shared.clone() })
}

unsafe extern "C" fn wake(waker: *mut Waker) {
    // SAFETY: the program gives up a waker that it has.
    if let Some(shared) = unsafe { Waker::take(waker) } {
        shared.woken.store(true, Ordering::Release);
        shared.wakers.fetch_sub(1, Ordering::AcqRel);
        shared.notify();
    }
}

unsafe extern "C" fn drop_waker(waker: *mut Waker) {
    // SAFETY: the program gives up a waker that it has.
    if let Some(shared) = unsafe { Waker::take(waker) } {
        if shared.wakers.fetch_sub(1, Ordering::AcqRel) == 1 {
            shared.notify();
        }
    }
}
