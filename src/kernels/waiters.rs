//! Futures that wait for a key of the bus or for a channel.

use std::sync::{Arc, Mutex};

use hybridloop_kernels::{ChannelListener, Event, EventQueue, KeyWatch};
use hybridloop_sync::primitives::lock;
use hybridloop_sync::Process;
use pyo3::exceptions::{PyMemoryError, PyRuntimeError};
use pyo3::prelude::*;

use crate::kernels::completion_queue::CompletionQueue;
use crate::kernels::exceptions::cannot_pickle;
use crate::kernels::loop_handle::LoopHandle;

/// Posts of futures that wait for a channel: where to post, and the token to post.
type Tokens = Vec<(u64, Arc<EventQueue>)>;

/// The futures that wait for something in a channel. A value wakes all of them, because a channel announces only the first
/// value after it was empty.
pub struct ChannelWaiters {
    tokens: Mutex<Tokens>,
    process: Process,
}

impl ChannelWaiters {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            tokens: Mutex::default(),
            process: Process::current(),
        })
    }

    fn add(&self, token: u64, events: Arc<EventQueue>) -> PyResult<()> {
        let mut tokens = lock(&self.tokens);
        tokens
            .try_reserve(1)
            .map_err(|_| PyMemoryError::new_err(()))?;
        tokens.push((token, events));
        Ok(())
    }

    fn remove(&self, token: u64) {
        // After a fork the lock may be held by a thread that exists in the parent only.
        if !self.process.is_current() {
            return;
        }
        let mut tokens = lock(&self.tokens);
        let index = tokens.iter().position(|waiter| waiter.0 == token);
        let removed = index.map(|index| tokens.swap_remove(index));
        drop(tokens);
        drop(removed);
    }
}

impl ChannelListener for ChannelWaiters {
    fn readable(&self, _channel: u64) {
        let tokens = std::mem::take(&mut *lock(&self.tokens));
        for (token, events) in tokens {
            events.push(Event::Readable(token));
        }
    }
}

/// What a waiter is registered with.
enum Source {
    Key(#[allow(dead_code, reason = "dropping it deregisters the waiter")] KeyWatch),
    Channel(Arc<ChannelWaiters>),
}

/// A future that waits for a key of the bus or for a channel.
#[pyclass(frozen, module = "hybridloop._core")]
pub struct Waiter {
    queue: Arc<CompletionQueue>,
    token: u64,
    source: Mutex<Option<Source>>,
}

impl Waiter {
    /// Completes `future`, which belongs to the loop that runs in this thread, with a key. `watch` registers with the bus.
    pub fn of_key(
        future: &Bound<'_, PyAny>,
        watch: impl FnOnce(Arc<EventQueue>, u64) -> KeyWatch,
    ) -> PyResult<Self> {
        let (queue, token) = Self::register(future)?;
        let source = Source::Key(watch(queue.events().clone(), token));
        Ok(Self::new(queue, token, source))
    }

    /// Completes `future`, which belongs to the loop that runs in this thread, when the channel gets a value or is closed.
    pub fn of_channel(future: &Bound<'_, PyAny>, waiters: &Arc<ChannelWaiters>) -> PyResult<Self> {
        let (queue, token) = Self::register(future)?;
        if let Err(error) = waiters.add(token, queue.events().clone()) {
            drop(queue.deregister_waiter(token));
            return Err(error);
        }
        Ok(Self::new(queue, token, Source::Channel(waiters.clone())))
    }

    fn register(future: &Bound<'_, PyAny>) -> PyResult<(Arc<CompletionQueue>, u64)> {
        let Some(handle) = LoopHandle::running(future.py())? else {
            return Err(PyRuntimeError::new_err("no running event loop"));
        };
        handle.queue.reserve()?;
        let token = handle.queue.register_waiter(future.into());
        Ok((handle.queue, token))
    }

    fn new(queue: Arc<CompletionQueue>, token: u64, source: Source) -> Self {
        Self {
            queue,
            token,
            source: Mutex::new(Some(source)),
        }
    }
}

#[pymethods]
impl Waiter {
    /// Raises `TypeError`: the object belongs to this process.
    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        Err(cannot_pickle(slf.as_any()))
    }

    /// Stop waiting.
    fn close(&self) {
        let source = lock(&self.source).take();
        if let Some(Source::Channel(waiters)) = &source {
            waiters.remove(self.token);
        }
        drop(source);
        let future = self.queue.deregister_waiter(self.token);
        drop(future);
    }
}
