//! `run_native()` and `run_native_many()`: submission of jobs and batches.

use std::sync::Arc;

use hybridloop_kernels::{EventQueue, JobOptions};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use pyo3::Borrowed;

use crate::allocator::{is_memory_low, out_of_memory};
use crate::event_loop::{install, install_functions, LoopCore};
use crate::fastcall;
use crate::kernels::arguments::convert;
use crate::kernels::batch::NativeBatch;
use crate::kernels::buffer_guards::BufferGuards;
use crate::kernels::detached::{detached_queue, drain_detached};
use crate::kernels::engine::NativeEngine;
use crate::kernels::exceptions::submit_error;
use crate::kernels::future::state::NativeAwaitable;
use crate::kernels::future::work::Work;
use crate::kernels::job::{NativeJob, OnProgress};
use crate::kernels::kernel::{set_call, Kernel};
use crate::kernels::loop_handle::{current_context, running_loop, LoopHandle};
use crate::kernels::named_arguments::{check_hidden, convert_named};
use crate::kernels::options::Options;
use crate::python::finalization::hang_at_exit;
use crate::python::stdlib::Stdlib;
use crate::python::vectorcall::missing;
use crate::python::{Args, FfiResult, Ref};

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
    let (kernel, (options, named)) = unsafe {
        let kernel = Bound::from_borrowed_ptr(py, *kernel);
        (Kernel::find(&kernel)?, Options::of_job(py, args)?)
    };
    prepare(py)?;
    let mut guards = BufferGuards::default();
    let (positional, out) = (rest.len(), options.out.as_ref());
    let rest = rest
        .iter()
        // SAFETY: the caller passes the arguments of the current call, which are live.
        .map(|object| unsafe { Bound::from_borrowed_ptr(py, *object) });
    let arguments = if named.is_empty() {
        if args.has_keywords() {
            // SAFETY: the caller passes the arguments of the current call, which are live.
            let name = |(name, _)| unsafe { Bound::from_borrowed_ptr(py, name) };
            check_hidden(
                &kernel,
                positional,
                out.is_some(),
                args.keywords().map(name),
            )?;
        }
        convert(&kernel, rest, out, None, &mut guards)?
    } else {
        convert_named(py, &kernel, rest, &named, out, &mut guards)?
    };
    let on_progress = match (&options.on_progress, &owner) {
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
    let job_options = JobOptions {
        listener: Some(events),
        deadline: options.deadline(),
        priority: options.priority,
        progress: owner.is_some(),
        key: options.bus_key()?,
        // They are taken through a loop.
        discard_items: owner.is_none(),
    };
    // Created before the job is submitted: creating an object may fail, and nothing may fail once the job is queued.
    let engine = engine.engine();
    let detach = options.detach;
    let object = NativeJob::create(py, owner, detach, guards, engine.clone(), on_progress)?;
    let submitted = engine.submit(&kernel, arguments.args, arguments.out, job_options);
    let job = match submitted {
        Ok(job) => job,
        Err(error) => return Err(submit_error(py, &error, options.key.as_ref()).into()),
    };
    NativeAwaitable::begin(object.as_super(), Work::Job(job));
    NativeAwaitable::start_timeout(object.as_super(), options.timeout)?;
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
    let (kernel, calls, options) = unsafe {
        (
            Kernel::find(&Bound::from_borrowed_ptr(py, kernel))?,
            Bound::from_borrowed_ptr(py, calls),
            Options::of_batch(py, args)?,
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
    let (deadline, priority) = (options.deadline(), options.priority);
    let job_options = || JobOptions {
        deadline,
        priority,
        ..JobOptions::default()
    };
    let engine = engine.engine();
    let object = NativeBatch::create(py, owner, options.detach, guards, engine.clone())?;
    let submitted = engine.submit_many(&kernel, converted, Some(events), &job_options);
    let (batch, jobs) = match submitted {
        Ok(submitted) => submitted,
        Err(error) => return Err(submit_error(py, &error, None).into()),
    };
    let work = Work::Batch {
        batch,
        jobs,
        return_exceptions: options.return_exceptions,
    };
    NativeAwaitable::begin(object.as_super(), work);
    NativeAwaitable::start_timeout(object.as_super(), options.timeout)?;
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

/// The engine of the loop that runs in this thread, and the loop; without a `LoopCore`, the default engine.
fn running_engine(py: Python<'_>) -> PyResult<(Bound<'_, NativeEngine>, Option<LoopHandle>)> {
    let running = running_loop(py)?;
    let engine = match running
        .as_ref()
        .filter(|running| running.is_instance_of::<LoopCore>())
    {
        Some(core) => engine_of(core)?,
        None => NativeEngine::default(py)?.into_bound(py),
    };
    let owner = running.as_ref().map(LoopHandle::new).transpose()?;
    Ok((engine, owner))
}

/// # Safety
/// The thread is attached, and `args` are the arguments of the current call.
unsafe fn on_running_loop(args: Args<'_>, submit: SubmitFn) -> FfiResult<Ref> {
    // SAFETY: the caller upholds the contract above.
    unsafe {
        let py = Python::assume_attached();
        let (engine, owner) = running_engine(py)?;
        submit(py, engine.get(), owner, &args)
    }
}

/// `kernel(*args, **keywords)`: submits a job on the loop that runs in this thread.
fn call_kernel(
    kernel: &Bound<'_, Kernel>,
    args: &Bound<'_, PyTuple>,
    keywords: Option<&Bound<'_, PyDict>>,
) -> PyResult<Ref> {
    let py = kernel.py();
    let mut all = vec![kernel.as_ptr()];
    all.extend(args.iter_borrowed().map(Borrowed::as_ptr));
    let positional = all.len().cast_signed();
    // The dictionary is that of this call, and nobody else has it.
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for (name, value) in keywords.into_iter().flatten() {
        names.push(name);
        all.push(value.as_ptr());
        values.push(value);
    }
    let names = (!names.is_empty()).then(|| PyTuple::new(py, names));
    let names = names.transpose()?;
    let names_ptr = names.as_ref().map_or(std::ptr::null_mut(), Bound::as_ptr);
    // SAFETY: the positional arguments are followed by a value for each name; `args`, `values` and `names` hold them all.
    let submitted = unsafe {
        let call = Args::new(all.as_ptr(), positional, names_ptr);
        on_running_loop(call, submit_job)
    };
    drop(values);
    Ok(submitted?)
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

unsafe fn run_native(_: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: CPython calls functions attached, and with live arguments.
    unsafe { on_running_loop(args, submit_job) }
}

unsafe fn run_native_many(_: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: CPython calls functions attached, and with live arguments.
    unsafe { on_running_loop(args, submit_batch) }
}

unsafe fn engine_run_native(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: CPython calls methods attached, with a receiver of their class, and with live arguments.
    unsafe { on_engine(slf, args, submit_job) }
}

unsafe fn engine_run_native_many(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: CPython calls methods attached, with a receiver of their class, and with live arguments.
    unsafe { on_engine(slf, args, submit_batch) }
}

const RUN_NATIVE: &str = "(self, kernel, /, *args, out=None, key=None, timeout=None, priority=0, on_progress=None, cancel_policy='wait', **arguments)";
const RUN_NATIVE_MANY: &str =
    "(self, kernel, calls, /, *, timeout=None, priority=0, cancel_policy='wait', return_exceptions=False)";
const RUN_NATIVE_DOC: &str = "\
Run a kernel, given as a `Kernel` or by name, on a worker; return a `NativeJob` to await.

Args:
    args: the arguments of the kernel; its `signature` describes them, and they may be given by
        its names. Buffers are used in place: they cannot be resized until the kernel returns, and
        must not be written to.
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

const ON_RUNNING_LOOP: &str = "

The loop that runs in this thread may be of any implementation. Kernels run on its engine if it is a
hybridloop loop that has one, or else on the engine of the process. Without a running loop, wait with
`result()`.";

/// Adds the methods to loops and engines, and the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    set_call(call_kernel);
    install_functions(
        module,
        [
            (
                fastcall!(c"run_native", run_native),
                RUN_NATIVE,
                &format!("{RUN_NATIVE_DOC}{ON_RUNNING_LOOP}"),
            ),
            (
                fastcall!(c"run_native_many", run_native_many),
                RUN_NATIVE_MANY,
                &format!("{RUN_NATIVE_MANY_DOC}{ON_RUNNING_LOOP}"),
            ),
        ],
    )?;
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
