//! Kernels that come with the engine, under names that begin with `hl.`.
//!
//! They are written with the same SDK as anybody's. Each says what it takes, what it gives, and when it fails; all end early
//! when their job is cancelled, unless they say otherwise.

mod compress;
mod control;
mod hash;
mod numbers;
mod password;
mod text;

use std::sync::Arc;

use hybridloop_kernel::{abi, Ctx, Error, Export, Memory};

use crate::registry::{Kernel, Registry};

/// How many bytes are worked on between two looks at whether the job was cancelled.
const CHUNK: usize = 256 << 10;

impl Registry {
    /// A registry with the kernels that come with the engine.
    #[must_use]
    pub fn with_builtins() -> Self {
        let registry = Self::new();
        let entries = [
            hash::TABLE,
            compress::TABLE,
            text::TABLE,
            password::TABLE,
            numbers::TABLE,
            control::TABLE,
        ];
        let kernels = entries.iter().copied().flatten().filter_map(|entry| {
            // SAFETY: made by `#[kernel]`, of constants. The tests look at each.
            unsafe { Kernel::from_entry(entry, None) }.ok()
        });
        let kernels: Vec<Arc<Kernel>> = kernels.collect();
        // Names are unique, so nothing is refused.
        let _ = registry.add_all(kernels, true);
        registry
    }
}

const fn entry<K: Export>() -> abi::Kernel {
    K::KERNEL
}

/// A writer into memory of the host, which grows up to a limit.
struct Sink<'a> {
    ctx: &'a Ctx,
    memory: Memory<'a, u8>,
    len: usize,
    limit: u64,
}

impl<'a> Sink<'a> {
    fn new(ctx: &'a Ctx, expected: usize, limit: u64) -> Result<Self, Error> {
        Ok(Self {
            ctx,
            memory: ctx.memory(expected)?,
            len: 0,
            limit,
        })
    }

    fn finish(mut self) -> Result<Memory<'a, u8>, Error> {
        self.memory.resize(self.len)?;
        Ok(self.memory)
    }
}

impl std::io::Write for Sink<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let failed = |error: Error| std::io::Error::other(error);
        self.ctx.check().map_err(failed)?;
        let end = self.len + data.len();
        if self.limit != 0 && end as u64 > self.limit {
            let text = format!("the result has more than {} bytes", self.limit);
            return Err(failed(Error::invalid(text)));
        }
        if end > self.memory.len() {
            self.memory
                .resize(end.max(2 * self.memory.len()))
                .map_err(failed)?;
        }
        self.memory[self.len..end].copy_from_slice(data);
        self.len = end;
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The error that a [`Sink`] has put in there, or the codec's own, which means bad data.
fn codec_error(error: std::io::Error) -> Error {
    let text = error.to_string();
    match error
        .into_inner()
        .map(<dyn std::error::Error + Send + Sync>::downcast::<Error>)
    {
        Some(Ok(error)) => *error,
        _ => Error::invalid(text),
    }
}
