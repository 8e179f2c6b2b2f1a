//! `run_native()` and `run_native_many()`: submission of jobs and batches.

use std::ffi::CStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hybridloop_kernels::{EventQueue, JobOptions, Key};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::allocator::{is_memory_low, out_of_memory};
use crate::event_loop::{install, LoopCore};
use crate::fastcall;
use crate::kernels::arguments::convert;
use crate::kernels::batch::NativeBatch;
use crate::kernels::buffer_guards::BufferGuards;
use crate::kernels::detached::{detached_queue, drain_detached};
use crate::kernels::engine::NativeEngine;
use crate::kernels::exceptions::{bus_error, submit_error};
use crate::kernels::future::state::NativeAwaitable;
use crate::kernels::future::work::Work;
use crate::kernels::job::{NativeJob, OnProgress};
use crate::kernels::kernel::Kernel;
use crate::kernels::key::key_bytes;
use crate::kernels::loop_handle::{current_context, LoopHandle};
use crate::kernels::numbers;
use crate::python::args::bind_keywords;
use crate::python::finalization::hang_at_exit;
use crate::python::stdlib::Stdlib;
use crate::python::vectorcall::missing;
use crate::python::{Args, FfiResult, Ref};

/// Longer timeouts need no timer.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30 * 365 * 86_400);

/// The keyword arguments of both functions.
#[derive(Default)]
struct Keywords<'py> {
    out: Option<Bound<'py, PyAny>>,
    key: Option<Bound<'py, PyAny>>,
    timeout: Option<Duration>,
    priority: i32,
    on_progress: Option<Bound<'py, PyAny>>,
    detach: bool,
    return_exceptions: bool,
}

impl<'py> Keywords<'py> {
    /// The keywords of `run_native()`.
    ///
    /// # Safety
    /// `args` are the arguments of the current call.
    unsafe fn of_job(py: Python<'py>, args: &Args<'_>) -> FfiResult<Self> {
        const NAMES: [&CStr; 6] = [
            c"out",
            c"key",
            c"timeout",
            c"priority",
            c"on_progress",
            c"cancel_policy",
        ];
        if !args.has_keywords() {
            return Ok(Self::default());
        }
        // SAFETY: the caller passes the arguments of the current call, which are live.
        let [out, key, timeout, priority, on_progress, policy] =
            unsafe { bind_keywords(c"run_native", NAMES, args)?.map(|value| given(py, value)) };
        let not_none = |value: Option<Bound<'py, PyAny>>| value.filter(|value| !value.is_none());
        let mut keywords = Self::common(timeout, priority, policy)?;
        keywords.out = not_none(out);
        keywords.key = not_none(key);
        keywords.on_progress = not_none(on_progress);
        if let Some(callback) = &keywords.on_progress {
            if !callback.is_callable() {
                return Err(PyTypeError::new_err("on_progress must be callable").into());
            }
        }
        Ok(keywords)
    }

    /// The keywords of `run_native_many()`.
    ///
    /// # Safety
    /// `args` are the arguments of the current call.
    unsafe fn of_batch(py: Python<'py>, args: &Args<'_>) -> FfiResult<Self> {
        const NAMES: [&CStr; 4] = [
            c"timeout",
            c"priority",
            c"cancel_policy",
            c"return_exceptions",
        ];
        // SAFETY: the caller passes the arguments of the current call, which are live.
        let [timeout, priority, policy, return_exceptions] = unsafe {
            bind_keywords(c"run_native_many", NAMES, args)?.map(|value| given(py, value))
        };
        let mut keywords = Self::common(timeout, priority, policy)?;
        if let Some(return_exceptions) = return_exceptions {
            keywords.return_exceptions = return_exceptions.is_truthy()?;
        }
        Ok(keywords)
    }

