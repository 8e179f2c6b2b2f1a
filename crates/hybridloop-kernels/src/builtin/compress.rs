//! Compression with deflate and LZ4. Results are bytes, with a checksum of the data. What is damaged or incomplete, or followed by
//! something else, is a `ValueError`; frames, and members of gzip, are joined. `max_size` is the greatest size of decompressed
//! data, in bytes; 0 means that only the limits of the engine apply. What the libraries allocate counts towards these too.

use std::io::{self, Read};

use flate2::bufread::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use flate2::Compression;
use hybridloop_kernel::{abi, kernel, Code, Ctx, Error, Memory};
use lz4_flex::frame::{FrameDecoder, FrameEncoder, FrameInfo};

use crate::builtin::codec::{codec_error, drain, feed, join, library_memory, MemoryWriter};
use crate::builtin::common::entry;

pub(super) const TABLE: &[abi::Kernel] = &[
    entry::<gzip_compress>(),
    entry::<gzip_decompress>(),
    entry::<zlib_compress>(),
    entry::<zlib_decompress>(),
    entry::<lz4_compress>(),
    entry::<lz4_decompress>(),
];

/// At least what the library allocates to compress with deflate, to decompress it, and to compress with LZ4 in blocks of `CHUNK`.
const DEFLATE: usize = 512 << 10;
const INFLATE: usize = 128 << 10;
const LZ4: usize = 1 << 20;

fn deflate_level(level: u32) -> Result<Compression, Error> {
    if level > 9 {
        return Err(Error::invalid("level: expected 0 to 9"));
    }
    Ok(Compression::new(level))
}

/// A gzip member of `data`; `level` from 0 (none) to 9 (small).
#[kernel(name = "hl.gzip.compress")]
fn gzip_compress<'a>(
    ctx: &'a Ctx,
    data: &[u8],
    #[default(6)] level: u32,
) -> Result<Memory<'a, u8>, Error> {
    let level = deflate_level(level)?;
    let _memory = library_memory(ctx, DEFLATE)?;
    let writer = MemoryWriter::new(ctx, data.len() / 2 + 64, 0)?;
    let mut encoder = GzEncoder::new(writer, level);
    feed(ctx, data, &mut encoder)?;
    encoder.finish().map_err(codec_error)?.finish()
}

/// The decompressed gzip members of `data`.
#[kernel(name = "hl.gzip.decompress")]
fn gzip_decompress<'a>(
    ctx: &'a Ctx,
    data: &[u8],
    #[default(0)] max_size: u64,
) -> Result<Memory<'a, u8>, Error> {
    let _memory = library_memory(ctx, INFLATE)?;
    join(ctx, data, None, max_size, |data, writer| {
        drain(GzDecoder::new(&mut *data), writer)?;
        // Archives on tapes, and gzip, fill the last block with zeros.
        let zeros = data.iter().take_while(|byte| **byte == 0).count();
        *data = data.split_at(zeros).1;
        Ok(())
    })
}

/// A zlib stream (deflate) of `data`; `level` from 0 (none) to 9 (small).
#[kernel(name = "hl.zlib.compress")]
fn zlib_compress<'a>(
    ctx: &'a Ctx,
    data: &[u8],
    #[default(6)] level: u32,
) -> Result<Memory<'a, u8>, Error> {
    let level = deflate_level(level)?;
    let _memory = library_memory(ctx, DEFLATE)?;
    let writer = MemoryWriter::new(ctx, data.len() / 2 + 64, 0)?;
    let mut encoder = ZlibEncoder::new(writer, level);
    feed(ctx, data, &mut encoder)?;
    encoder.finish().map_err(codec_error)?.finish()
}

/// The decompressed zlib stream (deflate) `data`.
#[kernel(name = "hl.zlib.decompress")]
fn zlib_decompress<'a>(
    ctx: &'a Ctx,
    data: &[u8],
    #[default(0)] max_size: u64,
) -> Result<Memory<'a, u8>, Error> {
    let _memory = library_memory(ctx, INFLATE)?;
    join(ctx, data, None, max_size, |data, writer| {
        drain(ZlibDecoder::new(&mut *data), writer)?;
        match data.len() {
            0 => Ok(()),
            more => Err(Error::invalid(format!(
                "{more} bytes behind the end of the stream"
            ))),
        }
    })
}

