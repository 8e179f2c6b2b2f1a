//! Compression. Results are bytes; damaged or incomplete data is a `ValueError`. `max_size` is the greatest size of
//! decompressed data, in bytes; 0 means that only the limits of the engine apply.

use std::io::{Read, Write};

use flate2::write::{GzEncoder, ZlibEncoder};
use flate2::Compression;
use hybridloop_kernel::{abi, kernel, Ctx, Error, Memory};

use crate::builtin::common::{codec_error, entry, MemoryWriter, CHUNK};

pub(super) const TABLE: &[abi::Kernel] = &[
    entry::<zstd_compress>(),
    entry::<zstd_decompress>(),
    entry::<gzip_compress>(),
    entry::<gzip_decompress>(),
    entry::<zlib_compress>(),
    entry::<zlib_decompress>(),
    entry::<lz4_compress>(),
    entry::<lz4_decompress>(),
];

fn feed<W: Write>(ctx: &Ctx, data: &[u8], encoder: &mut W) -> Result<(), Error> {
    let mut done = 0;
    for chunk in data.chunks(CHUNK) {
        ctx.check()?;
        encoder.write_all(chunk).map_err(codec_error)?;
        done += chunk.len();
        ctx.progress(done as u64, data.len() as u64);
    }
    Ok(())
}

fn drain<R: Read>(
    ctx: &Ctx,
    mut decoder: R,
    expected: usize,
    limit: u64,
) -> Result<Memory<'_, u8>, Error> {
    let mut writer = MemoryWriter::new(ctx, expected.max(64), limit)?;
    std::io::copy(&mut decoder, &mut writer).map_err(codec_error)?;
    writer.finish()
}

fn deflate_level(level: u32) -> Result<Compression, Error> {
    if level > 9 {
        return Err(Error::invalid("level: expected 0 to 9"));
    }
    Ok(Compression::new(level))
}

/// A Zstandard frame of `data`; `level` from -7 (fast) to 22 (small).
#[kernel(name = "hl.zstd.compress")]
fn zstd_compress<'a>(
    ctx: &'a Ctx,
    data: &[u8],
    #[default(3)] level: i32,
) -> Result<Memory<'a, u8>, Error> {
    if !(-7..=22).contains(&level) {
        return Err(Error::invalid("level: expected -7 to 22"));
    }
    let writer = MemoryWriter::new(ctx, data.len() / 2 + 64, 0)?;
    let mut encoder = zstd::Encoder::new(writer, level).map_err(codec_error)?;
    encoder
        .set_pledged_src_size(Some(data.len() as u64))
        .map_err(codec_error)?;
    encoder.include_contentsize(true).map_err(codec_error)?;
    feed(ctx, data, &mut encoder)?;
    encoder.finish().map_err(codec_error)?.finish()
}

/// The decompressed Zstandard frames of `data`.
#[kernel(name = "hl.zstd.decompress")]
fn zstd_decompress<'a>(
    ctx: &'a Ctx,
    data: &[u8],
    #[default(0)] max_size: u64,
) -> Result<Memory<'a, u8>, Error> {
    let decoder = zstd::Decoder::with_buffer(data).map_err(codec_error)?;
    drain(ctx, decoder, data.len().saturating_mul(2), max_size)
}

/// A gzip member of `data`; `level` from 0 (none) to 9 (small).
#[kernel(name = "hl.gzip.compress")]
fn gzip_compress<'a>(
    ctx: &'a Ctx,
    data: &[u8],
    #[default(6)] level: u32,
) -> Result<Memory<'a, u8>, Error> {
    let writer = MemoryWriter::new(ctx, data.len() / 2 + 64, 0)?;
    let mut encoder = GzEncoder::new(writer, deflate_level(level)?);
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
    let decoder = flate2::bufread::MultiGzDecoder::new(data);
    drain(ctx, decoder, data.len().saturating_mul(2), max_size)
}

/// A zlib stream (deflate) of `data`; `level` from 0 (none) to 9 (small).
#[kernel(name = "hl.zlib.compress")]
fn zlib_compress<'a>(
    ctx: &'a Ctx,
    data: &[u8],
    #[default(6)] level: u32,
) -> Result<Memory<'a, u8>, Error> {
    let writer = MemoryWriter::new(ctx, data.len() / 2 + 64, 0)?;
    let mut encoder = ZlibEncoder::new(writer, deflate_level(level)?);
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
    let decoder = flate2::bufread::ZlibDecoder::new(data);
    drain(ctx, decoder, data.len().saturating_mul(2), max_size)
}

/// An LZ4 frame of `data`.
#[kernel(name = "hl.lz4.compress")]
fn lz4_compress<'a>(ctx: &'a Ctx, data: &[u8]) -> Result<Memory<'a, u8>, Error> {
    let writer = MemoryWriter::new(ctx, data.len() / 2 + 64, 0)?;
    let mut encoder = lz4_flex::frame::FrameEncoder::new(writer);
    feed(ctx, data, &mut encoder)?;
    let finished = encoder.finish();
    finished
        .map_err(|error| codec_error(error.into()))?
        .finish()
}

/// The decompressed LZ4 frame `data`.
#[kernel(name = "hl.lz4.decompress")]
fn lz4_decompress<'a>(
    ctx: &'a Ctx,
    data: &[u8],
    #[default(0)] max_size: u64,
) -> Result<Memory<'a, u8>, Error> {
    if data.is_empty() {
        return Err(Error::invalid("no LZ4 frame"));
    }
    let decoder = lz4_flex::frame::FrameDecoder::new(data);
    drain(ctx, decoder, data.len().saturating_mul(2), max_size)
}
