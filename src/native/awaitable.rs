//! `NativeAwaitable`: what jobs and batches have in common. It does what an `asyncio.Future` does, and belongs to whichever loop
//! looks at it, so tasks of several loops can wait for the same job.
//!
//! asyncio takes for a future what has `_asyncio_future_blocking`, and asks it for its loop, for `add_done_callback()` and
//! `cancel()`. Here the loop is the one that runs in the calling thread; each loop with a callback hears of the end through
//! its own inlet.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use hybridloop_native::{Batch, Event, Job, Mailbox};
use pyo3::exceptions::{PyRuntimeError, PyTimeoutError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::types::{PyDict, PyList, PyType};
use pyo3::{PyClass, PyTraverseError};

use super::arguments::Pins;
use super::completion::{
    current_context, lock, look_after_strays, running_loop, strays, Home, Inlet,
};
use super::outcome::Settled;
use crate::ffi::coroutine::{self, Class, Operation, Step, Visit};
use crate::ffi::fastcall::guard_int;
use crate::ffi::{Ref, Res};
use crate::stdlib::Stdlib;

/// How long a thread that waits goes without looking for signals.
const SIGNALS_EVERY: Duration = Duration::from_millis(50);

/// What there is to wait for.
pub enum Work {
    One(Arc<Job>),
    Many {
        batch: Arc<Batch>,
        jobs: Vec<Arc<Job>>,
        return_exceptions: bool,
    },
}

impl Work {
    fn jobs(&self) -> &[Arc<Job>] {
        match self {
            Self::One(job) => std::slice::from_ref(job),
            Self::Many { jobs, .. } => jobs,
        }
    }

    /// Whether every kernel has returned, or will not run.
    fn is_over(&self) -> bool {
        match self {
            Self::One(job) => job.outcome().is_some(),
            Self::Many { batch, .. } => batch.remaining() == 0,
        }
    }

    fn subscribe(&self, mailbox: Arc<Mailbox<Event>>) {
        match self {
            Self::One(job) => job.subscribe(mailbox),
            Self::Many { batch, .. } => batch.subscribe(mailbox),
        }
    }

    /// Blocks until it is over, at most until then.
    fn wait(&self, until: Option<Instant>) -> bool {
        self.jobs().iter().all(|job| job.wait(until).is_some())
    }

    fn kernel(&self) -> &str {
        self.jobs().first().map_or("", |job| job.kernel().name())
    }

    fn outcome(&self, py: Python<'_>) -> PyResult<Settled> {
        let (jobs, return_exceptions) = match self {
            Self::One(job) => return Ok(Settled::of(py, job)),
            Self::Many {
                jobs,
                return_exceptions,
                ..
            } => (jobs, *return_exceptions),
        };
        let results = PyList::empty(py);
        for job in jobs {
            match Settled::of(py, job) {
                Settled::Value(value) => results.append(value.bind(py))?,
                Settled::Error(error) if return_exceptions => results.append(error.bind(py))?,
                Settled::Cancelled if return_exceptions => {
                    let class = Stdlib::get().cancelled_error.bind(py);
                    results.append(class.call0()?)?;
                }
                ended => return Ok(ended),
            }
        }
        Ok(Settled::Value(results.into_any().into()))
    }
}

struct Callback {
    home: Home,
    function: Ref,
    context: Ref,
}

#[derive(Default)]
struct State {
    settled: Option<Settled>,
    callbacks: Vec<Callback>,
    pins: Pins,
    timer: Option<Ref>,
    cancel_message: Option<Ref>,
    /// Somebody has seen how it ended.
    retrieved: bool,
}

/// The common base of `NativeJob` and `NativeBatch`.
#[pyclass(frozen, subclass, weakref, module = "hybridloop._core")]
pub struct NativeAwaitable {
    work: OnceLock<Work>,
    /// That of the loop it was submitted on.
    home: Option<Home>,
    /// Whether `cancel()` and a timeout end it at once, while the kernel runs on.
    detach: bool,
    blocking: AtomicBool,
    /// Locked for moments in which no Python runs and nothing is dropped.
    state: Mutex<State>,
}

impl NativeAwaitable {
    pub fn new(home: Option<Home>, detach: bool, pins: Pins) -> Self {
        Self {
            work: OnceLock::new(),
            home,
            detach,
            blocking: AtomicBool::new(false),
            state: Mutex::new(State {
                pins,
                ..State::default()
            }),
        }
    }

    pub fn home(&self) -> Option<&Home> {
        self.home.as_ref()
    }

    /// What it waits for; `None` only until it was submitted.
    pub fn work(&self) -> Option<&Work> {
        self.work.get()
    }

    /// It was submitted: what comes in for it finds it from now on.
    pub fn begin(slf: &Bound<'_, Self>, work: Work, timeout: Option<Duration>) -> PyResult<()> {
        let this = slf.get();
        let work = this.work.get_or_init(|| work);
        let inlet = this.home_inlet();
        drop(inlet.expect(work, slf.into()));
        let is_here = this.home.as_ref().is_some_and(Home::is_surely_here);
        if work.is_over() && (work.jobs().is_empty() || !is_here) {
            // Another thread may have seen the end before there was anybody to tell; of nothing, nobody tells.
            work.subscribe(inlet.mailbox().clone());
        }
        if let (Some(timeout), Some(home)) = (timeout, &this.home) {
            this.arm(slf, home, timeout)?;
        }
        Ok(())
    }

    fn home_inlet(&self) -> Arc<Inlet> {
        self.home
            .as_ref()
            .map_or_else(strays, |home| home.inlet.clone())
    }

    /// Has the loop look after the deadline: nobody else watches that of a job that waits.
    fn arm(&self, slf: &Bound<'_, Self>, home: &Home, timeout: Duration) -> PyResult<()> {
        let py = slf.py();
        if timeout.is_zero() {
            return Self::_expire(slf);
        }
        let expire = slf.getattr("_expire")?;
        // The job's own clock was read before, and is finer than the loop's.
        let seconds = timeout.as_secs_f64() + 1e-6;
        let event_loop = home.event_loop.bind(py);
        let is_here =
            home.is_surely_here() || running_loop(py)?.is_none_or(|running| running.is(event_loop));
        if !is_here {
            let arm = slf.getattr("_arm")?;
            event_loop.call_method1("call_soon_threadsafe", (arm, seconds))?;
            return Ok(());
        }
        let timer = event_loop.call_method1("call_later", (seconds, expire))?;
        let before = lock(&self.state).timer.replace(timer.into());
        drop(before);
        Ok(())
    }

    /// What has come in at an inlet: its work is over.
    pub fn arrived(py: Python<'_>, waiting: &Ref, inlet: &Inlet) -> PyResult<()> {
        let slf = waiting.bind(py).cast::<Self>()?;
        let this = slf.get();
        this.settle(py);
        this.release();
        let mine = |callback: &Callback| std::ptr::eq(&raw const *callback.home.inlet, inlet);
        let callbacks = this.take_callbacks(mine);
        let called = call_all(py, callbacks, slf.as_any(), true);
        if this
            .home
            .as_ref()
            .is_none_or(|home| std::ptr::eq(&raw const *home.inlet, inlet))
        {
            super::job::ended(py, waiting, inlet)?;
        }
        called
    }

    /// Its loop was closed: what is left comes in with the strays.
    pub fn lose_home(py: Python<'_>, waiting: &Ref) {
        let Ok(slf) = waiting.bind(py).cast::<Self>() else {
            return;
        };
        let Some(work) = slf.get().work() else { return };
        let inlet = strays();
        drop(inlet.expect(work, waiting.clone()));
        work.subscribe(inlet.mailbox().clone());
    }

    /// Takes over how the work has ended, unless it was settled before.
    fn settle(&self, py: Python<'_>) {
        if lock(&self.state).settled.is_some() {
            return;
        }
        let Some(work) = self.work() else { return };
        let settled = work
            .outcome(py)
            .unwrap_or_else(|error| Settled::error(py, error));
        self.settle_as(settled);
    }

    /// Whether it was not settled before.
    fn settle_as(&self, settled: Settled) -> bool {
        let mut state = lock(&self.state);
        if state.settled.is_some() {
            drop(state);
            drop(settled);
            return false;
        }
        state.settled = Some(settled);
        true
    }

    /// Lets go of what the kernels have used and of the timer.
    fn release(&self) {
        let mut state = lock(&self.state);
        let (pins, timer) = (std::mem::take(&mut state.pins), state.timer.take());
        drop(state);
        drop(pins);
        if let Some(timer) = timer {
            // SAFETY: whoever releases is attached.
            let py = unsafe { Python::assume_attached() };
            if let Err(error) = timer.bind(py).call_method0("cancel") {
                error.write_unraisable(py, None);
            }
        }
    }

    fn take_callbacks(&self, which: impl Fn(&Callback) -> bool) -> Vec<Callback> {
        let mut state = lock(&self.state);
        if state.callbacks.iter().all(&which) {
            return std::mem::take(&mut state.callbacks);
        }
        let (taken, left) = std::mem::take(&mut state.callbacks)
            .into_iter()
            .partition(which);
        state.callbacks = left;
        taken
    }

    /// Settles before the kernel has returned; its buffers stay pinned until it does.
    fn settle_early(&self, slf: &Bound<'_, Self>, settled: Settled) -> PyResult<()> {
        let py = slf.py();
        if !self.settle_as(settled) {
            return Ok(());
        }
        let callbacks = self.take_callbacks(|_| true);
        let called = call_all(py, callbacks, slf.as_any(), false);
        let here = Home::running(py)?;
        let none = strays();
        let inlet = here.as_ref().map_or(&none, |home| &home.inlet);
        super::job::ended(py, &slf.into(), inlet)?;
        called
    }

    /// How it has ended. A thread without a loop, which cannot be told, looks for itself.
    fn settled(&self, py: Python<'_>) -> PyResult<Option<Settled>> {
        if let Some(settled) = self.peek() {
            return Ok(Some(settled));
        }
        if self.work().is_some_and(Work::is_over) && running_loop(py)?.is_none() {
            self.settle_here(py);
        }
        Ok(self.peek())
    }

    /// It is over, and this thread has seen it first.
    fn settle_here(&self, py: Python<'_>) {
        self.settle(py);
        self.release();
        if let (None, Some(work)) = (&self.home, self.work()) {
            // No loop has to be told, so nothing keeps it.
            drop(strays().forget(work));
            look_after_strays(py);
        }
    }

    pub fn peek(&self) -> Option<Settled> {
        lock(&self.state).settled.clone()
    }

    fn retrieve(&self) {
        lock(&self.state).retrieved = true;
    }

    fn cancelled_error(&self, py: Python<'_>) -> PyErr {
        let class = Stdlib::get().cancelled_error.bind(py);
        let message = lock(&self.state).cancel_message.clone();
        let made = match message {
            Some(message) => class.call1((message.bind(py),)),
            None => class.call0(),
        };
        made.map_or_else(|error| error, PyErr::from_value)
    }

    /// The result, or the exception that it has ended with.
    pub fn value(&self, py: Python<'_>, settled: Settled) -> PyResult<Ref> {
        match settled {
            Settled::Value(value) => Ok(value),
            Settled::Cancelled => Err(self.cancelled_error(py)),
            Settled::Error(error) => {
                self.retrieve();
                // The same exception may be raised to many: none gets the frames of the others.
                // SAFETY: attached; the exception is live.
                unsafe { ffi::PyException_SetTraceback(error.as_ptr(), ffi::Py_None()) };
                Err(PyErr::from_value(error.bind(py).clone()))
            }
        }
    }

    /// Waits, in a thread that runs no loop.
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Settled> {
        look_after_strays(py);
        if let Some(settled) = self.settled(py)? {
            return Ok(settled);
        }
        if running_loop(py)?.is_some() {
            let class = Stdlib::get().invalid_state_error.bind(py);
            let text = "the job is not done, and an event loop runs in this thread, which waiting would block: await the job";
            return Err(PyErr::from_value(class.call1((text,))?));
        }
        let timeout = timeout.map(seconds).transpose()?;
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let slice = Instant::now() + SIGNALS_EVERY;
            let next = until.map_or(slice, |until| until.min(slice));
            let over = py.detach(|| self.work().is_some_and(|work| work.wait(Some(next))));
            if over {
                self.settle_here(py);
            }
            if let Some(settled) = self.peek() {
                return Ok(settled);
            }
            py.check_signals()?;
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(PyTimeoutError::new_err(()));
            }
        }
    }
}

