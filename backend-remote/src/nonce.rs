//! Random numbers that are long enough to be unique.

use cas_core::{Error, Result};

/// Length of a nonce in hex digits.
pub(crate) const NONCE: usize = 32;

/// Returns 128 random bits as hex digits.
///
/// # Errors
/// As [`random`].
pub(crate) fn nonce() -> Result<String> {
    Ok(format!("{:016x}{:016x}", random()?, random()?))
}

/// Returns 64 random bits.
///
/// # Errors
/// `Unavailable` if the system provides none.
pub(crate) fn random() -> Result<u64> {
    getrandom::u64()
        .map_err(|error| Error::unavailable(format!("cannot get random numbers: {error}; retry")))
}
