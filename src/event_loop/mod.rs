//! `LoopCore`, the native base of `hybridloop.Loop`.
//!
//! * [`attributes`] — the attributes and cold methods that Python sees.
//! * [`run_once`] — one iteration after another until the loop is stopped.
//! * [`call_soon`] — `call_soon`, `call_later`, `call_at`; [`callback_args`] — their arguments.
//! * [`tasks`], [`futures`] — making tasks and futures.
//! * [`handles`] — running, cancelling and describing handles.
//! * [`io`] — descriptors: `add_reader` and related methods, readiness, receiving.
//! * [`dns`] — `getaddrinfo` and `getnameinfo`.
//! * [`sockets`] — `sock_recv` and related methods.
//! * [`completions`] — the interface for completions from threads without Python.
//! * [`stacks`] — callbacks that wait on a stack of their own while the loop goes on.
//! * [`waiting`] — leaving a stack, and going on with it; [`driving`] — an awaitable that is run by an ordinary function.
//! * [`stats`] — counters.
//! * [`overrides`] — functions that programs replace: the loop's `time()`, `Handle._run()`, `select()`.
//! * [`loop_ref`] — references that are known to be loops.
//! * [`methods`] — adding methods to the class, with asyncio's signatures.
//! * [`exceptions`] — reports to the loop's exception handler.

mod attributes;
mod call_soon;
mod callback_args;
mod completions;
mod dns;
mod driving;
pub mod exceptions;
mod futures;
mod handles;
pub mod io;
mod loop_ref;
mod methods;
mod overrides;
mod run_once;
mod sockets;
pub mod stacks;
mod stats;
mod tasks;
mod waiting;

use std::os::fd::RawFd;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use hybridloop_reactor::{Event, Interest, Poller, Registrar, TimerHeap, Token, WakeHandle};
use hybridloop_sync::clock::ns_to_seconds;
use hybridloop_sync::primitives::lock;
use hybridloop_sync::tsc::ns_to_ticks;
use hybridloop_sync::NotifyQueue;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::types::PyCFunction;

use crate::python::bytes::SpareBytes;
use crate::python::context::Contexts;
use crate::python::handle::{HandlePool, HandleRef};
use crate::python::{
    vectorcall, Cell, FfiResult, LoopCell, QueueCell, Ref, RelaxedBool, RelaxedU64, SlotCell,
};
pub use completions::CompletionSource;
pub use io::files::file_descriptor;
pub use io::registration::{Descriptors, Source};
pub use loop_ref::LoopRef;
pub use methods::{install, install_functions};

pub use io::source::{IoRef, IoSource, LoopContext, SourceVTable};

/// Native state of one event loop.
///
/// It belongs to the thread that runs the loop. Other threads use `call_soon_threadsafe`, and read only atomic fields. On
/// free-threaded builds, methods that change other fields raise in other threads (see [`LoopCore::check_thread`]).
#[pyclass(frozen, subclass, module = "hybridloop._core")]
pub struct LoopCore {
    pub ready: QueueCell<HandleRef>,
    pub handle_pool: LoopCell<HandlePool>,
    pub contexts: LoopCell<Contexts>,
    pub timers: LoopCell<TimerHeap<HandleRef>>,
    pub inbox: NotifyQueue<HandleRef>,
    /// `None` once the loop is closed. Locked only when the loop sleeps, not on the hot path.
    waker: Mutex<Option<WakeHandle>>,
    /// In a box, because each poll takes it out of its cell.
    poller: LoopCell<Option<Box<Poller>>>,
    /// Whether a green-thread library has replaced `select.select()`. The loop then waits with that function.
    green_threads: bool,
    registrar: Registrar,
    pub descriptors: LoopCell<Descriptors>,
    lookups: dns::Lookups,
    completions: OnceLock<Box<dyn CompletionSource>>,
    pub stats: stats::Stats,
    pub stacks: stacks::Stacks,
    events: QueueCell<Event>,
    /// Transports with corked writes of this iteration.
    pub to_flush: QueueCell<IoRef>,
    /// Transports and listeners that have more to read than one event allows.
    pub to_resume: QueueCell<IoRef>,
    /// The receive buffer that all streams share.
    pub scratch: LoopCell<Vec<u8>>,
    /// The `bytes` object of the last read, for reuse if the protocol has not kept it.
    pub spare_bytes: SpareBytes,
    polls_skipped: Cell<u32>,
    last_poll: Cell<u64>,
    /// When streams were flushed last, or the last poll ended, in ticks of the processor's counter.
    flushed: Cell<u64>,
    closed: RelaxedBool,
    stopping: RelaxedBool,
    debug: RelaxedBool,
    /// The thread that runs iterations; 0 if none does.
    running_thread: AtomicU64,
    /// The process in which an iteration runs; 0 if none does. A forked child does not take its parent's iteration for its own.
    iterating_process: RelaxedU64,
    overrides: overrides::Overrides,
    /// Handles take the slow path: debug mode is on, or `Handle._run()` was replaced.
    needs_slow_run: RelaxedBool,
    /// Identifier of the thread that runs the loop; 0 while it does not run.
    thread_id: RelaxedU64,
    /// `poll_skip_interval` in ticks of the processor's counter.
    poll_skip_ticks: Cell<u64>,
    poll_skip_interval: Cell<f64>,
    poll_skip_iterations: Cell<u32>,
    busy_poll: Cell<Duration>,
    /// How long new streams cork writes; see [`LoopCore::callback_ticks`].
    pub cork: Cell<u64>,
    slow_callback_duration: SlotCell<Ref>,
    task_factory: SlotCell<Ref>,
    current_handle: SlotCell<Ref>,
    /// Keyword arguments of every future.
    future_keywords: SlotCell<Ref>,
    /// The class of stream transports, a subclass of `StreamTransport` made in Python.
    pub transport_class: SlotCell<Ref>,
}

