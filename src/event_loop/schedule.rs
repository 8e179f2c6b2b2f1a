//! `call_soon` and its kin, futures and tasks: the methods that run once per callback.

use std::ffi::CString;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use hybridloop_reactor::{deadline_ns, now_ns, seconds};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::{confined, handle, LoopCore};
use crate::ffi::fastcall::{missing, unexpected, Method};
use crate::ffi::handle::{new_handle, new_timer, Call, Class, HandleRef, SCHEDULED};
use crate::ffi::{Args, Raised, Ref, Res};
use crate::stdlib::Stdlib;
use crate::{fastcall, noargs, onearg};

impl LoopCore {
    /// Makes a handle on the loop object `event_loop` and puts it behind all others.
    ///
    /// # Safety
    /// `event_loop` is the live loop object of this core, and what the arguments point to is live.
    pub unsafe fn soon(
        &self,
        event_loop: *mut PyObject,
        callback: *mut PyObject,
        args: &[*mut PyObject],
        context: Option<Ref>,
    ) -> Res<HandleRef> {
        let call = Call {
            callback,
            args,
            context,
            event_loop,
        };
        // SAFETY: the caller's promise.
        let handle = unsafe {
            let running = self.is_running();
            new_handle(&self.maker, &self.contexts, running, Class::Plain, call)?
        };
        self.push_ready(handle.clone());
        Ok(handle)
    }

    /// Puts a handle behind all that are ready, those of other threads included: all of them are one queue.
    #[inline]
    pub fn push_ready(&self, handle: HandleRef) {
        if !self.is_owner() {
            return self.push_inbox(handle);
        }
        if self.inbox.has_mail() {
            self.collect_mail();
        }
        self.ready.with(|ready| ready.push_back(handle));
    }

    /// Puts a handle into the inbox and wakes the loop if it sleeps.
    pub fn push_inbox(&self, handle: HandleRef) {
        if self.inbox.push(handle) {
            self.wake();
        }
    }

    /// Moves what came from other threads behind what is ready.
    pub fn collect_mail(&self) {
        self.inbox.open();
        self.ready.with(|ready| {
            while let Some(handle) = self.inbox.pop() {
                ready.push_back(handle);
            }
        });
    }

    /// `TimerHandle` for `when` (the loop's seconds).
    pub unsafe fn at(
        &self,
        event_loop: *mut PyObject,
        when: f64,
        callback: *mut PyObject,
        args: &[*mut PyObject],
        context: Option<Ref>,
    ) -> Res<HandleRef> {
        let call = Call {
            callback,
            args,
            context,
            event_loop,
        };
        // SAFETY: the caller's arguments are live.
        let timer = unsafe { new_timer(&self.maker, &self.contexts, call, when)? };
        // SAFETY: just made.
        unsafe { (*timer.as_ptr()).set(SCHEDULED, true) };
        self.timers
            .with(|timers| timers.push(deadline_ns(when), timer.clone()));
        Ok(timer)
    }
}

/// The arguments `(callback, *args, context=None)` from position `at` on.
struct Parsed<'a> {
    callback: *mut PyObject,
    args: &'a [*mut PyObject],
    context: Option<Ref>,
}

#[inline]
unsafe fn parse<'a>(function: &str, args: &Args<'a>, at: usize) -> Res<Parsed<'a>> {
    let names = &Stdlib::get().names;
    let mut callback = args.positional.get(at).copied().unwrap_or(ptr::null_mut());
    let mut context = ptr::null_mut();
    for (name, value) in args.keywords() {
        if is_context(name) {
            context = value;
        } else if callback.is_null() && is_name(name, &names.callback) {
            callback = value;
        } else {
            return Err(unexpected(function, name));
        }
    }
    if callback.is_null() {
        return Err(missing(function, "callback"));
    }
    // SAFETY: `None` is always live.
    // SAFETY: `None` is always live, and an argument is live during the call.
    let context = unsafe {
        (!context.is_null() && context != ffi::Py_None()).then(|| Ref::borrowed(context))
    };
    Ok(Parsed {
        callback,
        args: args.positional.get(at + 1..).unwrap_or(&[]),
        context,
    })
}

