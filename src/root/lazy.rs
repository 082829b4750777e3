//! The table of `cas.toml` about layers that are read on demand.
//!
//! ```toml
//! [lazy]
//! complete = true
//! speed = "20MiB"
//! ```

use cas_core::{Error, Result, parse_size};
use serde::{Deserialize, Serialize};

/// The table `[lazy]` of `cas.toml`: how layers that are read on demand are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LazyTable {
    /// Whether the unread bytes of layers are fetched in the background, if no read has needed the
    /// registry for a second. By default, true.
    pub complete: bool,
    /// Maximum number of bytes per second that are fetched in the background, as a size such as
    /// `20MiB`. By default, the speed is not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed: Option<String>,
}

impl Default for LazyTable {
    fn default() -> Self {
        LazyTable {
            complete: true,
            speed: None,
        }
    }
}

impl LazyTable {
    /// Returns the maximum number of bytes per second that are fetched in the background: 0 if the
    /// background fetches nothing, `u64::MAX` if the speed is not limited.
    ///
    /// # Errors
    /// `InvalidArgument` for a speed that is not a size, or is 0, unless `complete` is false.
    pub(crate) fn bytes_per_second(&self) -> Result<u64> {
        match &self.speed {
            _ if !self.complete => Ok(0),
            None => Ok(u64::MAX),
            Some(speed) => match parse_size(speed) {
                Ok(0) => Err(Error::invalid(
                    "expected at least 1 byte per second, found 0; to fetch nothing in the \
                     background, set `complete = false`",
                )),
                parsed => parsed,
            }
            .map_err(|error| error.within("speed of [lazy] in cas.toml")),
        }
    }
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;

    use super::*;

    #[test]
    fn a_speed_is_a_size_and_complete_turns_all_off() {
        let parsed = |text: &str| {
            let table: LazyTable = toml::from_str(text).unwrap();
            table.bytes_per_second()
        };
        assert_eq!(parsed("").unwrap(), u64::MAX);
        assert_eq!(parsed("speed = \"20MiB\"").unwrap(), 20 << 20);
        assert_eq!(parsed("complete = false\nspeed = \"1\"").unwrap(), 0);
        for wrong in ["speed = \"0\"", "speed = \"fast\""] {
            let error = parsed(wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
            let said = error.to_string();
            assert!(said.contains("speed of [lazy] in cas.toml"), "{said}");
        }
    }
}
