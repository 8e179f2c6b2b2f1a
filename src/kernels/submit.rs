//! `run_native()` and `run_native_many()`: from the arguments of a call to a job under way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hybridloop_kernels::{Event, Key, Mailbox, Options};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::allocator::{is_short, out_of_memory};
use crate::event_loop::{install, LoopCore};
use crate::fastcall;
use crate::kernels::arguments::convert;
use crate::kernels::batch::NativeBatch;
use crate::kernels::buffer_guards::BufferGuards;
use crate::kernels::bus::KeyBytes;
use crate::kernels::detached::{detached_queue, drain_detached};
use crate::kernels::engine::NativeEngine;
use crate::kernels::exceptions::{bus_error, submit_error};
use crate::kernels::future::state::NativeAwaitable;
use crate::kernels::future::work::Work;
use crate::kernels::job::{NativeJob, OnProgress};
use crate::kernels::kernel::Kernel;
use crate::kernels::loop_handle::{current_context, LoopHandle};
use crate::kernels::timeout::duration;
use crate::python::finalization::hang_at_exit;
use crate::python::stdlib::Stdlib;
use crate::python::vectorcall::{missing, unexpected};
use crate::python::{Args, FfiResult, Ref};

/// Thirty years.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 86_400);

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
    /// # Safety
    /// The arguments are those of the call under way.
    unsafe fn parse(
        py: Python<'py>,
        function: &str,
        args: &Args<'_>,
        known: &[&str],
    ) -> FfiResult<Self> {
        let mut keywords = Self::default();
        for (name, value) in args.keywords() {
            // SAFETY: the caller's promise.
            let (text, value) = unsafe {
                (
                    Bound::from_borrowed_ptr(py, name),
                    Bound::from_borrowed_ptr(py, value),
                )
            };
            let text = text.extract::<&str>()?;
            if !known.contains(&text) {
                return Err(unexpected(function, name));
            }
            let given = (!value.is_none()).then(|| value.clone());
            match text {
                "out" => keywords.out = given,
                "key" => keywords.key = given,
                "timeout" => {
                    let timeout = given.map(|it| duration(it.extract()?)).transpose()?;
                    // What is as good as for ever needs no timer.
                    keywords.timeout = timeout.filter(|timeout| *timeout < FOR_EVER);
                }
                "priority" => keywords.priority = value.extract()?,
                "on_progress" => {
                    if given.as_ref().is_some_and(|it| !it.is_callable()) {
                        return Err(PyTypeError::new_err("on_progress must be callable").into());
                    }
                    keywords.on_progress = given;
                }
                "cancel_policy" => {
                    keywords.detach = match value.extract::<&str>()? {
                        "wait" => false,
                        "detach" => true,
                        other => {
                            let text =
                                format!("cancel_policy must be 'wait' or 'detach', not '{other}'");
                            return Err(PyValueError::new_err(text).into());
                        }
                    };
                }
                _ => keywords.return_exceptions = value.is_truthy()?,
            }
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
        let bytes = KeyBytes::of(key)?;
        Key::new(bytes.as_slice())
            .map(Some)
            .map_err(|error| bus_error(key.py(), &error, Some(key)))
    }
}

/// What comes before every submission.
fn begin(py: Python<'_>) -> FfiResult<()> {
    hang_at_exit();
    drain_detached(py);
    if is_short() {
        return Err(out_of_memory(()));
    }
    Ok(())
}

/// Where the end of a job is told, with a place for it.
fn mailbox_of(owner: Option<&LoopHandle>) -> PyResult<Arc<Mailbox<Event>>> {
    let queue = owner.map_or_else(detached_queue, |owner| owner.queue.clone());
    queue.reserve()?;
    Ok(queue.mailbox().clone())
}

/// # Safety
/// The arguments are those of the call under way.
unsafe fn submit_job(
    py: Python<'_>,
    engine: &NativeEngine,
    owner: Option<LoopHandle>,
    args: &Args<'_>,
) -> FfiResult<Ref> {
    const KNOWN: [&str; 6] = [
        "out",
        "key",
        "timeout",
        "priority",
        "on_progress",
        "cancel_policy",
    ];
    let Some((kernel, rest)) = args.positional.split_first() else {
        return Err(missing("run_native", "kernel"));
    };
    // SAFETY: the caller's promise.
    let (kernel, keywords) = unsafe {
        let kernel = Bound::from_borrowed_ptr(py, *kernel);
        (
            Kernel::find(&kernel)?,
            Keywords::parse(py, "run_native", args, &KNOWN)?,
        )
    };
    begin(py)?;
    let mut guards = BufferGuards::default();
    // SAFETY: the caller's promise.
    let rest = rest
        .iter()
        .map(|object| unsafe { Bound::from_borrowed_ptr(py, *object) });
    let arguments = convert(&kernel, rest, keywords.out.as_ref(), &mut guards)?;
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
    let mailbox = mailbox_of(owner.as_ref())?;
    let options = Options {
        mailbox: Some(mailbox),
        deadline: keywords.deadline(),
        priority: keywords.priority,
        progress: owner.is_some(),
        key: keywords.bus_key()?,
    };
    // Made first, because making an object may run Python: nothing may fail once the job is under way.
    let object = NativeJob::create(py, owner, keywords.detach, guards, on_progress)?;
    let submitted = engine
        .engine()
        .submit(&kernel, arguments.args, arguments.out, options);
    let job = match submitted {
        Ok(job) => job,
        Err(error) => return Err(submit_error(py, &error, keywords.key.as_ref()).into()),
    };
    NativeAwaitable::begin(object.as_super(), Work::Job(job));
    NativeAwaitable::start_timeout(object.as_super(), keywords.timeout)?;
    Ok(object.into_any().into())
}

