//! Compression with Zstandard, on the same terms as in `compress`.

use std::cell::Cell;
use std::ptr::NonNull;

use ::zstd::zstd_safe::{self, zstd_sys};
use hybridloop_kernel::{abi, kernel, Code, Ctx, Error, Memory};

use crate::builtin::codec::{codec_error, drain, join, library_memory, MemoryWriter};
use crate::builtin::common::{entry, CHUNK};

pub(super) const TABLE: &[abi::Kernel] = &[entry::<compress>(), entry::<decompress>()];

/// A frame with up to so many bytes of data is decompressed at once, without a window beside the result.
const AT_ONCE: usize = 16 << 20;

fn zstd_error(code: usize) -> Error {
    codec_error(std::io::Error::other(zstd_safe::get_error_name(code)))
}

/// The result of a function of the library, unless it is an error.
fn checked(code: usize) -> Result<usize, Error> {
    // SAFETY: it computes with a number only.
    match unsafe { zstd_sys::ZSTD_isError(code) } {
        0 => Ok(code),
        _ => Err(zstd_error(code)),
    }
}

/// What each thread keeps of the memory of the library, for the next call.
const KEPT: usize = 2 << 20;

thread_local! {
    static COMPRESSION: Cell<Option<Compression>> = const { Cell::new(None) };
    static DECOMPRESSION: Cell<Option<zstd_safe::DCtx<'static>>> = const { Cell::new(None) };
}

/// The state of a compressor.
struct Compression(NonNull<zstd_sys::ZSTD_CCtx>);

impl Compression {
    fn new() -> Result<Self, Error> {
        if let Ok(Some(kept)) = COMPRESSION.try_with(Cell::take) {
            return Ok(kept);
        }
        // SAFETY: it has no arguments.
        let context = NonNull::new(unsafe { zstd_sys::ZSTD_createCCtx() });
        Ok(Self(context.ok_or(Code::Memory)?))
    }

    fn keep(self) {
        use zstd_sys::ZSTD_ResetDirective::ZSTD_reset_session_and_parameters as everything;
        // SAFETY: the context is valid until `self` is dropped.
        let is_ready = unsafe {
            zstd_sys::ZSTD_isError(zstd_sys::ZSTD_CCtx_reset(self.0.as_ptr(), everything)) == 0
                && zstd_sys::ZSTD_sizeof_CCtx(self.0.as_ptr()) <= KEPT
        };
        if is_ready {
            let _ = COMPRESSION.try_with(|kept| kept.set(Some(self)));
        }
    }
}

impl Drop for Compression {
    fn drop(&mut self) {
        // SAFETY: `new` has made the context, which nothing else has.
        unsafe { zstd_sys::ZSTD_freeCCtx(self.0.as_ptr()) };
    }
}

/// Compresses data where it is, which `zstd_safe` does not allow: it cannot demand that the data stays there.
struct Compressor<'d> {
    state: Compression,
    data: &'d [u8],
}

impl<'d> Compressor<'d> {
    fn new(data: &'d [u8], level: i32) -> Result<Self, Error> {
        use zstd_sys::ZSTD_cParameter::{
            ZSTD_c_checksumFlag, ZSTD_c_compressionLevel, ZSTD_c_experimentalParam9,
        };
        let state = Compression::new()?;
        let context = state.0;
        let stable_input = ZSTD_c_experimentalParam9;
        for (parameter, value) in [
            (ZSTD_c_compressionLevel, level),
            (ZSTD_c_checksumFlag, 1),
            (stable_input, 1),
        ] {
            // SAFETY: the context is valid until `state` is dropped.
            let code =
                unsafe { zstd_sys::ZSTD_CCtx_setParameter(context.as_ptr(), parameter, value) };
            checked(code)?;
        }
        // SAFETY: the context is valid until `state` is dropped.
        let code =
            unsafe { zstd_sys::ZSTD_CCtx_setPledgedSrcSize(context.as_ptr(), data.len() as u64) };
        checked(code)?;
        Ok(Self { state, data })
    }

