//! Base64.

use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use base64::Engine;
use hybridloop_kernel::{abi, kernel, Ctx, Error, Memory};

use crate::builtin::common::{entry, CHUNK};

/// Bytes of Base64 processed between two checks for cancellation: whole groups of four.
const ENCODED: usize = CHUNK;
/// The bytes that these encode.
const DECODED: usize = ENCODED / 4 * 3;

fn invalid(error: impl std::fmt::Display) -> Error {
    Error::invalid(error.to_string())
}

pub(super) const TABLE: &[abi::Kernel] = &[entry::<encode>(), entry::<decode>()];

/// Base64 of `data`, with padding: ASCII bytes. With `urlsafe`, `-` and `_` instead of `+` and `/`.
#[kernel(name = "hl.base64.encode")]
fn encode<'a>(
    ctx: &'a Ctx,
    data: &[u8],
    #[default(false)] urlsafe: bool,
) -> Result<Memory<'a, u8>, Error> {
    let engine = if urlsafe { &URL_SAFE } else { &STANDARD };
    let len =
        base64::encoded_len(data.len(), true).ok_or_else(|| Error::invalid("data: too long"))?;
    let mut memory = ctx.memory(len)?;
    for (from, to) in data.chunks(DECODED).zip(memory.chunks_mut(ENCODED)) {
        ctx.check()?;
        engine.encode_slice(from, to).map_err(invalid)?;
    }
    Ok(memory)
}

/// The bytes whose padded Base64 is `data`; anything else, spaces included, is a `ValueError`.
#[kernel(name = "hl.base64.decode")]
fn decode<'a>(
    ctx: &'a Ctx,
    data: &[u8],
    #[default(false)] urlsafe: bool,
) -> Result<Memory<'a, u8>, Error> {
    let engine = if urlsafe { &URL_SAFE } else { &STANDARD };
    let mut memory = ctx.memory(base64::decoded_len_estimate(data.len()))?;
    let mut written = 0;
    let mut chunks = data.chunks(ENCODED).peekable();
    while let Some(chunk) = chunks.next() {
        ctx.check()?;
        if chunks.peek().is_some() && chunk.contains(&b'=') {
            return Err(invalid("padding before the end"));
        }
        let rest = memory.get_mut(written..).unwrap_or_default();
        written += engine.decode_slice(chunk, rest).map_err(|error| {
            let start = written / 3 * 4;
            invalid(format!("in the bytes from {start}: {error}"))
        })?;
    }
    memory.resize(written)?;
    Ok(memory)
}
