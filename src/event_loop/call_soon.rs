//! `call_soon`, timers, and other methods that run once per callback.

use hybridloop_sync::clock::{deadline_ns, now_ns, ns_to_seconds};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::allocator::{is_memory_low, out_of_memory};
use crate::event_loop::callback_args::{by_keyword, number, parse};
use crate::event_loop::methods::{install, ASYNCIO};
use crate::event_loop::tasks::{create_future, create_task};
use crate::event_loop::{check_thread, handles, LoopCore};
use crate::python::finalization::hang_at_exit;
use crate::python::handle::{
    new_handle, new_timer, Call, Class, HandleObject, HandleRef, SCHEDULED,
};
use crate::python::{Args, FfiResult, Ref};
use crate::{fastcall, noargs, onearg};

impl LoopCore {
    /// Makes a handle for the loop object `event_loop` and appends it to the ready queue.
    ///
    /// # Safety
    /// `event_loop` is the live loop object of this core, and what the arguments point to is live.
    #[inline]
    pub unsafe fn call_soon(
        &self,
        event_loop: *mut PyObject,
        callback: *mut PyObject,
        args: &[*mut PyObject],
        context: Option<Ref>,
    ) -> FfiResult<HandleRef> {
        let call = Call {
            callback,
            args,
            context,
            event_loop,
        };
        // SAFETY: the caller guarantees a live loop, and that the pointers in `call` are live.
        let handle = unsafe {
            let running = self.is_running();
            new_handle(
                &self.handle_pool,
                &self.contexts,
                running,
                Class::Plain,
                call,
            )?
        };
        self.push_ready(handle.clone())?;
        Ok(handle)
    }

    /// Appends a handle to the ready queue, behind the handles that other threads have scheduled.
    #[inline]
    pub fn push_ready(&self, handle: HandleRef) -> FfiResult<()> {
        if !self.is_owner() {
            return self.push_inbox(handle);
        }
        if self.inbox.is_pending() {
            self.drain_inbox();
        }
        self.ready.try_push_back(handle).map_err(out_of_memory)
    }

    /// Puts a handle into the inbox and wakes the loop if it sleeps.
    pub fn push_inbox(&self, handle: HandleRef) -> FfiResult<()> {
        if is_memory_low() {
            return Err(out_of_memory(handle));
        }
        if self.inbox.push(handle) {
            self.wake();
        }
        Ok(())
    }

    /// Reserves capacity in the queues of transports and listeners, for all that exist and one more. Each is queued once at
    /// most, so that queueing it later cannot fail.
    pub fn reserve_queues(&self) -> FfiResult<()> {
        let count = self.descriptors.with(|all| all.len()) + 1;
        [&self.to_flush, &self.to_resume]
            .into_iter()
            .try_for_each(|list| {
                list.with_taken(|list| list.try_reserve(count.saturating_sub(list.len())))
            })
            .map_err(out_of_memory)
    }

    /// Moves handles that other threads have scheduled to the end of the ready queue. Without memory the rest stays in the
    /// inbox.
    pub fn drain_inbox(&self) {
        self.inbox.clear();
        let all = self.ready.with_taken(|ready| {
            while ready.try_reserve(1).is_ok() {
                let Some(handle) = self.inbox.pop() else {
                    return true;
                };
                ready.push_back(handle);
            }
            false
        });
        if !all {
            self.inbox.mark_pending();
        }
    }

    /// Schedules a `TimerHandle` for `when`, in seconds of the loop's clock.
    ///
    /// # Safety
    /// `event_loop` is the live loop object of this core, and what the arguments point to is live.
    pub unsafe fn call_at(
        &self,
        event_loop: *mut PyObject,
        when: f64,
        callback: *mut PyObject,
        args: &[*mut PyObject],
        context: Option<Ref>,
    ) -> FfiResult<HandleRef> {
        let call = Call {
            callback,
            args,
            context,
            event_loop,
        };
        // SAFETY: the caller guarantees that the loop and the arguments are live.
        let timer = unsafe { new_timer(&self.handle_pool, &self.contexts, call, when)? };
        self.timers
            .with(|timers| timers.push(deadline_ns(when), timer.clone()))
            .map_err(out_of_memory)?;
        // SAFETY: the reference `timer` keeps the handle alive, and flags are atomic.
        unsafe { (*timer.as_ptr()).set(SCHEDULED, true) };
        Ok(timer)
    }
}

unsafe fn call_soon(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe {
        let core = LoopCore::of(slf);
        let call = parse("call_soon", &args, 0)?;
        core.check_open()?;
        if core.is_debug() {
            core.refuse_other_thread()?;
            core.check_callback(slf, call.callback, "call_soon")?;
        }
        let handle = core.call_soon(slf, call.callback, call.args, call.context)?;
        if core.is_debug() {
            handles::save_source_traceback(&handle)?;
        }
        Ok(handle.into_object())
    }
}

