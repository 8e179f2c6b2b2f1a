//! Timers of the loop.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pyo3::prelude::*;

use crate::asyncio::{asyncio, not_in_a_coroutine, Callback};
use crate::current::current;

/// The future of [`Cx::sleep`](crate::Cx::sleep).
#[must_use = "futures do nothing unless they are awaited"]
pub struct Sleep {
    duration: Duration,
    timer: Option<Timer>,
}

struct Timer {
    callback: Py<Callback>,
    handle: Py<PyAny>,
}

impl Sleep {
    pub(crate) fn new(duration: Duration) -> Self {
        Self {
            duration,
            timer: None,
        }
    }

    fn begin(&self, context: &Context<'_>) -> PyResult<Timer> {
        Python::attach(|py| {
            let callback = Bound::new(py, Callback::new(context.waker()))?;
            let event_loop = asyncio(py)?.get_running_loop.bind(py).call0()?;
            let after = (self.duration.as_secs_f64(), &callback);
            let handle = event_loop.call_method1("call_later", after)?.unbind();
            Ok(Timer {
                callback: callback.unbind(),
                handle,
            })
        })
    }
}

impl Future for Sleep {
    type Output = ();

    /// # Panics
    /// Outside of the coroutine's thread.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Some(timer) = &self.timer {
            return if timer.callback.get().poll(context.waker()) {
                Poll::Ready(())
            } else {
                Poll::Pending
            };
        }
        let core = current();
        assert!(core.is_some(), "{}", not_in_a_coroutine());
        match self.begin(context) {
            Ok(timer) => self.timer = Some(timer),
            Err(error) => {
                if let Some(core) = core {
                    core.failed.set(Some(error));
                }
            }
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let Some(Timer { callback, handle }) = self.timer.take() else {
            return;
        };
        if callback.get().is_called() {
            return;
        }
        callback.get().forget();
        // Without an interpreter there is no timer either.
        Python::try_attach(|py| {
            if let Err(error) = handle.call_method0(py, "cancel") {
                error.write_unraisable(py, None);
            }
        });
    }
}
