//! Errors of kernels.

use std::borrow::Cow;
use std::fmt;

use crate::abi::code;

/// The kind of an error, which decides Python's exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// `ValueError`
    Invalid,
    /// `TypeError`
    Type,
    /// `MemoryError`, also when a limit of the engine would be exceeded.
    Memory,
    /// The job was cancelled.
    Cancelled,
    /// `TimeoutError`: the job's deadline has passed.
    TimedOut,
    /// `KeyError`
    NotFound,
    /// `OverflowError`
    Overflow,
    /// A channel is empty.
    Empty,
    /// A channel or the engine is closed.
    Closed,
    /// A kernel panicked.
    Panic,
    /// The kernel returned something that is not a value.
    Result,
    /// Any other error of the host.
    Unknown,
    /// A code of the kernel: a positive number, because negative ones are the host's.
    Custom(i32),
}

impl Code {
    /// The code of a status. 0, which is no error, gives [`Code::Unknown`].
    #[must_use]
    pub fn from_status(status: i32) -> Self {
        match status {
            code::EINVAL => Self::Invalid,
            code::ETYPE => Self::Type,
            code::ENOMEM => Self::Memory,
            code::ECANCELED => Self::Cancelled,
            code::ETIMEDOUT => Self::TimedOut,
            code::ENOTFOUND => Self::NotFound,
            code::EOVERFLOW => Self::Overflow,
            code::EEMPTY => Self::Empty,
            code::ECLOSED => Self::Closed,
            code::EPANIC => Self::Panic,
            code::ERESULT => Self::Result,
            code::EUNKNOWN | code::OK => Self::Unknown,
            other => Self::Custom(other),
        }
    }

    /// The status of the code, never 0.
    #[must_use]
    pub fn status(self) -> i32 {
        match self {
            Self::Invalid => code::EINVAL,
            Self::Type => code::ETYPE,
            Self::Memory => code::ENOMEM,
            Self::Cancelled => code::ECANCELED,
            Self::TimedOut => code::ETIMEDOUT,
            Self::NotFound => code::ENOTFOUND,
            Self::Overflow => code::EOVERFLOW,
            Self::Empty => code::EEMPTY,
            Self::Closed => code::ECLOSED,
            Self::Panic => code::EPANIC,
            Self::Result => code::ERESULT,
            Self::Unknown | Self::Custom(code::OK) => code::EUNKNOWN,
            Self::Custom(own) => own,
        }
    }

    /// The message of an error without one.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::Invalid => "invalid value",
            Self::Type => "wrong type",
            Self::Memory => "out of memory",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed out",
            Self::NotFound => "not found",
            Self::Overflow => "out of range",
            Self::Empty => "empty",
            Self::Closed => "closed",
            Self::Panic => "the kernel panicked",
            Self::Result => "the kernel returned something that is not a value",
            Self::Unknown => "unknown error",
            Self::Custom(_) => "the kernel failed",
        }
    }
}

/// An error of a kernel: a code and perhaps a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    code: Code,
    message: Cow<'static, str>,
}

impl Error {
    /// An error with a message.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// `ValueError`: an argument has a value that the kernel cannot use.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Invalid, message)
    }

    /// `TypeError`: an argument has the wrong type.
    pub fn type_error(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Type, message)
    }

    /// Its kind.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// Its message, which may be empty.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// `Ok` for the status 0.
    pub(crate) fn check(status: i32) -> Result<(), Self> {
        if status == code::OK {
            Ok(())
        } else {
            Err(Code::from_status(status).into())
        }
    }
}

impl From<Code> for Error {
    fn from(code: Code) -> Self {
        Self {
            code,
            message: Cow::Borrowed(""),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.message.is_empty() {
            self.code.description()
        } else {
            &self.message
        })
    }
}

impl std::error::Error for Error {}

/// `ValueError`, as [`Error::invalid`].
impl From<String> for Error {
    fn from(message: String) -> Self {
        Self::invalid(message)
    }
}

/// `ValueError`, as [`Error::invalid`].
impl From<&'static str> for Error {
    fn from(message: &'static str) -> Self {
        Self::invalid(message)
    }
}

impl From<std::str::Utf8Error> for Error {
    fn from(error: std::str::Utf8Error) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<std::num::TryFromIntError> for Error {
    fn from(error: std::num::TryFromIntError) -> Self {
        Self::new(Code::Overflow, error.to_string())
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::new(Code::Unknown, error.to_string())
    }
}
