//! How jobs end.

use std::fmt;

use hybridloop_kernel::Code;

use crate::value::Value;

/// An error of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelError {
    /// What kind of error.
    pub code: Code,
    /// The kernel's words, or the code's.
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

/// How a job has ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The kernel's result.
    Value(Value),
    /// The kernel failed.
    Error(KernelError),
    /// It was cancelled, before or while it ran.
    Cancelled,
    /// Its deadline passed, before or while it ran.
    TimedOut,
    /// The engine was closed before it ran.
    Closed,
}
