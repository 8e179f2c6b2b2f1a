//! Hashes of passwords, and comparison in constant time. None of these stops early.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{self, PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use hybridloop_kernel::{abi, kernel, Error};
use subtle::ConstantTimeEq;

use crate::builtin::common::entry;

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

/// Argon2id of `password` with a random salt, as a PHC string: a str. `memory` in KiB, `passes` over it, `lanes`; bad
/// parameters are a `ValueError`.
#[kernel(name = "hl.argon2id.hash")]
fn argon2id_hash(
    password: &[u8],
    #[default(19456)] memory: u32,
    #[default(2)] passes: u32,
    #[default(1)] lanes: u32,
) -> Result<String, Error> {
    let params = Params::new(memory, passes, lanes, None).map_err(invalid)?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash: PasswordHash = argon2.hash_password(password).map_err(invalid)?;
    Ok(hash.to_string())
}

/// Whether `hash`, a PHC string of Argon2, is that of `password`: a bool. A hash that cannot be parsed is a `ValueError`.
#[kernel(name = "hl.argon2id.verify")]
fn argon2id_verify(password: &[u8], hash: &str) -> Result<bool, Error> {
    let hash = PasswordHash::new(hash).map_err(invalid)?;
    match Argon2::default().verify_password(password, &hash) {
        Ok(()) => Ok(true),
        Err(password_hash::Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(invalid(error)),
    }
}

/// Bcrypt of `password` with a random salt: a str. `cost` from 4 to 31, each step twice the time. A password of more than 72
/// bytes, or with a zero byte, is a `ValueError`.
#[kernel(name = "hl.bcrypt.hash")]
fn bcrypt_hash(password: &[u8], #[default(12)] cost: u32) -> Result<String, Error> {
    if password.len() > 72 || password.contains(&0) {
        return Err(Error::invalid(
            "password: more than 72 bytes, or a zero byte",
        ));
    }
    bcrypt::hash(password, cost).map_err(invalid)
}

/// Whether `hash` is a bcrypt hash of `password`: a bool. A hash that cannot be parsed is a `ValueError`.
#[kernel(name = "hl.bcrypt.verify")]
fn bcrypt_verify(password: &[u8], hash: &str) -> Result<bool, Error> {
    if password.len() > 72 || password.contains(&0) {
        return Ok(false);
    }
    bcrypt::verify(password, hash).map_err(invalid)
}

/// Whether `a` and `b` are equal, in a time that depends only on their lengths: a bool.
#[kernel(name = "hl.compare_digest")]
fn compare(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}