/// An LZ4 frame of `data`, with a checksum.
#[kernel(name = "hl.lz4.compress")]
fn lz4_compress<'a>(ctx: &'a Ctx, data: &[u8]) -> Result<Memory<'a, u8>, Error> {
    let _memory = library_memory(ctx, LZ4)?;
    let writer = MemoryWriter::new(ctx, data.len() / 2 + 64, 0)?;
    let info = FrameInfo::new()
        .content_size(Some(data.len() as u64))
        .content_checksum(true);
    let mut encoder = FrameEncoder::with_frame_info(info, writer);
    feed(ctx, data, &mut encoder)?;
    let finished = encoder.finish();
    finished
        .map_err(|error| codec_error(error.into()))?
        .finish()
}

/// The bytes of an LZ4 frame. Where they end, `FrameDecoder` would take the frame for complete.
struct FrameBytes<'a> {
    rest: &'a [u8],
    /// Whether the frame ends with the data: such frames have no mark at their end.
    is_legacy: bool,
}

impl Read for FrameBytes<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.rest.read(buf)?;
        if read < buf.len() && !(self.is_legacy && read == 0) {
            return Err(io::Error::other("the LZ4 frame is not complete"));
        }
        Ok(read)
    }
}

const LZ4_LEGACY: u32 = 0x184c_2102;
const SKIPPABLE: std::ops::RangeInclusive<u32> = 0x184d_2a50..=0x184d_2a5f;

/// The number at this place, in little-endian order.
fn number_at(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

/// What the decoder of an LZ4 frame allocates at most.
fn lz4_memory(frame: &[u8]) -> usize {
    let block = match frame.get(5).map_or(0, |descriptor| descriptor >> 4 & 7) {
        4 => 64 << 10,
        5 => 256 << 10,
        6 => 1 << 20,
        7 => 4 << 20,
        _ => 8 << 20,
    };
    3 * block + (64 << 10)
}

/// The size of the data in a frame, if it has it and that is likely: no compressed byte stands for more than 255.
fn lz4_size(frame: &[u8]) -> Option<usize> {
    let has_size = frame.get(4)? & 8 != 0;
    let size = u64::from_le_bytes(*frame.get(6..)?.first_chunk()?);
    let size = usize::try_from(size).ok()?;
    let is_likely = size / 256 <= frame.len();
    (has_size && is_likely).then_some(size)
}

/// The decompressed LZ4 frames of `data`.
#[kernel(name = "hl.lz4.decompress")]
fn lz4_decompress<'a>(
    ctx: &'a Ctx,
    data: &[u8],
    #[default(0)] max_size: u64,
) -> Result<Memory<'a, u8>, Error> {
    join(ctx, data, lz4_size(data), max_size, |data, writer| {
        let magic = number_at(data, 0).ok_or_else(|| Error::invalid("no LZ4 frame"))?;
        if SKIPPABLE.contains(&magic) {
            let len = number_at(data, 4).and_then(|len| usize::try_from(len).ok());
            let rest = len.and_then(|len| data.get(len.checked_add(8)?..));
            *data = rest.ok_or_else(|| Error::invalid("the LZ4 frame is not complete"))?;
            return Ok(());
        }
        let size = lz4_memory(data);
        let _memory = library_memory(ctx, size)?;
        // The decoder could not report that there is none.
        let room = Vec::<u8>::new().try_reserve_exact(size);
        room.map_err(|_| Code::Memory)?;
        let mut decoder = FrameDecoder::new(FrameBytes {
            rest: data,
            is_legacy: magic == LZ4_LEGACY,
        });
        drain(&mut decoder, writer)?;
        *data = decoder.into_inner().rest;
        Ok(())
    })
}
