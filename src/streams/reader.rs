//! The state of a stream reader, and what feeds it.

use pyo3::exceptions::{PyAssertionError, PyNotImplementedError, PyRuntimeError};
use pyo3::ffi::PyObject;
use pyo3::prelude::*;

use crate::allocator::out_of_memory;
use crate::python::bytes::to_bytes;
use crate::python::{nested_drop, Cell, ErrSet, FfiResult, LoopCell, Ref, SlotCell};
use crate::streams::buffer::ReadBuffer;
use crate::streams::waiter::{self, EventLoop};

/// Native base of `hybridloop.StreamReader`, in front of `asyncio.StreamReader`.
#[pyclass(frozen, subclass, module = "hybridloop._core")]
#[derive(Default)]
pub struct StreamReaderCore {
    pub event_loop: SlotCell<EventLoop>,
    /// The limit as it was given; `limit` is its value in bytes.
    pub limit_object: SlotCell<Ref>,
    pub limit: Cell<usize>,
    pub buffer: LoopCell<ReadBuffer>,
    pub eof: Cell<bool>,
    pub waiter: SlotCell<Ref>,
    pub exception: SlotCell<Ref>,
    pub transport: SlotCell<Ref>,
    pub paused: Cell<bool>,
    /// The class does not override `feed_data()`.
    pub has_native_feed: Cell<bool>,
}

// Python's allocator aligns objects to 16 bytes and no more.
const _: () = assert!(align_of::<StreamReaderCore>() <= 16);

// SAFETY: `LoopCell` lets one thread in at a time. A `Cell` is used with the interpreter lock held, and locks by itself on
// free-threaded builds.
unsafe impl Sync for StreamReaderCore {}
// SAFETY: the references may be dropped in any attached thread.
unsafe impl Send for StreamReaderCore {}

impl Drop for StreamReaderCore {
    fn drop(&mut self) {
        let slots = self.slots().map(SlotCell::take);
        nested_drop::drop_content((self.event_loop.take(), slots));
    }
}

impl StreamReaderCore {
    /// The state of a reader.
    ///
    /// # Safety
    /// The thread is attached, and `object` is a live instance of `StreamReaderCore` or of a subclass.
    #[inline]
    pub unsafe fn of<'a>(object: *mut PyObject) -> &'a Self {
        // SAFETY: the caller guarantees the class. `get` of a frozen class adds a fixed offset.
        unsafe {
            Borrowed::from_ptr(Python::assume_attached(), object)
                .cast_unchecked::<Self>()
                .get()
        }
    }

    /// The slots with references besides the loop, for the collector.
    pub fn slots(&self) -> [&SlotCell<Ref>; 4] {
        [
            &self.limit_object,
            &self.waiter,
            &self.exception,
            &self.transport,
        ]
    }

    /// `feed_data(data)`
    #[inline]
    pub fn feed(&self, py: Python<'_>, data: &[u8]) -> FfiResult<()> {
        if self.eof.get() {
            return Err(PyAssertionError::new_err("feed_data after feed_eof").into());
        }
        if data.is_empty() {
            return Ok(());
        }
        let size = self
            .buffer
            .with(|buffer| buffer.extend(data).map(|()| buffer.len()))
            .map_err(out_of_memory)?;
        self.wake()?;
        if size > self.limit.get().saturating_mul(2) && !self.paused.get() {
            self.pause(py)?;
        }
        Ok(())
    }

    /// Puts data back in front of what is buffered.
    pub fn unread(&self, data: &[u8]) -> FfiResult<()> {
        self.buffer
            .with(|buffer| buffer.push_front(data))
            .map_err(out_of_memory)
    }

    /// Resolves the future that a coroutine waits for.
    pub fn wake(&self) -> FfiResult<()> {
        match self.waiter.take() {
            Some(waiter) => waiter::wake(&waiter),
            None => Ok(()),
        }
    }

    #[cold]
    fn pause(&self, py: Python<'_>) -> FfiResult<()> {
        let Some(transport) = self.transport.get() else {
            return Ok(());
        };
        match transport.bind(py).call_method0("pause_reading") {
            Ok(_) => self.paused.set(true),
            // The transport cannot pause. Like asyncio, the reader never asks it again.
            Err(error) if error.is_instance_of::<PyNotImplementedError>(py) => {
                drop(self.transport.take());
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    #[cold]
    fn resume(&self, py: Python<'_>) -> FfiResult<()> {
        self.paused.set(false);
        if let Some(transport) = self.transport.get() {
            transport.bind(py).call_method0("resume_reading")?;
        }
        Ok(())
    }

    /// Removes the first `n` bytes from the buffer, or as many as there are, and returns them as `bytes`.
    #[inline]
    pub fn take(&self, n: usize) -> FfiResult<Ref> {
        self.buffer.with(|buffer| {
            let n = n.min(buffer.len());
            let data = to_bytes(&buffer.as_slice()[..n])?;
            buffer.advance(n);
            Ok(data)
        })
    }

    /// Resumes the transport if no more than the limit is buffered.
    #[inline]
    pub fn resume_if_low(&self, py: Python<'_>) -> FfiResult<()> {
        if self.paused.get() && self.buffer.with(|buffer| buffer.len()) <= self.limit.get() {
            self.resume(py)?;
        }
        Ok(())
    }

    /// A future for the next data, EOF or exception. `function` is the name for the error if a coroutine waits already.
    pub fn wait(&self, py: Python<'_>, function: &str) -> FfiResult<Ref> {
        if self.waiter.is_some() {
            return Err(PyRuntimeError::new_err(format!(
                "{function}() called while another coroutine is already waiting for incoming data"
            ))
            .into());
        }
        if self.eof.get() {
            return Err(PyAssertionError::new_err("_wait_for_data after EOF").into());
        }
        if self.paused.get() {
            // What is buffered is not enough, so it will not fall below the limit.
            self.resume(py)?;
        }
        let Some(event_loop) = self.event_loop.get() else {
            return Err(PyRuntimeError::new_err("StreamReader.__init__() was not called").into());
        };
        let future = event_loop.create_future()?;
        drop(self.waiter.replace(Some(future.clone())));
        Ok(future)
    }

    /// Ends [`StreamReaderCore::wait`] for a future, if that is still waited for.
    pub fn stop_waiting(&self, future: &Ref) {
        if self.waiter.as_ptr() == Some(future.as_ptr()) {
            drop(self.waiter.take());
        }
    }

    /// Raises the exception that `set_exception()` was given.
    #[inline]
    pub fn check_exception(&self, py: Python<'_>) -> FfiResult<()> {
        match self.exception.get() {
            None => Ok(()),
            Some(error) => Err(raise(py, &error)),
        }
    }
}

/// `raise error`
#[cold]
pub fn raise(py: Python<'_>, error: &Ref) -> ErrSet {
    PyErr::from_value(error.bind(py).clone()).into()
}
