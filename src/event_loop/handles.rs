//! Running, cancelling and describing handles.

use std::ffi::c_void;

use hybridloop_sync::clock::{now_ns, ns_to_seconds};
use pyo3::exceptions::PyAttributeError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::event_loop::{current_thread, exceptions, LoopCore};
use crate::noargs;
use crate::python::context::Contexts;
use crate::python::handle::{
    class_of, make_type, recycle, running, Class, HandleObject, HandleRef, CANCELLED, COUNTED,
    PERSISTENT, RUNNING, SCHEDULED, TEMPLATE, THREAD_SAFE,
};
use crate::python::stdlib::Stdlib;
use crate::python::typespec::getset;
use crate::python::vectorcall::{guard, guard_int};
use crate::python::{context, ErrSet, FfiResult, Ref};

impl LoopCore {
    /// Runs one handle. Its exception goes to the loop's exception handler; only exceptions that end the loop are returned.
    #[inline]
    pub fn run_handle(&self, event_loop: *mut PyObject, handle: HandleRef) -> FfiResult<()> {
        let this = handle.as_ptr();
        // SAFETY: `handle` keeps the object alive. While RUNNING is set, no code clears its fields.
        unsafe {
            // RUNNING is set before CANCELLED is read, so a thread that cancels now sees RUNNING or is seen.
            let before = (*this).begin_run();
            let outcome = if before & CANCELLED != 0 || (*this).callback.is_null() {
                Ok(())
            } else if self.needs_slow_run.get() {
                self.run_slow(event_loop, &handle)
            } else {
                self.run_callback(event_loop, &handle)
            };
            if before & RUNNING != 0 {
                // The callback of this handle runs the loop. Its references must stay until that callback returns.
                return outcome;
            }
            (*this).set(RUNNING, false);
            if (*this).has(THREAD_SAFE) {
                running::ended();
            }
            outcome?;
            if !(*this).has(PERSISTENT) || (*this).has(CANCELLED) {
                recycle(&self.handle_pool, handle);
            }
        }
        Ok(())
    }

    #[inline]
    unsafe fn run_callback(&self, event_loop: *mut PyObject, handle: &HandleRef) -> FfiResult<()> {
        let this = handle.as_ptr();
        // SAFETY: the caller holds the handle and has set RUNNING, so that no code clears its fields.
        let result = unsafe {
            if (*this).has(TEMPLATE) {
                self.run_in_copy(this)
            } else {
                context::run_in((*this).context, || HandleObject::call(this)).map(drop)
            }
        };
        match result {
            Ok(()) => Ok(()),
            Err(ErrSet) => exceptions::callback_failed(event_loop, handle),
        }
    }

    /// Runs a handle in a copy of its template context.
    #[inline]
    unsafe fn run_in_copy(&self, this: *mut HandleObject) -> FfiResult<()> {
        // SAFETY: the caller holds the handle and has set RUNNING, so that no code clears its fields.
        unsafe {
            let template = HandleObject::locked(this, || Ref::borrowed((*this).context));
            let context = Contexts::lease(&self.contexts, &template)?;
            let result = context::run_in(context.as_ptr(), || HandleObject::call(this));
            match result {
                Ok(_) => {
                    Contexts::give_back(&self.contexts, context);
                    Ok(())
                }
                Err(raised) => {
                    // The exception handler runs in the handle's context and sees the variables that the callback has set.
                    replace_template(this, context);
                    Err(raised)
                }
            }
        }
    }

    /// Runs a handle by its `_run()` if that was replaced. In debug mode, logs slow handles.
    #[cold]
    unsafe fn run_slow(&self, event_loop: *mut PyObject, handle: &HandleRef) -> FfiResult<()> {
        let run = || match self.run_by_method(handle) {
            Some(result) => result,
            // SAFETY: the caller holds the handle and has set RUNNING.
            None => unsafe { self.run_callback(event_loop, handle) },
        };
        if !self.is_debug() {
            return run();
        }
        drop(
            self.current_handle
                .replace(Some(handle.as_object().clone())),
        );
        let result = self.timed(run, |py| {
            Stdlib::get()
                .format_handle
                .bind(py)
                .call1((handle.as_object().bind(py),))
        });
        drop(self.current_handle.take());
        result
    }

