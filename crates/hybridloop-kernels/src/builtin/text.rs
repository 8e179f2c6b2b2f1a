//! Base64.

use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use base64::Engine;
use hybridloop_kernel::{abi, kernel, Ctx, Error, Memory};

use crate::builtin::common::entry;

pub(super) const TABLE: &[abi::Kernel] = &[entry::<encode>(), entry::<decode>()];

/// Base64 of `data`, with padding: ASCII bytes. With `urlsafe`, `-` and `_` instead of `+` and `/`. Does not stop early.
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
    let written = engine
        .encode_slice(data, &mut memory)
        .map_err(|error| Error::invalid(error.to_string()))?;
    memory.resize(written)?;
    Ok(memory)
}

/// The bytes whose padded Base64 is `data`; anything else, spaces included, is a `ValueError`. Does not stop early.
#[kernel(name = "hl.base64.decode")]
fn decode<'a>(
    ctx: &'a Ctx,
    data: &[u8],
    #[default(false)] urlsafe: bool,
) -> Result<Memory<'a, u8>, Error> {
    let engine = if urlsafe { &URL_SAFE } else { &STANDARD };
    let mut memory = ctx.memory(base64::decoded_len_estimate(data.len()))?;
    let written = engine
        .decode_slice(data, &mut memory)
        .map_err(|error| Error::invalid(error.to_string()))?;
    memory.resize(written)?;
    Ok(memory)
}
