//! Callbacks of a `NativeAwaitable`. Each is called by the loop that ran when it was added, or by the thread for callbacks.

use std::sync::Arc;

use hybridloop_sync::primitives::lock;
use pyo3::prelude::*;

use crate::kernels::future::state::{Callback, NativeAwaitable};
use crate::kernels::loop_handle::{current_context, LoopHandle};
use crate::python::Ref;

impl NativeAwaitable {
    /// Adds a callback. The loop that runs in this thread calls it, or else the loop that the work was submitted on, or else the
    /// thread for callbacks.
    pub(super) fn add_callback(
        slf: &Bound<'_, Self>,
        function: &Bound<'_, PyAny>,
        context: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let handle = match &this.owner {
            Some(owner) if owner.runs_here() => owner.clone(),
            owner => match (LoopHandle::running(py)?, owner) {
                (Some(running), _) => running,
                (None, Some(owner)) => owner.clone(),
                (None, None) => LoopHandle::callback_thread(py)?,
            },
        };
        Self::add_callback_on(slf, handle, function, context)
    }

    /// Adds a callback that this loop or thread calls.
    pub(super) fn add_callback_on(
        slf: &Bound<'_, Self>,
        handle: LoopHandle,
        function: &Bound<'_, PyAny>,
        context: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let context = match context {
            Some(context) => context.into(),
            None => current_context(py)?,
        };
        let function = Ref::from(function);
        let mut state = lock(&this.state);
        if state.result.is_some() {
            drop(state);
            return handle.call_soon(py, &function, [&slf.into()], &context);
        }
        let is_registered = this
            .owner
            .iter()
            .chain(state.callbacks.iter().map(|callback| &callback.handle))
            .any(|other| Arc::ptr_eq(&other.queue, &handle.queue));
        let queue = handle.queue.clone();
        state.callbacks.push(Callback {
            handle,
            function,
            context,
        });
        drop(state);
        if let (false, Some(work)) = (is_registered, this.work()) {
            drop(queue.register(work.id(), this.pending(slf)));
            work.subscribe(queue.events().clone());
        }
        Ok(())
    }

    /// Removes all callbacks that are equal to `function`; returns how many.
    pub(super) fn remove_callbacks(&self, function: &Bound<'_, PyAny>) -> PyResult<usize> {
        let all = self.take_callbacks(|_| true);
        let before = all.len();
        let mut remaining = Vec::with_capacity(before);
        let mut result = Ok(());
        for callback in all {
            match callback.function.bind(function.py()).eq(function) {
                Ok(true) => drop(callback),
                Ok(false) => remaining.push(callback),
                Err(error) => {
                    result = Err(error);
                    remaining.push(callback);
                }
            }
        }
        let removed = before - remaining.len();
        let mut state = lock(&self.state);
        remaining.append(&mut state.callbacks);
        state.callbacks = remaining;
        drop(state);
        result.map(|()| removed)
    }

    pub(super) fn take_callbacks(&self, predicate: impl Fn(&Callback) -> bool) -> Vec<Callback> {
        let mut state = lock(&self.state);
        if state.callbacks.iter().all(&predicate) {
            return std::mem::take(&mut state.callbacks);
        }
        let (taken, remaining) = std::mem::take(&mut state.callbacks)
            .into_iter()
            .partition(predicate);
        state.callbacks = remaining;
        taken
    }
}

/// Schedules callbacks on their loops, with the future as argument. If one cannot be scheduled, the others still are.
pub fn schedule(
    py: Python<'_>,
    callbacks: Vec<Callback>,
    future: &Ref,
    all_here: bool,
) -> PyResult<()> {
    let mut result = Ok(());
    for Callback {
        handle,
        function,
        context,
    } in callbacks
    {
        let scheduled = if all_here || handle.runs_here() {
            handle.call_soon(py, &function, [future], &context)
        } else {
            handle.call_soon_threadsafe(py, &function, [future], &context)
        };
        result = result.and(scheduled);
    }
    result
}
