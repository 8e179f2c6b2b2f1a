//! What can go wrong before a kernel runs.

use std::fmt;

use crate::bus::BusError;

/// Which exception an argument's error becomes.
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
    /// Which exception it becomes.
    pub kind: ArgumentErrorKind,
    /// What to say, with the argument's name.
    pub message: String,
}

/// Why a job is not taken; nothing has run and nothing is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubmitError {
    /// An argument does not fit.
    Argument(ArgumentError),
    /// A buffer is written to by another job, or by another argument of this one.
    BufferInUse {
        /// The parameter's name.
        name: String,
        /// The other job, if it is not the same.
        job: Option<u64>,
    },
    /// The parameter of that name is to be written to, and another job reads the buffer.
    BufferRead(String),
    /// As many jobs wait as may.
    QueueFull(usize),
    /// The bus refuses the key under which the result is to go.
    Key(BusError),
    /// The engine is closed.
    Closed,
    /// The engine belongs to the parent of this process.
    Forked,
    /// The system gives no thread.
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
            Self::QueueFull(limit) => write!(f, "{limit} native jobs are waiting, which is the limit"),
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

/// Why a kernel cannot be registered or a library not be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryError {
    /// The name is taken.
    Exists(String),
    /// The name is empty, or not text.
    Name(String),
    /// The signature cannot be read.
    Signature {
        /// What was given.
        signature: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The library cannot be opened.
    Library(String),
    /// The library does not export what a module exports.
    Symbol(String),
    /// The library was made for another interface.
    Abi {
        /// The library.
        library: String,
        /// What it was made for.
        theirs: u32,
        /// What this is.
        ours: u32,
    },
    /// What the library exports is not a module.
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
