//! Channels that were passed as arguments.

use crate::ctx::Ctx;

/// A channel that was passed as an argument. It copies what is pushed.
#[derive(Clone, Copy)]
pub struct Channel<'a> {
    pub(crate) ctx: &'a Ctx,
    pub(crate) id: u64,
}
