//! Callbacks of a `NativeAwaitable`: whose they are, and how they come to their loops.

use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::kernels::completion_queue::lock;
use crate::kernels::future::NativeAwaitable;
use crate::kernels::loop_handle::{current_context, LoopHandle};
use crate::python::Ref;

/// What `add_done_callback()` was given, and the loop that calls it.
pub struct Callback {
    pub(super) handle: LoopHandle,
    pub(super) function: Ref,
    pub(super) context: Ref,
}

impl NativeAwaitable {
    /// Has `function` called by the loop that runs in this thread, or by the one it was submitted on, once it is done.
    pub(super) fn add_callback(
        slf: &Bound<'_, Self>,
        function: &Bound<'_, PyAny>,
        context: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        this.check_process(py)?;
        let handle = match &this.owner {
            Some(owner) if owner.runs_here() => owner.clone(),
            owner => match LoopHandle::running(py)? {
                Some(running) => running,
                None => owner.clone().ok_or_else(|| {
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
        let function = Ref::from(function);
        let mut state = lock(&this.state);
        if state.result.is_some() {
            drop(state);
            return handle.call_soon(py, &function, &[slf.as_ptr()], &context);
        }
        let registered = this
            .owner
            .iter()
            .chain(state.callbacks.iter().map(|known| &known.handle))
            .any(|known| Arc::ptr_eq(&known.queue, &handle.queue));
        let queue = handle.queue.clone();
        state.callbacks.push(Callback {
            handle,
            function,
            context,
        });
        drop(state);
        if let (false, Some(work)) = (registered, this.work()) {
            drop(queue.register(work, slf.into()));
            work.subscribe(queue.mailbox().clone());
        }
        Ok(())
    }

    /// Takes out all callbacks that are equal to `function`; how many they were.
    pub(super) fn remove_callbacks(&self, function: &Bound<'_, PyAny>) -> PyResult<usize> {
        let all = self.take_callbacks(|_| true);
        let before = all.len();
        let mut left = Vec::with_capacity(before);
        let mut failed = Ok(());
        for callback in all {
            match callback.function.bind(function.py()).eq(function) {
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

    pub(super) fn take_callbacks(&self, which: impl Fn(&Callback) -> bool) -> Vec<Callback> {
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
}

/// Schedules callbacks on their loops. One that cannot be scheduled does not keep the others from it.
pub fn call_all(
    py: Python<'_>,
    callbacks: Vec<Callback>,
    argument: &Bound<'_, PyAny>,
    all_here: bool,
) -> PyResult<()> {
    let mut result = Ok(());
    for Callback {
        handle,
        function,
        context,
    } in callbacks
    {
        let args = [argument.as_ptr()];
        let here = all_here || handle.runs_here();
        let called = if here {
            handle.call_soon(py, &function, &args, &context)
        } else {
            handle.call_soon_threadsafe(py, &function, &args, &context)
        };
        result = result.and(called);
    }
    result
}
