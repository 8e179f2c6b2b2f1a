//! The directions of readiness.

/// The readiness that a source waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Data or EOF can be read, or a connection accepted.
    pub readable: bool,
    /// Data can be written, or a connect is done.
    pub writable: bool,
}

impl Interest {
    /// Both directions.
    pub const BOTH: Self = Self {
        readable: true,
        writable: true,
    };

    /// Reading alone.
    pub const READ: Self = Self {
        readable: true,
        writable: false,
    };
}