// Python's allocator aligns objects to 16 bytes and no more.
const _: () = assert!(align_of::<LoopCore>() <= 16);

// SAFETY: a `LoopCell` admits one thread at a time. `Cell`s are used only by the thread that runs the loop, under the
// interpreter lock or, on free-threaded builds, behind `running_thread` or `check_thread`.
unsafe impl Send for LoopCore {}
// SAFETY: `LoopCell` and atomics may be shared. `Cell`s are used only by the thread that runs the loop, or under the lock.
unsafe impl Sync for LoopCore {}

impl LoopCore {
    fn create(py: Python<'_>) -> PyResult<Self> {
        let poller = Poller::new().map_err(|error| exceptions::os_error(&error))?;
        Ok(Self {
            ready: QueueCell::default(),
            handle_pool: LoopCell::default(),
            contexts: LoopCell::default(),
            timers: LoopCell::default(),
            inbox: NotifyQueue::new(),
            waker: Mutex::new(Some(poller.waker())),
            lookups: dns::Lookups::new(poller.waker()),
            completions: OnceLock::new(),
            stats: stats::Stats::default(),
            stacks: stacks::Stacks::default(),
            registrar: poller.registrar(),
            poller: LoopCell::new(Some(Box::new(poller))),
            green_threads: !run_once::select(py)?.is_instance_of::<PyCFunction>(),
            descriptors: LoopCell::default(),
            events: QueueCell::default(),
            to_flush: QueueCell::default(),
            to_resume: QueueCell::default(),
            scratch: LoopCell::default(),
            spare_bytes: SpareBytes::default(),
            polls_skipped: Cell::new(0),
            last_poll: Cell::new(0),
            flushed: Cell::new(0),
            closed: RelaxedBool::default(),
            stopping: RelaxedBool::default(),
            debug: RelaxedBool::default(),
            running_thread: AtomicU64::new(0),
            iterating_process: RelaxedU64::default(),
            overrides: overrides::Overrides::default(),
            needs_slow_run: RelaxedBool::default(),
            thread_id: RelaxedU64::default(),
            poll_skip_ticks: Cell::new(ns_to_ticks(run_once::POLL_SKIP_NS)),
            poll_skip_interval: Cell::new(ns_to_seconds(run_once::POLL_SKIP_NS)),
            poll_skip_iterations: Cell::new(run_once::POLL_SKIP_ITERATIONS),
            busy_poll: Cell::new(Duration::ZERO),
            cork: Cell::new(ns_to_ticks(run_once::CORK_NS)),
            slow_callback_duration: SlotCell::default(),
            task_factory: SlotCell::default(),
            current_handle: SlotCell::default(),
            future_keywords: SlotCell::default(),
            transport_class: SlotCell::default(),
        })
    }

    /// The core of a loop object.
    ///
    /// # Safety
    /// `object` is a live instance of `LoopCore` or a subclass.
    #[inline]
    pub unsafe fn of<'a>(object: *mut PyObject) -> &'a Self {
        // SAFETY: the caller guarantees a live instance of `LoopCore`; only attached threads have one.
        unsafe {
            Borrowed::from_ptr(Python::assume_attached(), object)
                .cast_unchecked::<Self>()
                .get()
        }
    }

    pub fn is_running(&self) -> bool {
        self.thread_id.get() != 0
    }

    /// Whether the loop runs in this thread.
    #[inline]
    pub fn runs_here(&self) -> bool {
        self.thread_id.get() == current_thread()
    }

    /// Whether an iteration runs, in `run_forever()` or not.
    fn is_iterating(&self) -> bool {
        self.iterating_process.get() == u64::from(std::process::id())
    }

    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub fn is_debug(&self) -> bool {
        self.debug.get()
    }

    /// When the loop polled last, in ticks of the processor's counter.
    #[inline]
    pub fn last_poll(&self) -> u64 {
        self.last_poll.get()
    }