/// A number of seconds that somebody waits at most.
pub fn seconds(timeout: f64) -> PyResult<Duration> {
    if timeout.is_nan() {
        return Err(PyValueError::new_err("timeout must not be NaN"));
    }
    Ok(Duration::try_from_secs_f64(timeout.max(0.0)).unwrap_or(Duration::MAX))
}

/// Schedules callbacks on their loops. One that cannot be scheduled does not keep the others from it.
fn call_all(
    py: Python<'_>,
    callbacks: Vec<Callback>,
    argument: &Bound<'_, PyAny>,
    all_here: bool,
) -> PyResult<()> {
    let mut result = Ok(());
    for Callback {
        home,
        function,
        context,
    } in callbacks
    {
        let args = [argument.as_ptr()];
        let here = all_here || home.is_surely_here();
        let called = if here {
            home.soon(py, &function, &args, &context)
        } else {
            home.soon_threadsafe(py, &function, &args, &context)
        };
        result = result.and(called);
    }
    result
}

#[pymethods]
impl NativeAwaitable {
    #[classmethod]
    #[pyo3(signature = (item, /))]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let alias = cls.py().import("types")?.getattr("GenericAlias")?;
        alias.call1((cls, item))
    }

    /// Whether there is a result: the kernel has returned, or will not run.
    fn done(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.settled(py)?.is_some())
    }

    /// Whether it was cancelled, and has ended.
    fn cancelled(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(matches!(self.settled(py)?, Some(Settled::Cancelled)))
    }

    /// Ask it to end; False if it is done already.
    ///
    /// What has not begun never runs. A running kernel is told, and the job ends, as cancelled, when the kernel returns; with
    /// `cancel_policy="detach"` it ends at once, and its buffers stay in use until the kernel returns.
    #[pyo3(signature = (msg=None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let this = slf.get();
        let Some(work) = this.work() else {
            return Ok(false);
        };
        if this.peek().is_some() {
            return Ok(false);
        }
        let mut asked = false;
        for job in work.jobs() {
            asked |= job.cancel();
        }
        if !asked {
            return Ok(false);
        }
        let before = std::mem::replace(&mut lock(&this.state).cancel_message, msg.map(Ref::from));
        drop(before);
        if this.detach && !work.is_over() {
            this.settle_early(slf, Settled::Cancelled)?;
        }
        Ok(true)
    }

    /// The result, or the exception that it has ended with.
    ///
    /// A thread that runs no event loop waits for it, at most `timeout` seconds, then it gets `TimeoutError`. In a thread that
    /// runs one, a job that is not done raises `asyncio.InvalidStateError`: await it there.
    #[pyo3(signature = (timeout=None))]
    fn result<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let settled = match self.peek() {
            Some(settled) => settled,
            None => self.wait(py, timeout)?,
        };
        let value = self.value(py, settled)?;
        // SAFETY: an owned reference.
        Ok(unsafe { Bound::from_owned_ptr(py, value.into_ptr()) })
    }

    /// The exception that it has ended with, or None; waits as `result()` does.
    #[pyo3(signature = (timeout=None))]
    fn exception(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Py<PyAny>>> {
        let settled = match self.peek() {
            Some(settled) => settled,
            None => self.wait(py, timeout)?,
        };
        match settled {
            Settled::Value(_) => Ok(None),
            Settled::Cancelled => Err(self.cancelled_error(py)),
            Settled::Error(error) => {
                self.retrieve();
                Ok(Some(error.bind(py).clone().unbind()))
            }
        }
    }

    /// Have `fn(self)` called by the loop that runs in this thread, or by the loop it was submitted on, once it is done.
    #[pyo3(signature = (fn_, /, *, context=None), text_signature = "($self, fn, /, *, context=None)")]
    fn add_done_callback(
        slf: &Bound<'_, Self>,
        fn_: &Bound<'_, PyAny>,
        context: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let home = match &this.home {
            Some(home) if home.is_surely_here() => home.clone(),
            own => match Home::running(py)? {
                Some(running) => running,
                None => own.clone().ok_or_else(|| {
                    PyRuntimeError::new_err(
                        "no running event loop, and the job was submitted without one",
                    )
                })?,
            },
        };
        let context = match context {
            Some(context) => context.into(),
            None => current_context(py)?,
        };
        let function = Ref::from(fn_);
        let mut state = lock(&this.state);
        if state.settled.is_some() {
            drop(state);
            return home.soon(py, &function, &[slf.as_ptr()], &context);
        }
        let told = this
            .home
            .iter()
            .chain(state.callbacks.iter().map(|known| &known.home))
            .any(|known| Arc::ptr_eq(&known.inlet, &home.inlet));
        let inlet = home.inlet.clone();
        state.callbacks.push(Callback {
            home,
            function,
            context,
        });
        drop(state);
        if let (false, Some(work)) = (told, this.work()) {
            drop(inlet.expect(work, slf.into()));
            work.subscribe(inlet.mailbox().clone());
        }
        Ok(())
    }

    /// Take all callbacks that are equal to `fn` out again; how many they were.
    #[pyo3(signature = (fn_, /), text_signature = "($self, fn, /)")]
    fn remove_done_callback(&self, fn_: &Bound<'_, PyAny>) -> PyResult<usize> {
        let all = self.take_callbacks(|_| true);
        let before = all.len();
        let mut left = Vec::with_capacity(before);
        let mut failed = Ok(());
        for callback in all {
            match callback.function.bind(fn_.py()).eq(fn_) {
                Ok(true) => drop(callback),
                Ok(false) => left.push(callback),
                Err(error) => {
                    failed = Err(error);
                    left.push(callback);
                }
            }
        }
        let removed = before - left.len();
        let mut state = lock(&self.state);
        left.append(&mut state.callbacks);
        state.callbacks = left;
        drop(state);
        failed.map(|()| removed)
    }

    /// The loop that runs in this thread, or the loop it was submitted on.
    fn get_loop<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(home) = &self.home {
            if home.is_surely_here() {
                return Ok(home.event_loop.bind(py).clone());
            }
        }
        if let Some(running) = running_loop(py)? {
            return Ok(running);
        }
        match &self.home {
            Some(home) => Ok(home.event_loop.bind(py).clone()),
            None => Err(PyRuntimeError::new_err("no running event loop")),
        }
    }

    #[getter(_asyncio_future_blocking)]
    fn is_blocking(&self) -> bool {
        self.blocking.load(Ordering::Relaxed)
    }

    #[setter(_asyncio_future_blocking)]
    fn set_blocking(&self, value: bool) {
        self.blocking.store(value, Ordering::Relaxed);
    }

    /// What `cancel()` was given; `asyncio.gather()` asks for it.
    #[getter]
    fn _cancel_message<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let message = lock(&self.state).cancel_message.clone();
        message.map(|message| message.bind(py).clone())
    }

    fn _make_cancelled_error<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.cancelled_error(py)
            .into_value(py)
            .into_bound(py)
            .into_any()
    }

    /// The deadline has passed.
    fn _expire(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let Some(work) = this.work() else {
            return Ok(());
        };
        for job in work.jobs() {
            job.expire();
        }
        if this.detach && !work.is_over() {
            let settled = Settled::timed_out(slf.py(), work.kernel());
            this.settle_early(slf, settled)?;
        }
        Ok(())
    }

    /// Look after the deadline, on the thread of the loop.
    fn _arm(slf: &Bound<'_, Self>, seconds: f64) -> PyResult<()> {
        let this = slf.get();
        match (&this.home, this.peek()) {
            (Some(home), None) => this.arm(slf, home, self::seconds(seconds)?),
            _ => Ok(()),
        }
    }

    fn __await__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let waiting = Await(slf.into());
        let coroutine = coroutine::new(waiting, c"NativeAwaitable.__await__")?;
        // SAFETY: an owned reference.
        Ok(unsafe { Bound::from_owned_ptr(slf.py(), coroutine.into_ptr()) }.unbind())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let this = slf.get();
        let state = match this.peek() {
            None => "pending",
            Some(Settled::Value(_)) => "finished",
            Some(Settled::Error(_)) => "failed",
            Some(Settled::Cancelled) => "cancelled",
        };
        let name = slf.get_type().name()?;
        let kernel = this.work().map_or("", Work::kernel);
        Ok(format!("<{name} '{kernel}' {state}>"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(home) = &self.home {
            home.event_loop.visit(&visit)?;
        }
        let Ok(state) = self.state.try_lock() else {
            return Ok(());
        };
        state.pins.each(|object| object.visit(&visit))?;
        if let Some(object) = state.settled.as_ref().and_then(Settled::object) {
            object.visit(&visit)?;
        }
        for object in state.timer.iter().chain(&state.cancel_message) {
            object.visit(&visit)?;
        }
        for known in &state.callbacks {
            known.home.event_loop.visit(&visit)?;
            known.function.visit(&visit)?;
            known.context.visit(&visit)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        // What jobs under way need stays: an inlet holds those, so they are not garbage.
        let mut state = lock(&self.state);
        let callbacks = std::mem::take(&mut state.callbacks);
        let (timer, message) = (state.timer.take(), state.cancel_message.take());
        drop(state);
        drop((callbacks, timer, message));
    }
}

impl NativeAwaitable {
    /// Tells the loop of an exception that nobody has asked for, once.
    fn tell_if_lost(&self, py: Python<'_>) {
        let mut state = lock(&self.state);
        if state.retrieved {
            return;
        }
        let Some(Settled::Error(error)) = &state.settled else {
            return;
        };
        let error = PyErr::from_value(error.bind(py).clone());
        state.retrieved = true;
        drop(state);
        // It may be an exception on its way that lets this die.
        let pending = PyErr::take(py);
        let kernel = self.work.get().map_or("", Work::kernel);
        let told = (|| {
            let home = self.home.as_ref()?;
            let about = PyDict::new(py);
            let message = format!("exception of native kernel '{kernel}' was never retrieved");
            about.set_item("message", message).ok()?;
            about.set_item("exception", error.value(py)).ok()?;
            let handler = home.event_loop.bind(py).getattr("call_exception_handler");
            handler.ok()?.call1((about,)).ok()
        })();
        if told.is_none() {
            error.write_unraisable(py, None);
        }
        if let Some(pending) = pending {
            pending.restore(py);
        }
    }
}

impl Drop for NativeAwaitable {
    fn drop(&mut self) {
        // SAFETY: objects die attached.
        self.tell_if_lost(unsafe { Python::assume_attached() });
    }
}

/// What the collector calls before it takes anything apart. When it drops a job, the exception may be an empty shell already.
unsafe extern "C" fn finalize(object: *mut ffi::PyObject) {
    let status = guard_int(|| {
        // SAFETY: the collector is attached, and gives live objects.
        let object = unsafe { Bound::from_borrowed_ptr(Python::assume_attached(), object) };
        if let Ok(this) = object.cast::<NativeAwaitable>() {
            this.get().tell_if_lost(object.py());
        }
        Ok(())
    });
    if status < 0 {
        // SAFETY: attached, with an exception set.
        unsafe { ffi::PyErr_WriteUnraisable(std::ptr::null_mut()) };
    }
}

/// Adds a class, this one or one that is based on it, with the finalizer.
pub fn add_class<T: PyClass>(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<T>()?;
    // SAFETY: the type was just made, and no other thread knows it yet.
    unsafe { (*T::type_object_raw(module.py())).tp_finalize = Some(finalize) };
    Ok(())
}

/// `await`: one that waits.
struct Await(Ref);

static CLASS: Class = Class::new();

impl Operation for Await {
    fn class() -> &'static Class {
        &CLASS
    }

    fn step(&self) -> Res<Step> {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        let slf = self
            .0
            .bind(py)
            .cast::<NativeAwaitable>()
            .map_err(PyErr::from)?;
        let this = slf.get();
        match this.peek() {
            Some(settled) => Ok(Step::Done(this.value(py, settled)?)),
            None => Ok(Step::Wait(self.0.clone())),
        }
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        visit(&self.0)
    }
}

/// Makes the classes.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    CLASS.init::<Await>(module.py(), c"hybridloop._core.NativeWait")?;
    add_class::<NativeAwaitable>(module)
}
