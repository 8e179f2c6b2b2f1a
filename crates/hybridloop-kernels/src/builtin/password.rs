//! Hashes of passwords, and comparison in constant time. The hashes do not stop early, so what they cost is limited: by arguments,
//! because the hash that is verified may come from anywhere.

use std::str::FromStr;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use hybridloop_kernel::{abi, kernel, Code, Ctx, Error};
use subtle::ConstantTimeEq;

use crate::builtin::common::{entry, CHUNK};

pub(super) const TABLE: &[abi::Kernel] = &[
    entry::<argon2id_hash>(),
    entry::<argon2id_verify>(),
    entry::<bcrypt_hash>(),
    entry::<bcrypt_verify>(),
    entry::<compare>(),
];

fn invalid(error: impl std::fmt::Display) -> Error {
    Error::invalid(error.to_string())
}

/// Refuses a cost of more than `limit`, which the argument `max_…` is.
fn check_cost(name: &str, cost: u32, limit: u32) -> Result<(), Error> {
    if cost <= limit {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{name}: {cost} is more than max_{name}, which is {limit}"
    )))
}

/// Argon2 in memory of the host, which counts towards the limits.
fn argon2(
    ctx: &Ctx,
    argon2: &Argon2<'_>,
    password: &[u8],
    salt: &[u8],
    output: &mut [u8],
) -> Result<(), Error> {
    const WORDS: usize = Block::SIZE / size_of::<u64>();
    let count = argon2.params().block_count();
    let mut memory = ctx.memory::<u64>(count.checked_mul(WORDS).ok_or(Code::Memory)?)?;
    // SAFETY: a block is an array of `u64`, and every pattern of bits is a value of it.
    let (_, blocks, _) = unsafe { memory.align_to_mut::<Block>() };
    argon2
        .hash_password_into_with_memory(password, salt, output, blocks)
        .map_err(invalid)
}

/// Argon2id of `password` with a random salt, as a PHC string: a str. `memory` in KiB, `passes` over it, `lanes`; bad
/// parameters are a `ValueError`, and so are more than `max_memory` and `max_passes`. The memory counts towards the limits of the
/// job and of the engine. Does not stop early.
#[kernel(name = "hl.argon2id.hash")]
fn argon2id_hash(
    ctx: &Ctx,
    password: &[u8],
    #[default(19456)] memory: u32,
    #[default(2)] passes: u32,
    #[default(1)] lanes: u32,
    #[default(262144)] max_memory: u32,
    #[default(16)] max_passes: u32,
) -> Result<String, Error> {
    check_cost("memory", memory, max_memory)?;
    check_cost("passes", passes, max_passes)?;
    let params = Params::new(memory, passes, lanes, None).map_err(invalid)?;
    let (algorithm, version, salt) = (Algorithm::Argon2id, Version::V0x13, Salt::generate());
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    let hasher = Argon2::new(algorithm, version, params.clone());
    argon2(ctx, &hasher, password, &salt, &mut output)?;
    let hash = PasswordHash {
        algorithm: algorithm.ident(),
        version: Some(version.into()),
        params: ParamsString::try_from(&params).map_err(invalid)?,
        salt: Some(salt),
        hash: Some(Output::new(&output).map_err(invalid)?),
    };
    Ok(hash.to_string())
}

/// Whether `hash`, a PHC string of Argon2, is that of `password`: a bool. A hash that cannot be parsed, or that asks for more than
/// `max_memory` KiB or `max_passes` over it, is a `ValueError`. The memory counts towards the limits of the job and of the engine.
/// Does not stop early.
#[kernel(name = "hl.argon2id.verify")]
fn argon2id_verify(
    ctx: &Ctx,
    password: &[u8],
    hash: &str,
    #[default(262144)] max_memory: u32,
    #[default(16)] max_passes: u32,
) -> Result<bool, Error> {
    let hash = PasswordHash::new(hash).map_err(invalid)?;
    let algorithm = Algorithm::try_from(hash.algorithm.as_str()).map_err(invalid)?;
    let version = hash.version.map(Version::try_from).transpose();
    let version = version.map_err(invalid)?.unwrap_or_default();
    let params = Params::try_from(&hash).map_err(invalid)?;
    check_cost("memory", params.m_cost(), max_memory)?;
    check_cost("passes", params.t_cost(), max_passes)?;
    let (Some(salt), Some(expected)) = (&hash.salt, &hash.hash) else {
        return Ok(false);
    };
    let mut output = [0; Output::MAX_LENGTH];
    let output = &mut output[..expected.len()];
    let hasher = Argon2::new(algorithm, version, params);
    argon2(ctx, &hasher, password, salt, output)?;
    Ok(expected.as_bytes().ct_eq(output).into())
}

/// Bcrypt of `password` with a random salt: a str. `cost` from 4 to 31, each step twice the time; more than `max_cost` is a
/// `ValueError`. So is a password of more than 72 bytes, or with a zero byte. Does not stop early.
#[kernel(name = "hl.bcrypt.hash")]
fn bcrypt_hash(
    password: &[u8],
    #[default(12)] cost: u32,
    #[default(16)] max_cost: u32,
) -> Result<String, Error> {
    check_cost("cost", cost, max_cost)?;
    if password.len() > 72 || password.contains(&0) {
        return Err(Error::invalid(
            "password: more than 72 bytes, or a zero byte",
        ));
    }
    bcrypt::hash(password, cost).map_err(invalid)
}

/// Whether `hash` is a bcrypt hash of `password`: a bool. A hash that cannot be parsed, or whose cost is more than `max_cost`, is a
/// `ValueError`. Does not stop early.
#[kernel(name = "hl.bcrypt.verify")]
fn bcrypt_verify(password: &[u8], hash: &str, #[default(16)] max_cost: u32) -> Result<bool, Error> {
    let cost = bcrypt::HashParts::from_str(hash)
        .map_err(invalid)?
        .get_cost();
    check_cost("cost", cost, max_cost)?;
    if password.len() > 72 || password.contains(&0) {
        return Ok(false);
    }
    bcrypt::verify(password, hash).map_err(invalid)
}

/// Whether `a` and `b` are equal, in a time that depends only on their lengths: a bool.
#[kernel(name = "hl.compare_digest")]
fn compare(ctx: &Ctx, a: &[u8], b: &[u8]) -> Result<bool, Error> {
    let mut equal = a.len().ct_eq(&b.len());
    for (a, b) in a.chunks(CHUNK).zip(b.chunks(CHUNK)) {
        ctx.check()?;
        equal &= a.ct_eq(b);
    }
    Ok(equal.into())
}
