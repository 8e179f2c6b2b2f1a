//! Functions that programs and tests replace and expect the loop to use: `time()` of the loop, `select()` of its selector, and
//! `asyncio.Handle._run()`.
//!
//! The version of a class changes when an attribute of the class or of a base is set. While the version is the same, the result
//! of the last lookup is still true. Attributes of the loop object itself are set through `__setattr__()`.

use std::sync::OnceLock;
use std::time::Duration;

use hybridloop_sync::clock::{deadline_ns, now_ns, ns_to_seconds};
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::event_loop::callback_args::number;
use crate::event_loop::LoopCore;
use crate::python::handle::{Class, HandleRef};
use crate::python::once::get_or_try_set;
use crate::python::stdlib::{as_name, Stdlib};
use crate::python::unstable::type_version::SeenVersion;
use crate::python::{ErrSet, FfiResult, Ref, RelaxedBool, SlotCell};

/// The classes of handles.
const CLASSES: [Class; 3] = [Class::Plain, Class::Timer, Class::ThreadSafe];

/// The results of the last lookups of replaceable attributes.
#[derive(Default)]
pub struct Overrides {
    /// Version of the loop's class at which `time()` was `LoopCore.time`.
    clock_version: SeenVersion,
    /// The loop object has an attribute `time`.
    time_on_instance: RelaxedBool,
    /// Version of `TimerHandle` at which `_run()` was asyncio's. Its bases are the bases of all handle classes.
    run_version: SeenVersion,
    /// `_run()` of each class, once it was found to be asyncio's.
    seen_runs: [SlotCell<Ref>; CLASSES.len()],
    run_replaced: RelaxedBool,
    /// `select` was set on the loop's selector.
    select_replaced: RelaxedBool,
    /// The loop is calling `select()` of its selector.
    selecting: RelaxedBool,
}

/// `setattr(event_loop, name, value)`, or `delattr`.
pub fn set_attribute(
    slf: &Bound<'_, LoopCore>,
    name: &Bound<'_, PyAny>,
    value: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let pointer = value.map_or(std::ptr::null_mut(), Bound::as_ptr);
    // SAFETY: a `Bound` proves that the thread is attached and its object live. Null deletes the attribute.
    if unsafe { ffi::PyObject_GenericSetAttr(slf.as_ptr(), name.as_ptr(), pointer) } != 0 {
        return Err(ErrSet.into());
    }
    let overrides = &slf.get().overrides;
    if name.eq(Stdlib::get().names.time.bind(slf.py()))? {
        overrides.time_on_instance.set(value.is_some());
        overrides.clock_version.forget();
    }
    Ok(())
}

impl LoopCore {
    /// Whether `time()` of the loop object is not `LoopCore.time`.
    #[inline]
    fn has_custom_clock(&self, event_loop: *mut PyObject) -> FfiResult<bool> {
        // SAFETY: the callers have a live loop: they are its methods, or code that it runs.
        if unsafe {
            self.overrides
                .clock_version
                .is_current(ffi::Py_TYPE(event_loop))
        } {
            return Ok(false);
        }
        self.find_clock_override(event_loop)
    }

    #[cold]
    fn find_clock_override(&self, event_loop: *mut PyObject) -> FfiResult<bool> {
        // SAFETY: the callers have a live loop and are attached: they are its methods, or code that it runs.
        unsafe {
            let py = Python::assume_attached();
            let class = Bound::from_borrowed_ptr(py, event_loop).get_type();
            let is_native = class
                .getattr(as_name(py, &Stdlib::get().names.time)?)?
                .is(native_time(py)?);
            let overrides = &self.overrides;
            if overrides.time_on_instance.get() || !is_native {
                overrides.clock_version.forget();
                return Ok(true);
            }
            overrides.clock_version.remember(class.as_type_ptr());
        }
        Ok(false)
    }

    /// `event_loop.time()`.
    ///
    /// # Safety
    /// `event_loop` is the live loop object of this core.
    #[inline]
    pub unsafe fn now(&self, event_loop: *mut PyObject) -> FfiResult<f64> {
        if self.has_custom_clock(event_loop)? {
            // SAFETY: the caller guarantees that `event_loop` is the live loop object of this core.
            return unsafe { custom_time(event_loop) };
        }
        Ok(ns_to_seconds(now_ns()))
    }

    /// The loop's time in nanoseconds. A deadline minus this is the time to wait.
    ///
    /// # Safety
    /// `event_loop` is the live loop object of this core.
    #[inline]
    pub unsafe fn now_for_timeout(&self, event_loop: *mut PyObject) -> FfiResult<u64> {
        if self.has_custom_clock(event_loop)? {
            // SAFETY: the caller guarantees that `event_loop` is the live loop object of this core.
            return Ok(deadline_ns(unsafe { custom_time(event_loop) }?));
        }
        Ok(now_ns())
    }

    /// The latest deadline that is due.
    ///
    /// # Safety
    /// `event_loop` is the live loop object of this core.
    #[inline]
    pub unsafe fn latest_due(&self, event_loop: *mut PyObject) -> FfiResult<u64> {
        if self.has_custom_clock(event_loop)? {
            // SAFETY: the caller guarantees that `event_loop` is the live loop object of this core.
            return unsafe { custom_due(event_loop) };
        }
        Ok(now_ns())
    }

    /// Looks up whether `_run()` of handles is asyncio's, if that may have changed.
    #[inline]
    pub fn check_run_override(&self) {
        // SAFETY: the class was made at import and is never released.
        if !unsafe { self.overrides.run_version.is_current(Class::Timer.ty()) } {
            self.find_run_override();
        }
    }