    fn common(
        timeout: Option<Bound<'py, PyAny>>,
        priority: Option<Bound<'py, PyAny>>,
        policy: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Self> {
        let mut keywords = Self::default();
        if let Some(timeout) = timeout.filter(|timeout| !timeout.is_none()) {
            let timeout = numbers::timeout(&timeout)?;
            keywords.timeout = Some(timeout).filter(|timeout| *timeout < LONGEST_TIMEOUT);
        }
        if let Some(priority) = priority {
            keywords.priority = numbers::priority(&priority)?;
        }
        if let Some(policy) = policy {
            keywords.detach = match policy.extract::<&str>()? {
                "wait" => false,
                "detach" => true,
                other => {
                    return Err(PyValueError::new_err(format!(
                        "cancel_policy must be 'wait' or 'detach', not '{other}'"
                    )));
                }
            };
        }
        Ok(keywords)
    }

    fn deadline(&self) -> Option<Instant> {
        self.timeout
            .and_then(|timeout| Instant::now().checked_add(timeout))
    }

    fn bus_key(&self) -> PyResult<Option<Key>> {
        let Some(key) = &self.key else {
            return Ok(None);
        };
        Key::new(key_bytes(key)?)
            .and_then(Key::check_unreserved)
            .map(Some)
            .map_err(|error| bus_error(key.py(), &error, Some(key)))
    }
}

/// A keyword argument; `None` if it is not given.
///
/// # Safety
/// `value` is null or live.
unsafe fn given(py: Python<'_>, value: *mut PyObject) -> Option<Bound<'_, PyAny>> {
    // SAFETY: the caller says that `value` is null or live, and `py` proves attachment.
    unsafe { Bound::from_borrowed_ptr_or_opt(py, value) }
}

/// The first steps of every submission.
fn prepare(py: Python<'_>) -> FfiResult<()> {
    hang_at_exit();
    drain_detached(py);
    if is_memory_low() {
        return Err(out_of_memory(()));
    }
    Ok(())
}

/// The queue for the events of a job, in a queue with memory reserved for the job.
fn reserve_event_queue(owner: Option<&LoopHandle>) -> PyResult<Arc<EventQueue>> {
    let queue = owner.map_or_else(detached_queue, |owner| owner.queue.clone());
    queue.reserve()?;
    Ok(queue.events().clone())
}

/// # Safety
/// `args` are the arguments of the current call.
unsafe fn submit_job(
    py: Python<'_>,
    engine: &NativeEngine,
    owner: Option<LoopHandle>,
    args: &Args<'_>,
) -> FfiResult<Ref> {
    let Some((kernel, rest)) = args.positional.split_first() else {
        return Err(missing("run_native", "kernel"));
    };
    // SAFETY: the caller passes the arguments of the current call, which are live.
    let (kernel, keywords) = unsafe {
        let kernel = Bound::from_borrowed_ptr(py, *kernel);
        (Kernel::find(&kernel)?, Keywords::of_job(py, args)?)
    };
    prepare(py)?;
    let mut guards = BufferGuards::default();
    let rest = rest
        .iter()
        // SAFETY: the caller passes the arguments of the current call, which are live.
        .map(|object| unsafe { Bound::from_borrowed_ptr(py, *object) });
    let arguments = convert(&kernel, rest, keywords.out.as_ref(), None, &mut guards)?;
    let on_progress = match (&keywords.on_progress, &owner) {
        (Some(callback), Some(_)) => Some(OnProgress {
            callback: callback.into(),
            context: current_context(py)?,
        }),
        (Some(_), None) => {
            let text = "on_progress is called by an event loop, and none runs in this thread";
            return Err(PyValueError::new_err(text).into());
        }
        (None, _) => None,
    };
    let events = reserve_event_queue(owner.as_ref())?;
    let options = JobOptions {
        listener: Some(events),
        deadline: keywords.deadline(),
        priority: keywords.priority,
        progress: owner.is_some(),
        key: keywords.bus_key()?,
        // They are taken through a loop.
        discard_items: owner.is_none(),
    };
    // Created before the job is submitted: creating an object may fail, and nothing may fail once the job is queued.
    let engine = engine.engine();
    let detach = keywords.detach;
    let object = NativeJob::create(py, owner, detach, guards, engine.clone(), on_progress)?;
    let submitted = engine.submit(&kernel, arguments.args, arguments.out, options);
    let job = match submitted {
        Ok(job) => job,
        Err(error) => return Err(submit_error(py, &error, keywords.key.as_ref()).into()),
    };
    NativeAwaitable::begin(object.as_super(), Work::Job(job));
    NativeAwaitable::start_timeout(object.as_super(), keywords.timeout)?;
    Ok(object.into_any().into())
}

/// # Safety
/// `args` are the arguments of the current call.
unsafe fn submit_batch(
    py: Python<'_>,
    engine: &NativeEngine,
    owner: Option<LoopHandle>,
    args: &Args<'_>,
) -> FfiResult<Ref> {
    let (kernel, calls) = match args.positional {
        [kernel, calls] => (*kernel, *calls),
        [_] => return Err(missing("run_native_many", "calls")),
        [] => return Err(missing("run_native_many", "kernel")),
        more => {
            let text = format!(
                "run_native_many() takes a kernel and an iterable of its arguments, but {} arguments were given",
                more.len()
            );
            return Err(PyTypeError::new_err(text).into());
        }
    };
    // SAFETY: the caller passes the arguments of the current call, which are live.
    let (kernel, calls, keywords) = unsafe {
        (
            Kernel::find(&Bound::from_borrowed_ptr(py, kernel))?,
            Bound::from_borrowed_ptr(py, calls),
            Keywords::of_batch(py, args)?,
        )
    };
    prepare(py)?;
    let mut guards = BufferGuards::default();
    let mut converted = Vec::new();
    let limit = engine.engine().max_queue();
    for call in calls.try_iter()? {
        let call = call?;
        // The iterable may be endless.
        if converted.len() == limit {
            let error = engine.engine().queue_full(limit + 1);
            return Err(submit_error(py, &error, None).into());
        }
        if is_memory_low() {
            return Err(out_of_memory(()));
        }
        let tuple = match call.cast::<PyTuple>() {
            Ok(tuple) => tuple.clone(),
            Err(_) if call.is_instance_of::<PyList>() => {
                call.cast::<PyList>().map_err(PyErr::from)?.to_tuple()
            }
            Err(_) => {
                let text = format!(
                    "call {}: expected a tuple of arguments, such as (data,), got {}",
                    converted.len(),
                    call.get_type().name()?
                );
                return Err(PyTypeError::new_err(text).into());
            }
        };
        let arguments = convert(
            &kernel,
            tuple.iter(),
            None,
            Some(converted.len()),
            &mut guards,
        )?;
        converted.try_reserve(1).map_err(out_of_memory)?;
        converted.push(arguments.args);
    }
    let events = reserve_event_queue(owner.as_ref())?;
    let (deadline, priority) = (keywords.deadline(), keywords.priority);
    let options = || JobOptions {
        deadline,
        priority,
        ..JobOptions::default()
    };
    let engine = engine.engine();
    let object = NativeBatch::create(py, owner, keywords.detach, guards, engine.clone())?;
    let submitted = engine.submit_many(&kernel, converted, Some(events), &options);
    let (batch, jobs) = match submitted {
        Ok(submitted) => submitted,
        Err(error) => return Err(submit_error(py, &error, None).into()),
    };
    let work = Work::Batch {
        batch,
        jobs,
        return_exceptions: keywords.return_exceptions,
    };
    NativeAwaitable::begin(object.as_super(), work);
    NativeAwaitable::start_timeout(object.as_super(), keywords.timeout)?;
    Ok(object.into_any().into())
}

/// The engine of a loop.
fn engine_of<'py>(event_loop: &Bound<'py, PyAny>) -> PyResult<Bound<'py, NativeEngine>> {
    let names = &Stdlib::get().names;
    let get = |name: &Ref| {
        // SAFETY: a `Bound` proves attachment; both objects are live.
        unsafe {
            let found = ffi::PyObject_GetAttr(event_loop.as_ptr(), name.as_ptr());
            Bound::from_owned_ptr_or_err(event_loop.py(), found)
        }
    };
    let own = get(&names._native_engine)?;
    if let Ok(engine) = own.cast_into::<NativeEngine>() {
        return Ok(engine);
    }
    Ok(get(&names.native_engine)?.cast_into()?)
}

