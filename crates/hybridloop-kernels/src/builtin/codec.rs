//! What kernels that compress and decompress share.

use std::io::{Read, Write};

use hybridloop_kernel::{Code, Ctx, Error, Memory};

use crate::builtin::common::CHUNK;
use crate::call::reserve;
use crate::memory::limit::Reservation;

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

    /// Room for `len` bytes, which [`advance`](Self::advance) adds to those that are written.
    pub fn room(&mut self, len: usize) -> Result<&mut [u8], Error> {
        self.ctx.check()?;
        let end = self.len.checked_add(len).ok_or(Code::Memory)?;
        if self.limit != 0 && end as u64 > self.limit {
            let text = format!("the result has more than {} bytes", self.limit);
            return Err(Error::invalid(text));
        }
        if end > self.memory.len() {
            let double = end.max(2 * self.memory.len());
            let resized = self.memory.resize(double);
            resized.or_else(|_| self.memory.resize(end))?;
        }
        Ok(&mut self.memory[self.len..end])
    }

    /// How many bytes fit without more memory.
    pub fn free(&self) -> usize {
        let limit = usize::try_from(self.limit).ok().filter(|limit| *limit != 0);
        limit.map_or(self.memory.len(), |limit| limit.min(self.memory.len())) - self.len
    }

    /// At most [`free`](Self::free) bytes of the room were written.
    pub fn advance(&mut self, len: usize) {
        self.len += len;
    }

    pub fn finish(mut self) -> Result<Memory<'a, u8>, Error> {
        self.memory.resize(self.len)?;
        Ok(self.memory)
    }
}

impl std::io::Write for MemoryWriter<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let room = self.room(data.len()).map_err(std::io::Error::other)?;
        room.copy_from_slice(data);
        self.advance(data.len());
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

pub(super) fn feed<W: Write>(ctx: &Ctx, data: &[u8], encoder: &mut W) -> Result<(), Error> {
    let mut done = 0;
    for chunk in data.chunks(CHUNK) {
        ctx.check()?;
        encoder.write_all(chunk).map_err(codec_error)?;
        done += chunk.len();
        ctx.progress(done as u64, data.len() as u64);
    }
    Ok(())
}

/// The decompressed parts of `data`, one after another, of which the first has `first` bytes, if that is known. `decode` decompresses the first part of what is left, and advances to
/// the next.
pub(super) fn join<'a>(
    ctx: &'a Ctx,
    mut data: &[u8],
    first: Option<usize>,
    max_size: u64,
    mut decode: impl FnMut(&mut &[u8], &mut MemoryWriter<'a>) -> Result<(), Error>,
) -> Result<Memory<'a, u8>, Error> {
    let expected = first.unwrap_or_else(|| data.len().saturating_mul(2).max(64));
    let expected = usize::try_from(max_size)
        .ok()
        .filter(|max_size| *max_size != 0)
        .map_or(expected, |max_size| expected.min(max_size));
    let mut writer = MemoryWriter::new(ctx, expected, max_size)?;
    let len = data.len() as u64;
    loop {
        ctx.check()?;
        decode(&mut data, &mut writer)?;
        ctx.progress(len - data.len() as u64, len);
        if data.is_empty() {
            return writer.finish();
        }
    }
}

/// Reads all there is, to memory of the host directly.
pub(super) fn drain(mut decoder: impl Read, writer: &mut MemoryWriter<'_>) -> Result<(), Error> {
    // For the byte behind the memory: the result may fill all that there is.
    let mut more = [0; 1024];
    loop {
        let read = match writer.free().min(CHUNK) {
            0 => {
                let read = decoder.read(&mut more).map_err(codec_error)?;
                writer.room(read)?.copy_from_slice(&more[..read]);
                read
            }
            free => decoder.read(writer.room(free)?).map_err(codec_error)?,
        };
        if read == 0 {
            return Ok(());
        }
        writer.advance(read);
    }
}

/// Reserves what a library allocates.
pub(super) fn library_memory(ctx: &Ctx, bytes: usize) -> Result<Reservation, Error> {
    reserve(ctx, bytes).ok_or_else(|| Code::Memory.into())
}
