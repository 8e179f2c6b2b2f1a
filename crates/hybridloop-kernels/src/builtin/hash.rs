//! Digests and checksums.

use hybridloop_kernel::{abi, kernel, Ctx, Error};
use sha2::Digest;

use crate::builtin::common::{entry, CHUNK};

pub(super) const TABLE: &[abi::Kernel] = &[entry::<sha256>(), entry::<blake3>(), entry::<crc32>()];

/// SHA-256 of `data`: 32 bytes.
#[kernel(name = "hl.sha256")]
fn sha256(ctx: &Ctx, data: &[u8]) -> Result<[u8; 32], Error> {
    let mut hasher = sha2::Sha256::new();
    for chunk in data.chunks(CHUNK) {
        ctx.check()?;
        hasher.update(chunk);
    }
    Ok(hasher.finalize().into())
}

/// BLAKE3 of `data`: 32 bytes.
#[kernel(name = "hl.blake3")]
fn blake3(ctx: &Ctx, data: &[u8]) -> Result<[u8; 32], Error> {
    let mut hasher = ::blake3::Hasher::new();
    for chunk in data.chunks(CHUNK) {
        ctx.check()?;
        hasher.update(chunk);
    }
    Ok(*hasher.finalize().as_bytes())
}

/// CRC-32 of `data` as `zlib.crc32()` computes it, continued from `start`: an int.
#[kernel(name = "hl.crc32")]
fn crc32(ctx: &Ctx, data: &[u8], #[default(0)] start: u32) -> Result<u32, Error> {
    let mut hasher = crc32fast::Hasher::new_with_initial(start);
    for chunk in data.chunks(CHUNK) {
        ctx.check()?;
        hasher.update(chunk);
    }
    Ok(hasher.finalize())
}
