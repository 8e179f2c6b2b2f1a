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
    /// Runs one handle. Its exception goes to the loop's exception handler; only those that end the loop come back.
    #[inline]
    pub fn run_handle(&self, event_loop: *mut PyObject, handle: HandleRef) -> FfiResult<()> {
        let this = handle.as_ptr();
        // SAFETY: the handle is owned here; RUNNING keeps its references in place while Python runs.
        unsafe {
            // Before the look at CANCELLED: who cancels at the same moment in another thread sees either.
            let before = (*this).begin_run();
            let outcome = if before & CANCELLED != 0 || (*this).callback.is_null() {
                Ok(())
            } else if self.needs_slow_run.get() {
                self.run_slow(event_loop, &handle)
            } else {
                self.run_callback(event_loop, &handle)
            };
            if before & RUNNING != 0 {
                // Its callback has run the loop. The references have to stay until that callback returns.
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
        // SAFETY: the caller owns the handle and has set RUNNING, so its context stays.
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

    /// Runs a handle in a copy of the template it was made with.
    #[inline]
    unsafe fn run_in_copy(&self, this: *mut HandleObject) -> FfiResult<()> {
        // SAFETY: as for `run_callback`.
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
                    // The exception handler runs in the handle's context, and sees what the callback has set.
                    replace_template(this, context);
                    Err(raised)
                }
            }
        }
    }

    /// Runs a handle by its `_run()` if that was replaced. In debug mode slow ones are logged.
    #[cold]
    unsafe fn run_slow(&self, event_loop: *mut PyObject, handle: &HandleRef) -> FfiResult<()> {
        let run = || match self.run_by_method(handle) {
            Some(result) => result,
            // SAFETY: the caller's promise.
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

    /// Runs `body` and logs it, as `describe` puts it, if it took longer than `slow_callback_duration`.
    #[cold]
    pub fn timed(
        &self,
        body: impl FnOnce() -> FfiResult<()>,
        describe: impl FnOnce(Python<'_>) -> PyResult<Bound<'_, PyAny>>,
    ) -> FfiResult<()> {
        let start = now_ns();
        let result = body();
        let took = ns_to_seconds(now_ns() - start);
        result?;
        // SAFETY: called from the loop, attached.
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

    /// Notes that a timer was cancelled, and clears the heap of such when there are many.
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

/// Notes that a timer is not in the heap any longer.
#[inline]
pub fn mark_unscheduled(timer: &HandleRef) {
    // SAFETY: an owned handle is live.
    unsafe { (*timer.as_ptr()).set(SCHEDULED | COUNTED, false) };
}

/// Keeps where the handle was made, for reports in debug mode.
#[cold]
pub fn save_source_traceback(handle: &HandleRef) -> FfiResult<()> {
    // SAFETY: attached; the handle is live.
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

/// Waits until the callback has returned, if it runs in another thread and the handle is of the kind that waits.
unsafe fn wait_for_other_thread(slf: *mut PyObject) -> FfiResult<()> {
    // SAFETY: the caller's handle is live; the loop of a handle is a `LoopCore`.
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
    // SAFETY: the method descriptor has checked `self`; the loop of a handle is a `LoopCore`.
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
        // A `__repr__`, and what is in the handle, may drop the last other reference to the loop.
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
            // The owner of the loop lets go of the rest when it comes by, or runs it right now.
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
    // SAFETY: the method descriptor has checked `self`.
    unsafe {
        wait_for_other_thread(slf)?;
        Ok(Ref::bool((*slf.cast::<HandleObject>()).has(CANCELLED)))
    }
}

unsafe fn when(slf: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: the method descriptor has checked `self`.
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
unsafe fn field(object: *mut PyObject) -> FfiResult<Ref> {
    // SAFETY: a field that is set holds a live object.
    Ok(unsafe {
        if object.is_null() {
            Ref::none()
        } else {
            Ref::borrowed(object)
        }
    })
}

/// Gives a handle a context of its own instead of a template, if it still has one.
///
/// # Safety
/// The handle is live; this is the thread of its loop.
unsafe fn replace_template(this: *mut HandleObject, own: Ref) {
    // SAFETY: the caller's promise; a context that is set is an owned reference.
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
            // SAFETY: the descriptor has checked `self`.
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
    // Whoever asks may change it: from here on the handle has a context of its own. Other threads get a copy, because
    // the loop may be about to run the handle.
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
// asyncio's has a lock, which is held while the callback runs. Nothing is behind this one: who waits does so in
// `cancel()` and `cancelled()`.
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
        // SAFETY: the descriptor has checked `self`; a null value is a deletion.
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
    // SAFETY: the handle is live and keeps its callback while RUNNING.
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
