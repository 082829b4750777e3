//! Capabilities of files.

use cas_core::{Error, Result};

/// The name of the extended attribute with the capabilities of a file.
pub const CAPABILITY: &[u8] = b"security.capability";

/// The bit of the version that states whether a program has its capabilities from its start.
const EFFECTIVE: u32 = 1;
const VERSION_2: u32 = 0x0200_0000;
const VERSION_3: u32 = 0x0300_0000;
/// The length in bytes of a value of version 2. In a value of version 3, the id of a user follows.
const LENGTH: usize = 20;
/// The id that no user has.
const NOBODY: [u8; 4] = [0xff; 4];

/// Checks a value of [`CAPABILITY`] as the kernel does when the superuser sets it. Also refuses an
/// empty value, which the kernel stores without a check and then cannot read.
///
/// # Errors
/// `Corrupt` for a malformed value.
pub fn check_capability(value: &[u8]) -> Result<()> {
    let version = value.first_chunk().map(|first| u32::from_le_bytes(*first));
    let rest = value.get(LENGTH..);
    let is_sound = match (version.map(|version| version & !EFFECTIVE), rest) {
        (Some(VERSION_2), Some(rest)) => rest.is_empty(),
        (Some(VERSION_3), Some(user)) => user.len() == NOBODY.len() && user != NOBODY,
        _ => false,
    };
    if is_sound {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "the value of the xattr {} is malformed: expected capabilities of version 2 or 3; build \
         the image again",
        CAPABILITY.escape_ascii()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(version: u32, length: usize) -> Vec<u8> {
        let mut value = version.to_le_bytes().to_vec();
        value.resize(length, 1);
        value
    }

    #[test]
    fn only_what_the_kernel_accepts_is_accepted() {
        for (version, length, accepted) in [
            (VERSION_2, 20, true),
            (VERSION_2 | EFFECTIVE, 20, true),
            (VERSION_3, 24, true),
            (VERSION_3 | EFFECTIVE, 24, true),
            (VERSION_2, 19, false),
            (VERSION_2, 24, false),
            (VERSION_3, 20, false),
            (VERSION_3, 25, false),
            (VERSION_2 | 2, 20, false),
            (0x0100_0000, 12, false),
            (0, 0, false),
        ] {
            let checked = check_capability(&value(version, length)).is_ok();
            assert_eq!(checked, accepted, "{version:x} {length}");
        }
        let mut nobody = value(VERSION_3, 20);
        nobody.extend(NOBODY);
        assert!(check_capability(&nobody).is_err());
        assert!(check_capability(b"").is_err());
    }
}