/// Whether a keyword's name is `wanted`. Names in compiled code are interned; others are compared by content.
#[inline]
fn is_name(name: *mut PyObject, wanted: &Ref) -> bool {
    // SAFETY: both are live strings; comparing exact strings does not raise.
    name == wanted.as_ptr() || unsafe { ffi::PyUnicode_Compare(name, wanted.as_ptr()) == 0 }
}

/// The name that asyncio's C code passes: always the same object, and not the interned one.
static CONTEXT: AtomicPtr<PyObject> = AtomicPtr::new(ptr::null_mut());

/// Whether a keyword's name is `context`. The first such name that is not interned is kept, to be known by its address.
#[inline]
fn is_context(name: *mut PyObject) -> bool {
    let interned = &Stdlib::get().names.context;
    if name == interned.as_ptr() || name == CONTEXT.load(Ordering::Relaxed) {
        return true;
    }
    let equal = is_name(name, interned);
    if equal && CONTEXT.load(Ordering::Relaxed).is_null() {
        // SAFETY: the name is live, and the reference to it is never given back.
        let kept = unsafe { Ref::borrowed(name) }.into_ptr();
        CONTEXT.store(kept, Ordering::Relaxed);
    }
    equal
}

unsafe fn call_soon(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe {
        let core = LoopCore::of(slf);
        let call = parse("call_soon", &args, 0)?;
        core.check_open()?;
        if core.is_debug() {
            core.check_thread()?;
            core.check_callback(slf, call.callback, "call_soon")?;
        }
        let handle = core.soon(slf, call.callback, call.args, call.context)?;
        if core.is_debug() {
            handle::note_source(&handle)?;
        }
        Ok(handle.into_object())
    }
}

unsafe fn call_soon_threadsafe(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    // SAFETY: as for `call_soon`.
    unsafe {
        let core = LoopCore::of(slf);
        let call = parse("call_soon_threadsafe", &args, 0)?;
        core.check_open()?;
        if core.is_debug() {
            core.check_callback(slf, call.callback, "call_soon_threadsafe")?;
        }
        let call = Call {
            callback: call.callback,
            args: call.args,
            context: call.context,
            event_loop: slf,
        };
        let (running, class) = (core.is_running(), Class::of_other_threads());
        let handle = new_handle(&core.maker, &core.contexts, running, class, call)?;
        if core.is_debug() {
            handle::note_source(&handle)?;
        }
        core.push_inbox(handle.clone());
        Ok(handle.into_object())
    }
}

unsafe fn call_later(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    // SAFETY: as for `call_soon`.
    unsafe {
        let core = LoopCore::of(slf);
        let Some(&delay) = args.positional.first() else {
            return by_keyword(slf, c"call_later", &args);
        };
        if delay == ffi::Py_None() {
            return Err(PyTypeError::new_err("delay must not be None").into());
        }
        let now = seconds(now_ns());
        let when = if ffi::PyFloat_CheckExact(delay) != 0 || ffi::PyLong_CheckExact(delay) != 0 {
            now + number(delay)?
        } else {
            // Whatever adds up with a float, and nothing else.
            let now = Ref::new(ffi::PyFloat_FromDouble(now))?;
            number(Ref::new(ffi::PyNumber_Add(now.as_ptr(), delay))?.as_ptr())?
        };
        timer(slf, core, "call_later", &args, when)
    }
}

unsafe fn call_at(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    // SAFETY: as for `call_soon`.
    unsafe {
        let core = LoopCore::of(slf);
        let Some(&when) = args.positional.first() else {
            return by_keyword(slf, c"call_at", &args);
        };
        if when == ffi::Py_None() {
            return Err(PyTypeError::new_err("when cannot be None").into());
        }
        let when = number(when)?;
        timer(slf, core, "call_at", &args, when)
    }
}