    /// Runs `body`, and logs the text of `describe` if it took longer than `slow_callback_duration`.
    #[cold]
    pub fn timed(
        &self,
        body: impl FnOnce() -> FfiResult<()>,
        describe: impl FnOnce(Python<'_>) -> PyResult<Bound<'_, PyAny>>,
    ) -> FfiResult<()> {
        let (start, waited) = (now_ns(), self.stacks.waited.get());
        let result = body();
        // What the stack has waited meanwhile does not count.
        let waited = self.stacks.waited.get().saturating_sub(waited);
        let took = ns_to_seconds((now_ns() - start).saturating_sub(waited));
        result?;
        // SAFETY: the loop calls this in its thread, attached.
        let py = unsafe { Python::assume_attached() };
        let limit = self.slow_callback_duration.get();
        if limit.map_or(Ok(false), |limit| limit.bind(py).le(took))? {
            py.import("asyncio.base_events")?
                .getattr("logger")?
                .call_method1(
                    "warning",
                    ("Executing %s took %.3f seconds", describe(py)?, took),
                )?;
        }
        Ok(())
    }

    /// Counts a cancelled timer, and removes all cancelled timers from the heap when there are many.
    fn timer_cancelled(&self) {
        let gone = self.timers.with(|timers| {
            if timers.note_cancelled() {
                timers.compact(|timer| timer.has(CANCELLED))
            } else {
                Vec::new()
            }
        });
        for timer in &gone {
            mark_unscheduled(timer);
        }
    }
}

/// Clears the flags of a timer that has left the heap.
#[inline]
pub fn mark_unscheduled(timer: &HandleRef) {
    // SAFETY: the reference `timer` keeps the handle alive, and flags are atomic.
    unsafe { (*timer.as_ptr()).set(SCHEDULED | COUNTED, false) };
}

/// Stores the stack at which the handle was made, for reports in debug mode.
#[cold]
pub fn save_source_traceback(handle: &HandleRef) -> FfiResult<()> {
    // SAFETY: methods of the loop call this attached; `handle` keeps the object alive, and `locked` keeps other threads out.
    unsafe {
        let py = Python::assume_attached();
        let frame = py.import("sys")?.call_method1("_getframe", (0,))?;
        let stack = Stdlib::get().extract_stack.bind(py).call1((frame,))?;
        let this = handle.as_ptr();
        let stack = Ref::from(stack).into_ptr();
        let old = HandleObject::locked(this, || {
            std::mem::replace(&mut (*this).source_traceback, stack)
        });
        ffi::Py_XDECREF(old);
    }
    Ok(())
}

/// If the handle is thread-safe and its callback runs in another thread, waits until that has returned.
///
/// # Safety
/// `slf` is a live handle.
unsafe fn wait_for_other_thread(slf: *mut PyObject) -> FfiResult<()> {
    // SAFETY: the caller guarantees a live handle. Its loop is a `LoopCore`: only methods of one make handles.
    unsafe {
        let this = slf.cast::<HandleObject>();
        let event_loop = (*this).event_loop;
        if (*this).has(THREAD_SAFE)
            && (*this).has(RUNNING)
            && !event_loop.is_null()
            && LoopCore::of(event_loop).thread_id.get() != current_thread()
        {
            running::wait(Python::assume_attached(), &HandleRef::borrowed(slf))?;
        }
    }
    Ok(())
}

/// `Handle.cancel()`.
///
/// # Safety
/// `slf` is a live handle.
pub unsafe fn cancel(slf: *mut PyObject) -> FfiResult<Ref> {
    let this = slf.cast::<HandleObject>();
    // SAFETY: the caller guarantees a live handle. Its loop is a `LoopCore`: only methods of one make handles.
    unsafe {
        wait_for_other_thread(slf)?;
        if (*this).has(CANCELLED) {
            return Ok(Ref::none());
        }
        let event_loop = (*this).event_loop;
        if event_loop.is_null() {
            (*this).set(CANCELLED, true);
            return Ok(Ref::none());
        }
        // A `__repr__`, or dropping the fields of the handle, may drop the last other reference to the loop.
        let event_loop = Ref::borrowed(event_loop);
        let core = LoopCore::of(event_loop.as_ptr());
        (*this).set(CANCELLED, true);
        if core.is_debug() {
            let py = Python::assume_attached();
            let text = Bound::from_borrowed_ptr(py, slf).repr()?;
            let old = HandleObject::locked(this, || {
                std::mem::replace(&mut (*this).debug_repr, Ref::from(text).into_ptr())
            });
            ffi::Py_XDECREF(old);
        }
        if !core.is_owner() {
            // The loop's thread clears the handle when it reaches it, or runs it right now.
            wait_for_other_thread(slf)?;
            return Ok(Ref::none());
        }
        if !(*this).has(RUNNING) {
            HandleObject::release(this);
        }
        if (*this).has(SCHEDULED) {
            (*this).set(COUNTED, true);
            core.timer_cancelled();
        }
    }
    Ok(Ref::none())
}

unsafe fn cancelled(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live handle: CPython passes the method's receiver, whose class the descriptor has checked.
    unsafe {
        wait_for_other_thread(slf)?;
        Ok(Ref::bool((*slf.cast::<HandleObject>()).has(CANCELLED)))
    }
}

unsafe fn when(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: `slf` is a live handle: CPython passes the method's receiver, whose class the descriptor has checked.
    unsafe {
        if class_of(slf.cast()) == Class::Timer {
            let this = slf.cast::<HandleObject>();
            Ref::new(if (*this).when_is_int {
                ffi::PyLong_FromDouble((*this).when)
            } else {
                ffi::PyFloat_FromDouble((*this).when)
            })
        } else {
            Err(PyAttributeError::new_err("only a TimerHandle has a time").into())
        }
    }
}

/// An object field, or `None`.
///
/// # Safety
/// `object` is a field of a live handle.
unsafe fn field(object: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: the caller passes a field of a live handle: null or a reference that the handle owns.
    Ok(unsafe {
        if object.is_null() {
            Ref::none()
        } else {
            Ref::borrowed(object)
        }
    })
}

/// Replaces the template context of a handle by `own`, if it still has a template.
///
/// # Safety
/// The handle is live; this is the thread of its loop.
unsafe fn replace_template(this: *mut HandleObject, own: Ref) {
    // SAFETY: the caller guarantees a live handle and the loop's thread. A context that is set is a reference that the handle
    // owns.
    unsafe {
        let unused = HandleObject::locked(this, || {
            if !(*this).has(TEMPLATE) || (*this).context.is_null() {
                return own;
            }
            (*this).set(TEMPLATE, false);
            Ref::unowned(std::mem::replace(&mut (*this).context, own.into_ptr()))
        });
        drop(unused);
    }
}

macro_rules! getter {
    ($name:ident, |$this:ident| $body:expr) => {
        unsafe extern "C" fn $name(slf: *mut PyObject, _: *mut c_void) -> *mut PyObject {
            let $this = slf.cast::<HandleObject>();
            // SAFETY: `slf` is a live handle: CPython passes the attribute's owner, whose class the descriptor has checked.
            guard(|| unsafe { $body })
        }
    };
}

getter!(get_callback, |this| HandleObject::locked(this, || field(
    (*this).callback
)));
getter!(get_args, |this| HandleObject::locked(this, || {
    HandleObject::args_tuple(this)
}));
getter!(get_context, |this| {
    let context = HandleObject::locked(this, || field((*this).context))?;
    if !(*this).has(TEMPLATE) || (*this).context.is_null() {
        return Ok(context);
    }
    // The caller may change the context, so the handle gets its own copy. Other threads get a separate copy, because the
    // loop may be about to run the handle.
    let own = context::copy(&context)?;
    let event_loop = (*this).event_loop;
    if event_loop.is_null() || LoopCore::of(event_loop).is_owner() {
        replace_template(this, own.clone());
    }
    Ok(own)
});
getter!(get_loop, |this| field((*this).event_loop));
getter!(get_cancelled, |this| Ok(Ref::bool((*this).has(CANCELLED))));
getter!(get_repr, |this| HandleObject::locked(this, || field(
    (*this).debug_repr
)));
getter!(get_source_traceback, |this| HandleObject::locked(
    this,
    || field((*this).source_traceback)
));
getter!(get_scheduled, |this| Ok(Ref::bool((*this).has(SCHEDULED))));
// asyncio holds this lock while the callback runs. Here it has no effect: `cancel()` and `cancelled()` wait by themselves.
getter!(get_lock, |_this| {
    let py = Python::assume_attached();
    Ok(py.import("threading")?.call_method0("RLock")?.into())
});
getter!(get_when, |this| when(this.cast()));

/// `handle._source_traceback = …`: inherited code trims it with `del`, extensions may replace it.
unsafe extern "C" fn set_source_traceback(
    slf: *mut PyObject,
    value: *mut PyObject,
    _: *mut c_void,
) -> std::ffi::c_int {
    guard_int(|| {
        // SAFETY: `slf` is a live handle, whose class the descriptor has checked. CPython passes a live value, or null to
        // delete.
        unsafe {
            ffi::Py_XINCREF(value);
            let this = slf.cast::<HandleObject>();
            let old = HandleObject::locked(this, || {
                std::mem::replace(&mut (*this).source_traceback, value)
            });
            ffi::Py_XDECREF(old);
        }
        Ok(())
    })
}

fn methods() -> Vec<ffi::PyMethodDef> {
    vec![
        noargs!(c"cancel", cancel)
            .def(c"cancel($self)\n--\n\nKeep the callback from being called."),
        noargs!(c"cancelled", cancelled)
            .def(c"cancelled($self)\n--\n\nWhether cancel() was called."),
        noargs!(c"when", when)
            .def(c"when($self)\n--\n\nThe time of a timer, in seconds of loop.time()."),
    ]
}

fn attributes() -> Vec<ffi::PyGetSetDef> {
    vec![
        getset(c"_callback", get_callback, None),
        getset(c"_args", get_args, None),
        getset(c"_context", get_context, None),
        getset(c"_loop", get_loop, None),
        getset(c"_cancelled", get_cancelled, None),
        getset(c"_repr", get_repr, None),
        getset(
            c"_source_traceback",
            get_source_traceback,
            Some(set_source_traceback),
        ),
        getset(c"_scheduled", get_scheduled, None),
        getset(c"_when", get_when, None),
    ]
}

/// Makes the handle types and adds them to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    for class in [Class::Plain, Class::Timer, Class::ThreadSafe] {
        let mut attributes = attributes();
        if class == Class::ThreadSafe {
            attributes.push(getset(c"_lock", get_lock, None));
        }
        if let Some(class_object) = make_type(py, class, methods(), attributes)? {
            if class != Class::ThreadSafe {
                module.add(
                    class_object.bind(py).getattr("__name__")?.cast_into()?,
                    class_object.bind(py),
                )?;
            }
        }
    }
    Ok(())
}

