//! What the built-in kernels share.

use hybridloop_kernel::{abi, Code, Ctx, Error, Export, Memory};

/// Bytes processed between two checks for cancellation.
pub(super) const CHUNK: usize = 256 << 10;

pub(super) const fn entry<K: Export>() -> abi::Kernel {
    K::KERNEL
}

/// Writes to memory of the host, which grows up to a limit.
pub(super) struct MemoryWriter<'a> {
    ctx: &'a Ctx,
    memory: Memory<'a, u8>,
    len: usize,
    /// 0 for no limit.
    limit: u64,
}

impl<'a> MemoryWriter<'a> {
    /// A writer with room for `expected` bytes, if there is so much memory.
    pub fn new(ctx: &'a Ctx, expected: usize, limit: u64) -> Result<Self, Error> {
        Ok(Self {
            ctx,
            memory: ctx.memory(expected).or_else(|_| ctx.memory(0))?,
            len: 0,
            limit,
        })
    }

    pub fn finish(mut self) -> Result<Memory<'a, u8>, Error> {
        self.memory.resize(self.len)?;
        Ok(self.memory)
    }
}

impl std::io::Write for MemoryWriter<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let failed = |error: Error| std::io::Error::other(error);
        self.ctx.check().map_err(failed)?;
        let end = self.len + data.len();
        if self.limit != 0 && end as u64 > self.limit {
            let text = format!("the result has more than {} bytes", self.limit);
            return Err(failed(Error::invalid(text)));
        }
        if end > self.memory.len() {
            let double = end.max(2 * self.memory.len());
            let resized = self.memory.resize(double);
            resized
                .or_else(|_| self.memory.resize(end))
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

/// The error of a [`MemoryWriter`] inside of `error`, or a `ValueError`: the codec refuses the data.
pub(super) fn codec_error(error: std::io::Error) -> Error {
    let text = error.to_string();
    match error
        .into_inner()
        .map(<dyn std::error::Error + Send + Sync>::downcast::<Error>)
    {
        Some(Ok(error)) => *error,
        // The words of zstd's library: its errors have no kind.
        _ if text.contains("not enough memory") => Code::Memory.into(),
        _ => Error::invalid(text),
    }
}