unsafe fn timer(
    slf: *mut PyObject,
    core: &LoopCore,
    function: &str,
    args: &Args<'_>,
    when: f64,
) -> Res<Ref> {
    // SAFETY: as for `call_soon`.
    unsafe {
        let call = parse(function, args, 1)?;
        core.check_open()?;
        if core.is_debug() {
            core.check_thread()?;
            // asyncio's call_later() goes by way of call_at(), and its message says so.
            core.check_callback(slf, call.callback, "call_at")?;
        }
        let timer = core.at(slf, when, call.callback, call.args, call.context)?;
        if core.is_debug() {
            handle::note_source(&timer)?;
        }
        Ok(timer.into_object())
    }
}

/// `call_later(delay=1, callback=f)`: legal and rare, so it goes by way of a call with positions.
#[cold]
unsafe fn by_keyword(slf: *mut PyObject, function: &std::ffi::CStr, args: &Args<'_>) -> Res<Ref> {
    // SAFETY: as for `call_soon`.
    unsafe {
        let py = Python::assume_attached();
        let function = function.to_str().unwrap_or_default();
        let first = if function == "call_at" {
            "when"
        } else {
            "delay"
        };
        let kwargs = pyo3::types::PyDict::new(py);
        let mut moved = None;
        for (name, value) in args.keywords() {
            let name = Bound::from_borrowed_ptr(py, name);
            let value = Bound::from_borrowed_ptr(py, value);
            if name.eq(first)? {
                moved = Some(value);
            } else {
                kwargs.set_item(name, value)?;
            }
        }
        let Some(moved) = moved else {
            return Err(missing(function, first));
        };
        let Some(callback) = kwargs.get_item("callback")? else {
            return Err(missing(function, "callback"));
        };
        kwargs.del_item("callback")?;
        let slf = Bound::from_borrowed_ptr(py, slf);
        Ok(slf
            .call_method(function, (moved, callback), Some(&kwargs))?
            .into())
    }
}

/// A number of seconds.
unsafe fn number(object: *mut PyObject) -> Res<f64> {
    // SAFETY: an argument is live; -1.0 may be a value or an error, which the indicator tells apart.
    unsafe {
        let value = ffi::PyFloat_AsDouble(object);
        #[allow(clippy::float_cmp)]
        if value == -1.0 && !ffi::PyErr_Occurred().is_null() {
            return Err(Raised);
        }
        Ok(value)
    }
}

unsafe fn time(_slf: *mut PyObject) -> Res<Ref> {
    // SAFETY: returns a new reference or raises.
    unsafe { Ref::new(ffi::PyFloat_FromDouble(seconds(now_ns()))) }
}

unsafe fn stop(slf: *mut PyObject) -> Res<Ref> {
    // SAFETY: the method descriptor has checked `self`.
    unsafe { LoopCore::of(slf) }.stopping.set(true);
    Ok(Ref::none())
}

unsafe fn is_running(slf: *mut PyObject) -> Res<Ref> {
    // SAFETY: the method descriptor has checked `self`.
    Ok(Ref::bool(unsafe { LoopCore::of(slf) }.is_running()))
}

unsafe fn is_closed(slf: *mut PyObject) -> Res<Ref> {
    // SAFETY: the method descriptor has checked `self`.
    Ok(Ref::bool(unsafe { LoopCore::of(slf) }.is_closed()))
}

unsafe fn get_debug(slf: *mut PyObject) -> Res<Ref> {
    // SAFETY: the method descriptor has checked `self`.
    Ok(Ref::bool(unsafe { LoopCore::of(slf) }.is_debug()))
}

/// What a module calls by a name now.
pub fn current(module: &Ref, name: &Ref) -> Res<Ref> {
    // SAFETY: attached; `module` is the dictionary of a module, and the result is borrowed from it.
    unsafe {
        let found = ffi::PyDict_GetItemWithError(module.as_ptr(), name.as_ptr());
        if found.is_null() {
            if ffi::PyErr_Occurred().is_null() {
                ffi::PyErr_SetObject(ffi::PyExc_NameError, name.as_ptr());
            }
            return Err(Raised);
        }
        Ok(Ref::borrowed(found))
    }
}