/// The report of a failed callback, as `asyncio.Handle._run` makes it.
pub fn failure_report<'py>(
    py: Python<'py>,
    event_loop: &Bound<'py, PyAny>,
    handle: &HandleRef,
    error: &PyErr,
) -> PyResult<Bound<'py, PyDict>> {
    let this = handle.as_ptr();
    // SAFETY: `handle` keeps the object alive, and while RUNNING is set no code clears its fields.
    let (callback, args, source) = unsafe {
        (
            field((*this).callback)?,
            HandleObject::args_tuple(this)?,
            HandleObject::locked(this, || field((*this).source_traceback))?,
        )
    };
    let kwargs = PyDict::new(py);
    // Since Python 3.13 the source lines depend on debug mode; before, the function does not take it.
    let debug = event_loop.call_method0("get_debug")?;
    let function = Stdlib::get().format_callback_source.bind(py);
    if py.version_info() >= (3, 13) {
        kwargs.set_item("debug", debug)?;
    }
    let text = function.call((callback.bind(py), args.bind(py)), Some(&kwargs))?;
    let report = exceptions::new_report(py, &format!("Exception in callback {text}"), error)?;
    report.set_item("handle", handle.as_object().bind(py))?;
    if !source.bind(py).is_none() {
        report.set_item("source_traceback", source.bind(py))?;
    }
    Ok(report)
}
