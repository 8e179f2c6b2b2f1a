//! What programs and tests replace on a loop and on handles, and expect the loop to use: its `time()`, the `select()` of its
//! selector, and `asyncio.Handle._run()`.
//!
//! A class changes its version when one of its attributes, or of its bases' attributes, is set. As long as the version is the
//! one that was looked at, what was found then is true. Attributes of the loop object itself come in through `__setattr__()`.

use std::time::Duration;

use hybridloop_sync::clock::{deadline_ns, now_ns, ns_to_seconds};
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi::{self, PyObject};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::event_loop::callback_args::number;
use crate::event_loop::LoopCore;
use crate::python::handle::{Class, HandleRef};
use crate::python::unstable::type_version::SeenVersion;
use crate::python::{ErrSet, FfiResult, Ref, RelaxedBool, SlotCell};

/// The classes of handles.
const CLASSES: [Class; 3] = [Class::Plain, Class::Timer, Class::ThreadSafe];

/// What is known of the attributes that may be replaced.
#[derive(Default)]
pub struct Overrides {
    /// Version of the loop's class while `time()` is ours.
    clock_version: SeenVersion,
    /// The loop object has an attribute `time`.
    time_on_instance: RelaxedBool,
    /// Version of `TimerHandle`, whose bases are those of all handles, while `_run()` is asyncio's.
    run_version: SeenVersion,
    /// `_run()` of each class when it was found to be asyncio's.
    seen_runs: [SlotCell<Ref>; CLASSES.len()],
    run_replaced: RelaxedBool,
    /// Somebody has set `select` on the loop's selector.
    select_replaced: RelaxedBool,
    /// The selector is being asked.
    selecting: RelaxedBool,
}

/// `setattr(event_loop, name, value)`, or `delattr`.
pub fn set_attribute(
    slf: &Bound<'_, LoopCore>,
    name: &Bound<'_, PyAny>,
    value: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let pointer = value.map_or(std::ptr::null_mut(), Bound::as_ptr);
    // SAFETY: attached; the arguments are live, and null deletes.
    if unsafe { ffi::PyObject_GenericSetAttr(slf.as_ptr(), name.as_ptr(), pointer) } != 0 {
        return Err(ErrSet.into());
    }
    let overrides = &slf.get().overrides;
    if name.eq(intern!(slf.py(), "time"))? {
        overrides.time_on_instance.set(value.is_some());
        overrides.clock_version.forget();
    }
    Ok(())
}