/// # Safety
/// The arguments are those of the call under way.
unsafe fn submit_batch(
    py: Python<'_>,
    engine: &NativeEngine,
    owner: Option<LoopHandle>,
    args: &Args<'_>,
) -> FfiResult<Ref> {
    const KNOWN: [&str; 4] = ["timeout", "priority", "cancel_policy", "return_exceptions"];
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
    // SAFETY: the caller's promise.
    let (kernel, calls, keywords) = unsafe {
        (
            Kernel::find(&Bound::from_borrowed_ptr(py, kernel))?,
            Bound::from_borrowed_ptr(py, calls),
            Keywords::parse(py, "run_native_many", args, &KNOWN)?,
        )
    };
    begin(py)?;
    let mut guards = BufferGuards::default();
    let mut converted = Vec::new();
    for call in calls.try_iter()? {
        let call = call?;
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
        let arguments = convert(&kernel, tuple.iter(), None, &mut guards)?;
        converted.try_reserve(1).map_err(out_of_memory)?;
        converted.push(arguments.args);
    }
    let mailbox = mailbox_of(owner.as_ref())?;
    let (deadline, priority) = (keywords.deadline(), keywords.priority);
    let options = || Options {
        deadline,
        priority,
        ..Options::default()
    };
    let object = NativeBatch::create(py, owner, keywords.detach, guards)?;
    let submitted = engine
        .engine()
        .submit_many(&kernel, converted, Some(mailbox), &options);
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

/// What a loop's kernels run on.
fn engine_of<'py>(event_loop: &Bound<'py, PyAny>) -> PyResult<Bound<'py, NativeEngine>> {
    let names = &Stdlib::get().names;
    let get = |name: &Ref| {
        // SAFETY: attached; both are live.
        unsafe {
            let found = ffi::PyObject_GetAttr(event_loop.as_ptr(), name.as_ptr());
            Bound::from_owned_ptr_or_err(event_loop.py(), found)
        }
    };
    let known = get(&names._native_engine)?;
    if let Ok(engine) = known.cast_into::<NativeEngine>() {
        return Ok(engine);
    }
    Ok(get(&names.native_engine)?.cast_into()?)
}

type SubmitFn =
    unsafe fn(Python<'_>, &NativeEngine, Option<LoopHandle>, &Args<'_>) -> FfiResult<Ref>;

/// # Safety
/// `slf` is a live loop of ours; the arguments are those of the call under way.
unsafe fn on_loop(slf: *mut PyObject, args: Args<'_>, submit: SubmitFn) -> FfiResult<Ref> {
    // SAFETY: the caller's promise.
    unsafe {
        let py = Python::assume_attached();
        let event_loop = Bound::from_borrowed_ptr(py, slf);
        let owner = LoopHandle::of(&event_loop)?;
        let engine = engine_of(&event_loop)?;
        submit(py, engine.get(), Some(owner), &args)
    }
}

/// # Safety
/// `slf` is a live engine; the arguments are those of the call under way.
unsafe fn on_engine(slf: *mut PyObject, args: Args<'_>, submit: SubmitFn) -> FfiResult<Ref> {
    // SAFETY: the caller's promise.
    unsafe {
        let py = Python::assume_attached();
        let engine = Bound::from_borrowed_ptr(py, slf).cast_into_unchecked::<NativeEngine>();
        submit(py, engine.get(), LoopHandle::running(py)?, &args)
    }
}

unsafe fn loop_run_native(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe { on_loop(slf, args, submit_job) }
}

unsafe fn loop_run_native_many(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: as for `loop_run_native`.
    unsafe { on_loop(slf, args, submit_batch) }
}

unsafe fn engine_run_native(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: as for `loop_run_native`.
    unsafe { on_engine(slf, args, submit_job) }
}

unsafe fn engine_run_native_many(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: as for `loop_run_native`.
    unsafe { on_engine(slf, args, submit_batch) }
}

const RUN_NATIVE: &str = "(self, kernel, /, *args, out=None, key=None, timeout=None, priority=0, on_progress=None, cancel_policy='wait')";
const RUN_NATIVE_MANY: &str =
    "(self, kernel, calls, /, *, timeout=None, priority=0, cancel_policy='wait', return_exceptions=False)";
const RUN_NATIVE_DOC: &str = "\
Have a worker run a kernel, a `Kernel` or the name of one; return a `NativeJob` to await.

Args:
    args: what the kernel takes; its `signature` says what that is. Buffers are used in place: they
        cannot be resized until the kernel returns, and must not be written to.
    out: a writable, contiguous buffer that the kernel fills.
    key: the result goes on the memory bus under this key as well.
    timeout: seconds until the job raises `TimeoutError`. It never runs if it still waits then; a
        kernel that runs is asked to return.
    priority: jobs of a higher one run first.
    on_progress: `on_progress(done, total)` is called by the loop.
    cancel_policy: `\"wait\"` ends a job that is cancelled or late when the kernel has returned,
        `\"detach\"` at once.

What does not fit raises `TypeError`, `ValueError`, `OverflowError`, `BufferInUseError`,
`NativeQueueFullError`, `NativeClosedError` or `LookupError` here, and nothing has run then.";
const RUN_NATIVE_MANY_DOC: &str = "\
Submit many calls of a kernel at a time, each a tuple of arguments; all are taken, or none.

Returns a `NativeBatch`: awaiting it gives the list of results when the last call has ended. A call
that has failed raises its exception then, the first one's if there are several; with
`return_exceptions` they are in the list instead. The loop is woken once for all of them. The other
arguments are those of `run_native()`.";

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
