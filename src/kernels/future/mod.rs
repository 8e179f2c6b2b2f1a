//! `NativeAwaitable`: the common base of jobs and batches. It is a future as `asyncio.Future` is one, but it belongs to no
//! loop: tasks of several loops can wait for the same job.
//!
//! asyncio takes any object with `_asyncio_future_blocking` for a future. It calls `get_loop()`, `add_done_callback()` and
//! `cancel()`. Here the loop of the future is the one that runs in the calling thread. The completion queue of each loop that
//! has added a callback dispatches the end of the work.
//!
//! * [`state`] — the data, and what depends on nothing else.
//! * [`work`] — what a future waits for: a job, or the jobs of a batch.
//! * [`callbacks`] — `add_done_callback()`.
//! * [`completion`] — how a future gets its result.
//! * [`deadline`] — its timeout.
//! * [`iteration`] — what a task waits for that iterates with `async for`.
//! * [`waiting`] — `await`, and threads that block.
//! * [`unretrieved`] — exceptions that were never retrieved.
//! * [`methods`] — the methods that Python calls.

mod callbacks;
mod completion;
mod deadline;
pub mod iteration;
mod methods;
pub mod state;
pub mod unretrieved;
mod waiting;
pub mod work;

use pyo3::prelude::*;

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    waiting::register(module)?;
    unretrieved::register(module)
}