type SubmitFn =
    unsafe fn(Python<'_>, &NativeEngine, Option<LoopHandle>, &Args<'_>) -> FfiResult<Ref>;

/// # Safety
/// The thread is attached, `slf` is a live `LoopCore`, and `args` are the arguments of the current call.
unsafe fn on_loop(slf: *mut PyObject, args: Args<'_>, submit: SubmitFn) -> FfiResult<Ref> {
    // SAFETY: the caller upholds the contract above.
    unsafe {
        let py = Python::assume_attached();
        let event_loop = Bound::from_borrowed_ptr(py, slf);
        let owner = LoopHandle::new(&event_loop)?;
        let engine = engine_of(&event_loop)?;
        submit(py, engine.get(), Some(owner), &args)
    }
}

/// # Safety
/// The thread is attached, `slf` is a live `NativeEngine`, and `args` are the arguments of the current call.
unsafe fn on_engine(slf: *mut PyObject, args: Args<'_>, submit: SubmitFn) -> FfiResult<Ref> {
    // SAFETY: the caller upholds the contract above.
    unsafe {
        let py = Python::assume_attached();
        let engine = Bound::from_borrowed_ptr(py, slf).cast_into_unchecked::<NativeEngine>();
        submit(py, engine.get(), LoopHandle::running(py)?, &args)
    }
}