impl LoopCore {
    /// Whether `time()` of the loop object is not ours.
    #[inline]
    fn has_custom_clock(&self, event_loop: *mut PyObject) -> FfiResult<bool> {
        // SAFETY: the callers' loop is live.
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
        // SAFETY: attached; the callers' loop is live.
        unsafe {
            let py = Python::assume_attached();
            let name = intern!(py, "time");
            let class = Bound::from_borrowed_ptr(py, event_loop).get_type();
            let is_ours = class.getattr(name)?.is(native_time(py)?);
            let overrides = &self.overrides;
            if overrides.time_on_instance.get() || !is_ours {
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
            // SAFETY: the caller's promise.
            return unsafe { custom_time(event_loop) };
        }
        Ok(ns_to_seconds(now_ns()))
    }

    /// The same in nanoseconds, from which a deadline is how long to wait.
    ///
    /// # Safety
    /// As [`LoopCore::now`].
    #[inline]
    pub unsafe fn now_for_timeout(&self, event_loop: *mut PyObject) -> FfiResult<u64> {
        if self.has_custom_clock(event_loop)? {
            // SAFETY: the caller's promise.
            return Ok(deadline_ns(unsafe { custom_time(event_loop) }?));
        }
        Ok(now_ns())
    }

    /// The latest deadline that is due.
    ///
    /// # Safety
    /// As [`LoopCore::now`].
    #[inline]
    pub unsafe fn latest_due(&self, event_loop: *mut PyObject) -> FfiResult<u64> {
        if self.has_custom_clock(event_loop)? {
            // SAFETY: the caller's promise.
            return unsafe { custom_due(event_loop) };
        }
        Ok(now_ns())
    }

    /// Looks whether `_run()` of handles is asyncio's, if that may have changed.
    #[inline]
    pub fn check_run_override(&self) {
        // SAFETY: the class was made at import and lives for good.
        if !unsafe { self.overrides.run_version.is_current(Class::Timer.ty()) } {
            self.find_run_override();
        }
    }

    #[cold]
    fn find_run_override(&self) {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        let mut replaced = false;
        for (class, seen) in CLASSES.into_iter().zip(&self.overrides.seen_runs) {
            if class.ty().is_null() {
                continue;
            }
            // SAFETY: the class was made at import and lives for good.
            let class = unsafe { Bound::from_borrowed_ptr(py, class.ty().cast()) };
            let run = class.getattr(intern!(py, "_run")).ok().map(Ref::from);
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
            // SAFETY: the class was made at import and lives for good.
            unsafe { overrides.run_version.remember(Class::Timer.ty()) };
        }
        self.update_run_path();
    }

    /// Brings `needs_slow_run` in line with what it depends on.
    pub fn update_run_path(&self) {
        self.needs_slow_run
            .set(self.is_debug() || self.overrides.run_replaced.get());
    }

    /// `handle._run()`, if that is not asyncio's.
    pub fn run_by_method(&self, handle: &HandleRef) -> Option<FfiResult<()>> {
        if !self.overrides.run_replaced.get() {
            return None;
        }
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        let run = handle
            .as_object()
            .bind(py)
            .call_method0(intern!(py, "_run"));
        Some(run.map(drop).map_err(ErrSet::from))
    }

    /// Whether polling is up to [`LoopCore::poll_selector`].
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
        // SAFETY: attached; the callers' loop is live.
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

    /// What the selector's own `select()` does: events go to the loop's queue.
    pub fn select(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        if !self.overrides.selecting.get() {
            return Err(PyRuntimeError::new_err(
                "only the event loop itself can poll its selector",
            ));
        }
        // Whatever is not a time is none at all.
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
    static TIME: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let time = TIME.get_or_try_init(py, || {
        py.get_type::<LoopCore>().getattr("time").map(Bound::unbind)
    })?;
    Ok(time.bind(py))
}

#[cold]
unsafe fn custom_time(event_loop: *mut PyObject) -> FfiResult<f64> {
    // SAFETY: attached; the caller's loop is live.
    unsafe {
        let py = Python::assume_attached();
        let event_loop = Bound::from_borrowed_ptr(py, event_loop);
        let time: Ref = event_loop.call_method0(intern!(py, "time"))?.into();
        number(time.as_ptr())
    }
}

/// asyncio's rule: what comes before the end of the clock's tick is due.
#[cold]
unsafe fn custom_due(event_loop: *mut PyObject) -> FfiResult<u64> {
    // SAFETY: attached; the caller's loop is live.
    unsafe {
        let py = Python::assume_attached();
        let resolution: Ref = Bound::from_borrowed_ptr(py, event_loop)
            .getattr(intern!(py, "_clock_resolution"))?
            .into();
        let end = custom_time(event_loop)? + number(resolution.as_ptr())?;
        Ok(deadline_ns(end).saturating_sub(1))
    }
}

/// Whether `_run` of a class is another function than asyncio's, which is known by the file it comes from: it may have been
/// replaced before hybridloop was imported.
fn is_run_replaced(class: &Bound<'_, PyAny>) -> bool {
    let file = |name: &str| {
        class
            .getattr(name)?
            .getattr("__code__")?
            .getattr("co_filename")
    };
    let is_asyncios = file("_run").and_then(|run| run.eq(file("_repr_info")?));
    !is_asyncios.unwrap_or(false)
}
