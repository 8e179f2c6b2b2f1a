//! What a `NativeAwaitable` waits for: a job, or the jobs of a batch.

use std::sync::Arc;
use std::time::Instant;

use hybridloop_kernels::{Batch, EventQueue, Job, JobResult};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::kernels::completion_queue::WorkId;
use crate::kernels::result::FutureResult;
use crate::python::stdlib::Stdlib;

/// A job, or the jobs of a batch.
pub enum Work {
    Job(Arc<Job>),
    Batch {
        batch: Arc<Batch>,
        jobs: Vec<Arc<Job>>,
        return_exceptions: bool,
    },
}

impl Work {
    pub fn id(&self) -> WorkId {
        match self {
            Self::Job(job) => WorkId::Job(job.id()),
            Self::Batch { batch, .. } => WorkId::Batch(batch.id()),
        }
    }

    pub fn jobs(&self) -> &[Arc<Job>] {
        match self {
            Self::Job(job) => std::slice::from_ref(job),
            Self::Batch { jobs, .. } => jobs,
        }
    }

    /// Whether every kernel has returned or will not run.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Job(job) => job.result().is_some(),
            Self::Batch { batch, .. } => batch.remaining() == 0,
        }
    }

    /// Whether a job was cancelled. What a kernel returns does not count.
    pub fn was_cancelled(&self) -> bool {
        let mut results = self.jobs().iter().map(|job| job.result());
        results.any(|result| matches!(result, Some(JobResult::Cancelled)))
    }

    /// The words for it in error messages.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Job(_) => "job",
            Self::Batch { .. } => "batch of jobs",
        }
    }

    /// Posts an event to `events` when the work is done, at once if it is done already.
    pub fn subscribe(&self, events: Arc<EventQueue>) {
        match self {
            Self::Job(job) => job.subscribe(events),
            Self::Batch { batch, .. } => batch.subscribe(events),
        }
    }

    /// Blocks until the work is done or `until` has passed; returns whether it is done.
    pub fn wait(&self, until: Option<Instant>) -> bool {
        self.jobs().iter().all(|job| job.wait(until).is_some())
    }

    /// The name of the kernel.
    pub fn kernel(&self) -> &str {
        self.jobs().first().map_or("", |job| job.kernel().name())
    }

    /// The result, once the work is done.
    pub fn result(&self, py: Python<'_>) -> PyResult<FutureResult> {
        let (jobs, return_exceptions) = match self {
            Self::Job(job) => return Ok(FutureResult::of(py, job)),
            Self::Batch {
                jobs,
                return_exceptions,
                ..
            } => (jobs, *return_exceptions),
        };
        let results = PyList::empty(py);
        for (index, job) in jobs.iter().enumerate() {
            match FutureResult::of(py, job) {
                FutureResult::Value(value) => results.append(value.bind(py))?,
                FutureResult::Error(error) if return_exceptions => {
                    results.append(error.bind(py))?;
                }
                FutureResult::Cancelled if return_exceptions => {
                    let class = Stdlib::get().cancelled_error.bind(py);
                    results.append(class.call0()?)?;
                }
                FutureResult::Error(error) => {
                    let note = format!("call {index} of the batch");
                    error.bind(py).call_method1("add_note", (note,))?;
                    return Ok(FutureResult::Error(error));
                }
                FutureResult::Cancelled => return Ok(FutureResult::Cancelled),
            }
        }
        Ok(FutureResult::Value(results.into_any().into()))
    }
}