unsafe fn create_future(slf: *mut PyObject) -> Res<Ref> {
    // SAFETY: the method descriptor has checked `self`.
    unsafe { LoopCore::of(slf).new_future(slf) }
}

/// `create_task(coro, **kwargs)`: `asyncio.Task` directly, unless a factory is set or debug mode wants the rest of what
/// the inherited method does.
unsafe fn create_task(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    const MAX_KEYWORDS: usize = 4;
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe {
        let core = LoopCore::of(slf);
        let stdlib = Stdlib::get();
        let keywords = args.keyword_count();
        if args.positional.len() != 1
            || keywords > MAX_KEYWORDS
            || core.is_debug()
            || core.is_closed()
            || core.task_factory.with(|factory| factory.is_some())
        {
            return inherited_create_task(slf, &args);
        }
        // Layout of a vectorcall: a free slot, the coroutine, then `loop` and the caller's keyword values.
        let mut values = [ptr::null_mut(); MAX_KEYWORDS + 3];
        values[1] = args.positional[0];
        values[2] = slf;
        let names = if keywords == 0 {
            stdlib.loop_keyword.clone()
        } else {
            let names = Ref::new(ffi::PyTuple_New((keywords + 1).cast_signed()))?;
            ffi::PyTuple_SET_ITEM(
                names.as_ptr(),
                0,
                Ref::borrowed(ffi::PyTuple_GET_ITEM(stdlib.loop_keyword.as_ptr(), 0)).into_ptr(),
            );
            for (i, (name, value)) in args.keywords().enumerate() {
                values[i + 3] = value;
                ffi::PyTuple_SET_ITEM(
                    names.as_ptr(),
                    (i + 1).cast_signed(),
                    Ref::borrowed(name).into_ptr(),
                );
            }
            names
        };
        Ref::new(ffi::PyObject_Vectorcall(
            current(&stdlib.tasks, &stdlib.names.Task)?.as_ptr(),
            values.as_ptr().add(1),
            1 | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            names.as_ptr(),
        ))
    }
}

#[cold]
unsafe fn inherited_create_task(slf: *mut PyObject, args: &Args<'_>) -> Res<Ref> {
    // SAFETY: as for `create_task`.
    unsafe {
        let py = Python::assume_attached();
        let kwargs = pyo3::types::PyDict::new(py);
        for (name, value) in args.keywords() {
            kwargs.set_item(
                Bound::from_borrowed_ptr(py, name),
                Bound::from_borrowed_ptr(py, value),
            )?;
        }
        let positional = std::iter::once(slf)
            .chain(args.positional.iter().copied())
            .map(|object| Bound::from_borrowed_ptr(py, object));
        let positional = pyo3::types::PyTuple::new(py, positional.collect::<Vec<_>>())?;
        Ok(Stdlib::get()
            .base_create_task
            .bind(py)
            .call(positional, Some(&kwargs))?
            .into())
    }
}

/// `_add_callback(handle)`: what inherited code does with a handle that it made itself.
unsafe fn add_callback(slf: *mut PyObject, handle: *mut PyObject) -> Res<Ref> {
    // SAFETY: the method descriptor has checked `self`; the argument is live during the call.
    unsafe {
        let core = LoopCore::of(slf);
        if let Some(ours) = crate::ffi::handle::downcast(handle) {
            if !(*ours).has(crate::ffi::handle::CANCELLED) {
                core.push_ready(HandleRef::borrowed(handle));
            }
            return Ok(Ref::none());
        }
        let py = Python::assume_attached();
        let handle = Bound::from_borrowed_ptr(py, handle);
        if !handle.call_method0("cancelled")?.is_truthy()? {
            let run = handle.getattr("_run")?;
            core.soon(slf, run.as_ptr(), &[], None)?;
        }
        Ok(Ref::none())
    }
}