unsafe fn loop_run_native(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: CPython calls methods attached, with a receiver of their class, and with live arguments.
    unsafe { on_loop(slf, args, submit_job) }
}

unsafe fn loop_run_native_many(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: CPython calls methods attached, with a receiver of their class, and with live arguments.
    unsafe { on_loop(slf, args, submit_batch) }
}

unsafe fn engine_run_native(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: CPython calls methods attached, with a receiver of their class, and with live arguments.
    unsafe { on_engine(slf, args, submit_job) }
}

unsafe fn engine_run_native_many(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: CPython calls methods attached, with a receiver of their class, and with live arguments.
    unsafe { on_engine(slf, args, submit_batch) }
}

const RUN_NATIVE: &str = "(self, kernel, /, *args, out=None, key=None, timeout=None, priority=0, on_progress=None, cancel_policy='wait')";
const RUN_NATIVE_MANY: &str =
    "(self, kernel, calls, /, *, timeout=None, priority=0, cancel_policy='wait', return_exceptions=False)";
const RUN_NATIVE_DOC: &str = "\
Run a kernel, given as a `Kernel` or by name, on a worker; return a `NativeJob` to await.

Args:
    args: the arguments of the kernel; its `signature` describes them. Buffers are used in place:
        they cannot be resized until the kernel returns, and must not be written to.
    out: a writable, contiguous buffer that the kernel fills.
    key: store the result on the memory bus under this key too.
    timeout: seconds until the job raises `TimeoutError`. If it is still queued then, it never runs;
        a running kernel is requested to return.
    priority: jobs with a higher priority run first.
    on_progress: `on_progress(done, total)` is called by the loop.
    cancel_policy: with `\"wait\"`, a job that is cancelled or timed out is done when the kernel has
        returned; with `\"detach\"`, at once.

Raises `TypeError`, `ValueError`, `OverflowError`, `BufferInUseError`, `NativeQueueFullError`,
`NativeClosedError` or `LookupError` if the job cannot be submitted; nothing has run then.";
const RUN_NATIVE_MANY_DOC: &str = "\
Submit many calls of a kernel at once, each a tuple of arguments; either all are submitted, or none.

Returns a `NativeBatch`. Awaiting it gives the list of results when the last call is done. If calls
have failed, the exception of the first one is raised; with `return_exceptions` the exceptions are in
the list instead. The loop is woken once for the whole batch. The other arguments are those of
`run_native()`.";

/// Adds the methods to loops and engines.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    install(
        &py.get_type::<LoopCore>(),
        [
            (
                fastcall!(c"run_native", loop_run_native),
                RUN_NATIVE,
                RUN_NATIVE_DOC,
            ),
            (
                fastcall!(c"run_native_many", loop_run_native_many),
                RUN_NATIVE_MANY,
                RUN_NATIVE_MANY_DOC,
            ),
        ],
    )?;
    install(
        &py.get_type::<NativeEngine>(),
        [
            (
                fastcall!(c"run_native", engine_run_native),
                RUN_NATIVE,
                RUN_NATIVE_DOC,
            ),
            (
                fastcall!(c"run_native_many", engine_run_native_many),
                RUN_NATIVE_MANY,
                RUN_NATIVE_MANY_DOC,
            ),
        ],
    )
}
