//! Results of jobs.

use std::fmt;

use hybridloop_kernel::Code;

use crate::value::Value;

/// An error of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelError {
    /// The kind of error.
    pub code: Code,
    /// The message of the kernel, or the description of the code.
    pub message: String,
}

impl KernelError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for KernelError {}

/// The result of a job.
#[derive(Clone, Debug)]
pub enum JobResult {
    /// The kernel returned a value.
    Value(Value),
    /// The kernel failed.
    Error(KernelError),
    /// The job was cancelled, before or while it ran.
    Cancelled,
    /// The deadline passed, before or while the job ran.
    TimedOut,
    /// The engine was closed before the job ran.
    Closed,
}