    #[inline]
    pub fn check_open(&self) -> FfiResult<()> {
        if self.closed.get() {
            return Err(closed_error());
        }
        Ok(())
    }

    pub fn wake(&self) {
        let waker = lock(&self.waker);
        if let Some(waker) = waker.as_ref() {
            // It fails only if the counter is full; then the loop has been woken already.
            let _ = waker.wake();
        }
    }

    /// Wakes the loop if another thread calls, so that the loop handles what that thread has queued.
    pub fn wake_from_other_thread(&self) {
        if self.is_running() && !self.runs_here() && self.inbox.notify() {
            self.wake();
        }
    }

    /// How long the current callback has run, in ticks of the processor's counter.
    #[inline]
    pub fn callback_ticks(&self) -> u64 {
        self.stats.callback_ticks()
    }

    /// Registers a descriptor as edge-triggered by [`Registrar::register_edge`], and makes the next iteration poll.
    pub fn register_edge(
        &self,
        fd: RawFd,
        token: Token,
        interest: Interest,
        known: bool,
    ) -> std::io::Result<()> {
        self.poll_next_iteration();
        self.registrar.register_edge(fd, token, interest, known)
    }

    /// Registers a descriptor as level-triggered by [`Registrar::register_level`], and makes the next iteration poll.
    pub fn register_level(
        &self,
        fd: RawFd,
        token: Token,
        interest: Interest,
        known: bool,
    ) -> std::io::Result<()> {
        self.poll_next_iteration();
        self.registrar.register_level(fd, token, interest, known)
    }

    /// Deregisters a descriptor, unless the loop is closed and so has no poller.
    pub fn deregister(&self, fd: RawFd) {
        if !self.closed.get() {
            // It fails if the kernel has no such registration, for example after `close()` of the descriptor.
            let _ = self.registrar.deregister(fd);
        }
    }

    /// See [`check_thread`].
    #[inline]
    pub fn check_thread(&self) -> FfiResult<()> {
        if self.is_owner() {
            Ok(())
        } else {
            self.refuse_other_thread()
        }
    }

    /// Whether this thread may touch the loop's state directly.
    #[inline]
    #[allow(clippy::unused_self)]
    pub fn is_owner(&self) -> bool {
        #[cfg(not(Py_GIL_DISABLED))]
        {
            true
        }
        #[cfg(Py_GIL_DISABLED)]
        {
            let owner = self.thread_id.get();
            owner == 0 || owner == current_thread()
        }
    }
}

/// For methods that are not thread-safe, as in asyncio. On free-threaded builds they raise the error of asyncio's debug mode if
/// another thread calls them while the loop runs.
///
/// # Safety
/// `slf` is a live loop.
#[inline]
pub unsafe fn check_thread(slf: *mut PyObject) -> FfiResult<()> {
    // SAFETY: the caller guarantees that `slf` is a live loop.
    unsafe { LoopCore::of(slf) }.check_thread()
}

fn current_thread() -> u64 {
    // SAFETY: may be called by any thread; it returns the number of `threading.get_ident()`.
    unsafe { pyo3::ffi::PyThread_get_thread_ident() as u64 }
}

/// The error of asyncio for the use of a closed loop.
#[cold]
pub fn closed_error() -> vectorcall::ErrSet {
    PyRuntimeError::new_err("Event loop is closed").into()
}

impl LoopCore {
    /// Drops all that is pending. Each list is taken out of its cell before it is dropped, because dropping may run Python.
    fn close(&self) {
        self.closed.set(true);
        self.inbox.clear();
        while let Some(handle) = self.inbox.pop() {
            drop(handle);
        }
        drop(self.ready.take());
        let timers = self.timers.with(TimerHeap::take_all);
        for timer in &timers {
            handles::mark_unscheduled(timer);
        }
        drop(timers);
        drop(self.to_flush.take());
        drop(self.to_resume.take());
        drop(self.events.take());
        // One at a time: dropping a source may end others, which then remove themselves.
        while let Some(source) = self.descriptors.with(Descriptors::pop) {
            source.forget();
        }
        self.lookups.close();
        if let Some(completions) = self.completions() {
            completions.close();
        }
        let handles = self.handle_pool.with(HandlePool::take_all);
        drop(handles);
        drop(Contexts::take_all(&self.contexts));
        drop(self.future_keywords.take());
        self.scratch.take();
        self.spare_bytes.clear();
        drop(self.poller.take());
        drop(lock(&self.waker).take());
    }
}

/// Adds the loop's classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    handles::register(module)?;
    module.add_class::<LoopCore>()?;
    waiting::register(module)?;
    let class = module.py().get_type::<LoopCore>();
    call_soon::add_methods(&class)?;
    io::registration::add_methods(&class)?;
    sockets::register(&class)?;
    stacks::add_methods(&class)?;
    dns::register(&class)?;
    Ok(())
}