    /// Compresses from byte `from` to `to`, with the end of the frame if that is the last. Returns how far it has come, how many
    /// bytes it has written to `out`, and whether there are more to write.
    fn step(
        &mut self,
        from: usize,
        to: usize,
        out: &mut [u8],
    ) -> Result<(usize, usize, bool), Error> {
        use zstd_sys::ZSTD_EndDirective::{ZSTD_e_continue, ZSTD_e_end};
        let end = if to == self.data.len() {
            ZSTD_e_end
        } else {
            ZSTD_e_continue
        };
        let mut input = zstd_sys::ZSTD_inBuffer {
            src: self.data.as_ptr().cast(),
            size: to.min(self.data.len()),
            pos: from,
        };
        let mut output = zstd_sys::ZSTD_outBuffer {
            dst: out.as_mut_ptr().cast(),
            size: out.len(),
            pos: 0,
        };
        // SAFETY: the context is valid until `self` is dropped, and `out` during the call. The data is borrowed as long as the
        // context is there, so it stays where it is.
        let code = unsafe {
            zstd_sys::ZSTD_compressStream2(
                self.state.0.as_ptr(),
                &raw mut output,
                &raw mut input,
                end,
            )
        };
        let more = checked(code)? > 0;
        Ok((input.pos, output.pos, more))
    }
}

/// A Zstandard frame of `data`, with a checksum; `level` from -7 (fast) to 22 (small).
#[kernel(name = "hl.zstd.compress")]
fn compress<'a>(
    ctx: &'a Ctx,
    data: &[u8],
    #[default(3)] level: i32,
) -> Result<Memory<'a, u8>, Error> {
    if !(-7..=22).contains(&level) {
        return Err(Error::invalid("level: expected -7 to 22"));
    }
    // SAFETY: both functions compute with numbers only.
    let size = unsafe {
        let params = zstd_sys::ZSTD_getCParams(level, data.len() as u64, 0);
        zstd_sys::ZSTD_estimateCStreamSize_usingCParams(params)
    };
    let _memory = library_memory(ctx, size)?;
    let mut writer = MemoryWriter::new(ctx, data.len() / 2 + 64, 0)?;
    let mut compressor = Compressor::new(data, level)?;
    let mut done = 0;
    loop {
        let to = data.len().min(done + CHUNK);
        let room = writer.room(zstd_safe::compress_bound(to - done).max(1024))?;
        let (at, written, more) = compressor.step(done, to, room)?;
        writer.advance(written);
        ctx.progress(at as u64, data.len() as u64);
        if to == data.len() && !more {
            compressor.state.keep();
            return writer.finish();
        }
        done = at;
    }
}

/// The decompressed Zstandard frames of `data`, which need at most 128 MiB for their windows.
#[kernel(name = "hl.zstd.decompress")]
fn decompress<'a>(
    ctx: &'a Ctx,
    data: &[u8],
    #[default(0)] max_size: u64,
) -> Result<Memory<'a, u8>, Error> {
    let size = size_at_once(data);
    join(
        ctx,
        data,
        size,
        max_size,
        |data, writer| match size_at_once(data) {
            Some(size) => at_once(ctx, data, size, writer),
            None => in_chunks(ctx, data, writer),
        },
    )
}

/// The size of the data in the first frame, if it is to be decompressed at once.
fn size_at_once(data: &[u8]) -> Option<usize> {
    let size = zstd_safe::get_frame_content_size(data).ok()??;
    usize::try_from(size).ok().filter(|size| *size <= AT_ONCE)
}

fn at_once(
    ctx: &Ctx,
    data: &mut &[u8],
    size: usize,
    writer: &mut MemoryWriter<'_>,
) -> Result<(), Error> {
    let len = zstd_safe::find_frame_compressed_size(data).map_err(zstd_error)?;
    let (frame, rest) = data.split_at(len);
    // SAFETY: it computes with numbers only.
    let _memory = library_memory(ctx, unsafe { zstd_sys::ZSTD_estimateDCtxSize() })?;
    let kept = DECOMPRESSION.try_with(Cell::take).ok().flatten();
    let context = kept.or_else(zstd_safe::DCtx::try_create);
    let mut context = context.ok_or(Code::Memory)?;
    let written = context
        .decompress(writer.room(size)?, frame)
        .map_err(zstd_error)?;
    let _ = DECOMPRESSION.try_with(|kept| kept.set(Some(context)));
    writer.advance(written);
    *data = rest;
    Ok(())
}

fn in_chunks(ctx: &Ctx, data: &mut &[u8], writer: &mut MemoryWriter<'_>) -> Result<(), Error> {
    // SAFETY: the pointer and the length are those of a slice, which is only read.
    let size = unsafe {
        let size = zstd_sys::ZSTD_estimateDStreamSize_fromFrame(data.as_ptr().cast(), data.len());
        // The decoder refuses a frame with such a header.
        Some(size).filter(|size| zstd_sys::ZSTD_isError(*size) == 0)
    };
    let _memory = library_memory(ctx, size.unwrap_or(0))?;
    let decoder = ::zstd::Decoder::with_buffer(data).map_err(codec_error)?;
    drain(decoder.single_frame(), writer)
}
