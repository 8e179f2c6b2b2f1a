//! The order of queues and channels.

/// In which order items leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The oldest item first.
    #[default]
    Fifo,
    /// The newest item first.
    Lifo,
}