impl LoopCore {
    #[cold]
    pub fn check_thread(&self) -> Res<()> {
        let owner = self.thread_id.get();
        if owner != 0 && owner != super::current_thread() {
            return Err(PyRuntimeError::new_err(
                "Non-thread-safe operation invoked on an event loop other than the current one",
            )
            .into());
        }
        Ok(())
    }

    #[cold]
    #[allow(clippy::unused_self)]
    unsafe fn check_callback(
        &self,
        slf: *mut PyObject,
        callback: *mut PyObject,
        function: &str,
    ) -> Res<()> {
        // SAFETY: the caller's arguments are live.
        unsafe {
            let py = Python::assume_attached();
            let callback = Bound::from_borrowed_ptr(py, callback);
            Bound::from_borrowed_ptr(py, slf)
                .call_method1("_check_callback", (callback, function))?;
        }
        Ok(())
    }
}

/// Adds the methods to the class, each with the signature that asyncio gives it on this Python.
pub fn add_methods(class: &Bound<'_, PyType>) -> PyResult<()> {
    install(
        class,
        [
            (fastcall!(c"call_soon", call_soon), ASYNCIO, "Arrange for a callback to be called as soon as possible, after all that are ready."),
            (fastcall!(c"call_soon_threadsafe", call_soon_threadsafe), ASYNCIO, "Like call_soon(), from any thread; wakes the loop."),
            (fastcall!(c"call_later", call_later, confined), ASYNCIO, "Arrange for a callback to be called after delay seconds. Returns a TimerHandle."),
            (fastcall!(c"call_at", call_at, confined), ASYNCIO, "Like call_later(), with a time of the loop's clock in seconds."),
            (fastcall!(c"create_task", create_task), ASYNCIO, "Schedule a coroutine as a Task."),
            (noargs!(c"create_future", create_future), ASYNCIO, "A Future of this loop."),
            (noargs!(c"time", time), ASYNCIO, "The loop's clock in seconds, that of time.monotonic()."),
            (noargs!(c"stop", stop), ASYNCIO, "Stop the loop after the callbacks that are ready."),
            (noargs!(c"is_running", is_running), ASYNCIO, "Whether the loop runs."),
            (noargs!(c"is_closed", is_closed), ASYNCIO, "Whether the loop is closed."),
            (noargs!(c"get_debug", get_debug), ASYNCIO, "Whether the loop is in debug mode."),
            (onearg!(c"_add_callback", add_callback), "(self, handle)", "Run a handle that was made elsewhere."),
        ],
    )
}

/// The signature that `asyncio.AbstractEventLoop` gives a method on the running Python.
pub const ASYNCIO: &str = "";

/// Makes method descriptors of (method, signature, documentation) and sets them on `class`.
pub fn install<const N: usize>(
    class: &Bound<'_, PyType>,
    methods: [(Method, &str, &str); N],
) -> PyResult<()> {
    let py = class.py();
    let asyncio_loop = py.import("asyncio.events")?.getattr("AbstractEventLoop")?;
    let signature_of = py.import("inspect")?.getattr("signature")?;
    for (method, signature, doc) in methods {
        let name = method.name.to_string_lossy().into_owned();
        let signature = if signature.is_empty() {
            let function = asyncio_loop.getattr(name.as_str())?;
            signature_of.call1((function,))?.to_string()
        } else {
            signature.to_owned()
        };
        let doc = format!(
            "{name}{}\n--\n\n{doc}",
            signature.replacen("(self", "($self", 1)
        );
        // CPython keeps pointers to the definition and its documentation as long as the class lives.
        let doc = Box::leak(CString::new(doc)?.into_boxed_c_str());
        let def = Box::leak(Box::new(method.def(doc)));
        // SAFETY: the definition is complete and lives for good.
        let descriptor = unsafe {
            Bound::from_owned_ptr_or_err(py, ffi::PyDescr_NewMethod(class.as_type_ptr(), def))?
        };
        class.setattr(name, descriptor)?;
    }
    Ok(())
}
