//! Errors before a kernel runs.

use std::fmt;

use crate::bus::BusError;

/// The exception for a bad argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgumentErrorKind {
    /// `TypeError`
    Type,
    /// `ValueError`
    Value,
    /// `OverflowError`
    Overflow,
}

/// An argument that does not fit its parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgumentError {
    /// The exception.
    pub kind: ArgumentErrorKind,
    /// The message, with the name of the argument.
    pub message: String,
}

/// Why a job is not submitted. The kernel has not run, and no argument is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubmitError {
    /// An argument does not fit.
    Argument(ArgumentError),
    /// Another job writes to the buffer, or the same job uses it twice and writes to it.
    BufferInUse {
        /// The parameter's name.
        name: String,
        /// The other job; `None` for the same job.
        job: Option<u64>,
    },
    /// The parameter with this name is written, and another job reads the buffer.
    BufferRead(String),
    /// A call of a batch cannot be submitted: its index, and why.
    Call(usize, Box<SubmitError>),
    /// The queue of jobs is full.
    QueueFull {
        /// The number of jobs to queue.
        wanted: usize,
        /// The number of queued jobs.
        queued: usize,
        /// The greatest number of queued jobs.
        limit: usize,
    },
    /// The system has no memory for the jobs.
    Memory,
    /// The key for the result is not valid.
    Key(BusError),
    /// The engine is closed.
    Closed,
    /// The engine was made before a fork and belongs to the parent of this process.
    Forked,
    /// The system starts no thread.
    Thread(String),
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(error) => f.write_str(&error.message),
            Self::BufferInUse { name, job: Some(job) } => {
                write!(f, "'{name}': job {job} writes to this buffer")
            }
            Self::BufferInUse { name, job: None } => {
                write!(f, "'{name}': another argument is the same memory, and one of them is written to")
            }
            Self::BufferRead(name) => write!(f, "'{name}': another job reads this buffer"),
            Self::QueueFull { wanted: 1, limit, .. } => {
                write!(f, "{limit} native jobs are waiting, which is the limit")
            }
            Self::QueueFull { wanted, queued, limit } => {
                write!(
                    f,
                    "there is no room for {wanted} calls: {queued} native jobs are waiting, and the limit is {limit}"
                )
            }
            Self::Call(index, error) => write!(f, "call {index}: {error}"),
            Self::Memory => f.write_str("no memory left for native jobs"),
            Self::Key(error) => fmt::Display::fmt(error, f),
            Self::Closed => f.write_str("the engine is closed"),
            Self::Forked => f.write_str(
                "this engine was made before a fork and belongs to the parent process; make a new one",
            ),
            Self::Thread(reason) => write!(f, "no thread for native jobs: {reason}"),
        }
    }
}

impl std::error::Error for SubmitError {}

impl From<ArgumentError> for SubmitError {
    fn from(error: ArgumentError) -> Self {
        Self::Argument(error)
    }
}

/// Why a kernel cannot be registered or a library cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryError {
    /// The name is taken.
    Exists(String),
    /// The name is empty, or not text.
    Name(String),
    /// The signature cannot be parsed.
    Signature {
        /// The signature.
        signature: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The library cannot be opened.
    Library(String),
    /// The library does not export the symbol.
    Symbol(String),
    /// The library was built for another version of the interface.
    Abi {
        /// The library.
        library: String,
        /// The version that it was built for.
        theirs: u32,
        /// The version of this crate.
        ours: u32,
    },
    /// What the library exports is not a valid module of kernels.
    Module(String),
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(name) => write!(f, "a kernel named '{name}' exists"),
            Self::Name(reason) => write!(f, "bad name of a kernel: {reason}"),
            Self::Signature { signature, reason } => write!(f, "bad signature {signature:?}: {reason}"),
            Self::Library(reason) | Self::Symbol(reason) | Self::Module(reason) => f.write_str(reason),
            Self::Abi { library, theirs, ours } => write!(
                f,
                "{library} was built for kernel interface {theirs}, but this is kernel interface {ours}"
            ),
        }
    }
}

impl std::error::Error for RegistryError {}