    #[cold]
    fn find_run_override(&self) {
        // SAFETY: the loop calls this in its thread, attached.
        let py = unsafe { Python::assume_attached() };
        let mut replaced = false;
        for (class, seen) in CLASSES.into_iter().zip(&self.overrides.seen_runs) {
            if class.ty().is_null() {
                continue;
            }
            // SAFETY: the class was made at import and is never released.
            let class = unsafe { Bound::from_borrowed_ptr(py, class.ty().cast()) };
            let run = as_name(py, &Stdlib::get().names._run)
                .and_then(|name| class.getattr(name))
                .ok()
                .map(Ref::from);
            let is_known = run.as_ref().map(Ref::as_ptr) == seen.as_ptr();
            if !is_known && is_run_replaced(&class) {
                replaced = true;
            } else if !is_known {
                drop(seen.replace(run));
            }
        }
        let overrides = &self.overrides;
        overrides.run_replaced.set(replaced);
        if replaced {
            overrides.run_version.forget();
        } else {
            // SAFETY: the class was made at import and is never released.
            unsafe { overrides.run_version.remember(Class::Timer.ty()) };
        }
        self.update_run_path();
    }

    /// Updates `needs_slow_run` after a change of debug mode or `_run()`.
    pub fn update_run_path(&self) {
        self.needs_slow_run
            .set(self.is_debug() || self.overrides.run_replaced.get());
    }

    /// Calls `handle._run()`, if that is not asyncio's.
    pub fn run_by_method(&self, handle: &HandleRef) -> Option<FfiResult<()>> {
        if !self.overrides.run_replaced.get() {
            return None;
        }
        // SAFETY: the loop calls this in its thread, attached.
        let py = unsafe { Python::assume_attached() };
        let run = as_name(py, &Stdlib::get().names._run)
            .and_then(|name| handle.as_object().bind(py).call_method0(name));
        Some(run.map(drop).map_err(ErrSet::from))
    }

    /// Whether the loop polls by [`LoopCore::poll_selector`].
    #[inline]
    pub fn is_select_replaced(&self) -> bool {
        self.overrides.select_replaced.get()
    }

    pub fn set_select_replaced(&self, replaced: bool) {
        self.overrides.select_replaced.set(replaced);
    }

    /// Polls by `event_loop._selector.select(timeout)`.
    #[cold]
    pub fn poll_selector(
        &self,
        event_loop: *mut PyObject,
        wait: Option<Duration>,
    ) -> FfiResult<()> {
        // SAFETY: the callers have a live loop and are attached: they are its methods, or code that it runs.
        let event_loop = unsafe {
            let py = Python::assume_attached();
            Bound::from_borrowed_ptr(py, event_loop)
        };
        let selector = event_loop.getattr("_selector")?;
        let timeout = wait.map(|wait| wait.as_secs_f64());
        self.overrides.selecting.set(true);
        let result = selector.call_method1("select", (timeout,));
        self.overrides.selecting.set(false);
        result?;
        Ok(())
    }

    /// The selector's own `select()`: appends events to the loop's queue.
    pub fn select(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        if !self.overrides.selecting.get() {
            return Err(PyRuntimeError::new_err(
                "only the event loop itself can poll its selector",
            ));
        }
        // A number that is not a valid duration means no timeout.
        let wait = timeout
            .map(|timeout| Duration::try_from_secs_f64(timeout.max(0.0)).unwrap_or(Duration::MAX));
        if wait == Some(Duration::ZERO) {
            return Ok(self.poll_nonblocking(py)?);
        }
        Ok(self.wait_for_io(py, wait)?)
    }
}

/// `LoopCore.time`
fn native_time(py: Python<'_>) -> PyResult<&'_ Bound<'_, PyAny>> {
    static TIME: OnceLock<Ref> = OnceLock::new();
    let time = get_or_try_set(&TIME, || {
        py.get_type::<LoopCore>().getattr("time").map(Ref::from)
    })?;
    Ok(time.bind(py))
}

#[cold]
unsafe fn custom_time(event_loop: *mut PyObject) -> FfiResult<f64> {
    // SAFETY: the callers have a live loop and are attached: they are its methods, or code that it runs.
    unsafe {
        let py = Python::assume_attached();
        let event_loop = Bound::from_borrowed_ptr(py, event_loop);
        let time: Ref = event_loop
            .call_method0(as_name(py, &Stdlib::get().names.time)?)?
            .into();
        number(time.as_ptr())
    }
}

/// asyncio's rule: timers before the end of the clock's tick are due.
#[cold]
unsafe fn custom_due(event_loop: *mut PyObject) -> FfiResult<u64> {
    // SAFETY: the callers have a live loop and are attached: they are its methods, or code that it runs.
    unsafe {
        let py = Python::assume_attached();
        let resolution: Ref = Bound::from_borrowed_ptr(py, event_loop)
            .getattr("_clock_resolution")?
            .into();
        let end = custom_time(event_loop)? + number(resolution.as_ptr())?;
        Ok(deadline_ns(end).saturating_sub(1))
    }
}

/// Whether `_run` of a class is not asyncio's. It is compared by its source file, because a program may have replaced it before
/// it imported hybridloop.
fn is_run_replaced(class: &Bound<'_, PyAny>) -> bool {
    let file = |name: &str| {
        class
            .getattr(name)?
            .getattr("__code__")?
            .getattr("co_filename")
    };
    let is_asyncio = file("_run").and_then(|run| run.eq(file("_repr_info")?));
    !is_asyncio.unwrap_or(false)
}
