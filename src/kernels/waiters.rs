//! `Watch`: a future that waits for a key of the bus or for a channel.

use std::sync::{Arc, Mutex};

use hybridloop_kernels::{Event, Mailbox, Watch as KeyWatch};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::kernels::channel::Waiters;
use crate::kernels::completion_queue::{lock, CompletionQueue};
use crate::kernels::loop_handle::LoopHandle;

/// What a watch takes back.
enum Source {
    Key(#[allow(dead_code, reason = "dropping it takes the watch back")] KeyWatch),
    Channel(Arc<Waiters>),
}

/// A future that waits for news.
#[pyclass(frozen, module = "hybridloop._core")]
pub struct Watch {
    queue: Arc<CompletionQueue>,
    token: u64,
    source: Mutex<Option<Source>>,
}

impl Watch {
    /// Has the loop that runs in this thread, whose future it is, told of a key; `watch` asks the bus for that.
    pub fn of_key(
        future: &Bound<'_, PyAny>,
        watch: impl FnOnce(Arc<Mailbox<Event>>, u64) -> KeyWatch,
    ) -> PyResult<Self> {
        let (queue, token) = Self::begin(future)?;
        let source = Source::Key(watch(queue.mailbox().clone(), token));
        Ok(Self::new(queue, token, source))
    }

    /// The same of a channel.
    pub fn of_channel(future: &Bound<'_, PyAny>, waiters: &Arc<Waiters>) -> PyResult<Self> {
        let (queue, token) = Self::begin(future)?;
        if let Err(error) = waiters.add(token, queue.mailbox().clone()) {
            drop(queue.deregister_waiter(token));
            return Err(error);
        }
        Ok(Self::new(queue, token, Source::Channel(waiters.clone())))
    }

    fn begin(future: &Bound<'_, PyAny>) -> PyResult<(Arc<CompletionQueue>, u64)> {
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
impl Watch {
    /// Wait no longer.
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
