//! Keys of the bus.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::bus::error::{BusError, MAX_KEY_LENGTH};

/// The name of a block: 1 to 255 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<[u8]>);

impl Key {
    /// The greatest length.
    pub const MAX: usize = MAX_KEY_LENGTH;

    /// # Errors
    /// [`BusError::BadKey`] for a key that is empty or too long.
    pub fn new(bytes: &[u8]) -> Result<Self, BusError> {
        if bytes.is_empty() || bytes.len() > Self::MAX {
            return Err(BusError::BadKey(bytes.len()));
        }
        Ok(Self(bytes.into()))
    }

    /// The key, unless it is one of those that belong to jobs.
    ///
    /// # Errors
    /// [`BusError::ReservedKey`]
    pub fn check_unreserved(self) -> Result<Self, BusError> {
        if self.0.starts_with(b"job:") {
            return Err(BusError::ReservedKey);
        }
        Ok(self)
    }

    /// The key of a job's own entry: `job:<id>:<name>`.
    ///
    /// # Errors
    /// [`BusError::BadKey`] if `name` is empty or the key too long.
    pub fn of_job(job: u64, name: &[u8]) -> Result<Self, BusError> {
        let mut key = Self::job_prefix(job);
        if name.is_empty() {
            return Err(BusError::BadKey(0));
        }
        key.extend_from_slice(name);
        Self::new(&key)
    }

    fn job_prefix(job: u64) -> Vec<u8> {
        format!("job:{job}:").into_bytes()
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.0.escape_ascii())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