unsafe fn call_soon_threadsafe(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe {
        let core = LoopCore::of(slf);
        let call = parse("call_soon_threadsafe", &args, 0)?;
        core.check_open()?;
        if !core.is_owner() {
            hang_at_exit();
        }
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
        let handle = new_handle(&core.handle_pool, &core.contexts, running, class, call)?;
        if core.is_debug() {
            handles::save_source_traceback(&handle)?;
        }
        core.push_inbox(handle.clone())?;
        Ok(handle.into_object())
    }
}

unsafe fn call_later(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe {
        let core = LoopCore::of(slf);
        let Some(&delay) = args.positional.first() else {
            return by_keyword(slf, c"call_later", &args);
        };
        if delay == ffi::Py_None() {
            return Err(PyTypeError::new_err("delay must not be None").into());
        }
        let now = core.now(slf)?;
        let when = if ffi::PyFloat_CheckExact(delay) != 0 || ffi::PyLong_CheckExact(delay) != 0 {
            now + number(delay)?
        } else {
            // Any object that can be added to a float, as in asyncio.
            let now = Ref::new(ffi::PyFloat_FromDouble(now))?;
            number(Ref::new(ffi::PyNumber_Add(now.as_ptr(), delay))?.as_ptr())?
        };
        timer(slf, core, "call_later", &args, when)
    }
}

unsafe fn call_at(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe {
        let core = LoopCore::of(slf);
        let Some(&when) = args.positional.first() else {
            return by_keyword(slf, c"call_at", &args);
        };
        if when == ffi::Py_None() {
            return Err(PyTypeError::new_err("when cannot be None").into());
        }
        let handle = timer(slf, core, "call_at", &args, number(when)?)?;
        (*handle.as_ptr().cast::<HandleObject>()).when_is_int = ffi::PyLong_Check(when) != 0;
        Ok(handle)
    }
}

unsafe fn timer(
    slf: *mut PyObject,
    core: &LoopCore,
    function: &str,
    args: &Args<'_>,
    when: f64,
) -> FfiResult<Ref> {
    // SAFETY: the callers are methods of the loop: `slf` is their receiver, a live `LoopCore`, and CPython keeps the arguments
    // alive.
    unsafe {
        let call = parse(function, args, 1)?;
        core.check_open()?;
        if core.is_debug() {
            core.refuse_other_thread()?;
            // asyncio's call_later() calls call_at(), so the message names that.
            core.check_callback(slf, call.callback, "call_at")?;
        }
        let timer = core.call_at(slf, when, call.callback, call.args, call.context)?;
        if core.is_debug() {
            handles::save_source_traceback(&timer)?;
        }
        Ok(timer.into_object())
    }
}

unsafe fn time(_slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: CPython calls methods attached. The result is a new reference, or null with an exception set.
    unsafe { Ref::new(ffi::PyFloat_FromDouble(ns_to_seconds(now_ns()))) }
}

unsafe fn stop(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked.
    unsafe { LoopCore::of(slf) }.stopping.set(true);
    Ok(Ref::none())
}

unsafe fn is_running(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked.
    Ok(Ref::bool(unsafe { LoopCore::of(slf) }.is_running()))
}

unsafe fn is_closed(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked.
    Ok(Ref::bool(unsafe { LoopCore::of(slf) }.is_closed()))
}

unsafe fn get_debug(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked.
    Ok(Ref::bool(unsafe { LoopCore::of(slf) }.is_debug()))
}

/// `_add_callback(handle)`: schedules a handle that inherited code has made.
unsafe fn add_callback(slf: *mut PyObject, handle: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe {
        let core = LoopCore::of(slf);
        if let Some(native) = crate::python::handle::downcast(handle) {
            if !(*native).has(crate::python::handle::CANCELLED) {
                core.push_ready(HandleRef::borrowed(handle))?;
            }
            return Ok(Ref::none());
        }
        let py = Python::assume_attached();
        let handle = Bound::from_borrowed_ptr(py, handle);
        if !handle.call_method0("cancelled")?.is_truthy()? {
            let run = handle.getattr("_run")?;
            core.call_soon(slf, run.as_ptr(), &[], None)?;
        }
        Ok(Ref::none())
    }
}

impl LoopCore {
    /// asyncio's check of methods that are not thread-safe, in debug mode.
    pub fn check_thread_in_debug(&self) -> FfiResult<()> {
        if self.is_debug() {
            return self.refuse_other_thread();
        }
        Ok(())
    }

    #[cold]
    pub fn refuse_other_thread(&self) -> FfiResult<()> {
        let owner = self.thread_id.get();
        if owner != 0 && owner != crate::event_loop::current_thread() {
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
    ) -> FfiResult<()> {
        // SAFETY: the callers are methods of the loop `slf`, so the thread is attached; CPython keeps receiver and arguments
        // alive.
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
            (fastcall!(c"call_later", call_later, check_thread), ASYNCIO, "Arrange for a callback to be called after delay seconds. Returns a TimerHandle."),
            (fastcall!(c"call_at", call_at, check_thread), ASYNCIO, "Like call_later(), with a time of the loop's clock in seconds."),
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
