//! Remotes: the URLs that ACIs are fetched from.

use std::time::{Duration, SystemTime};

use cas_core::error::url_excerpt;
use cas_core::{Error, Result, limit};
use serde::{Deserialize, Serialize};

use crate::key::Key;

/// The URL of an ACI, and what is known from fetching it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Remote {
    /// The URL of the ACI, unique in the catalogue.
    pub aci_url: String,
    /// The URL of the signature of the ACI. Empty if there is none.
    pub sig_url: String,
    /// The ETag that the server sent. Empty if it sent none.
    pub etag: String,
    /// The key of the ACI that was fetched last. `None` if no ACI was fetched, or if the remote was
    /// imported from rkt without its ACI. The ACI may have been removed since.
    pub key: Option<Key>,
    /// How long the ACI counts as fresh after [`download_time`](Self::download_time).
    pub cache_max_age: Duration,
    /// When the server was last asked for the ACI.
    #[serde(with = "cas_core::time")]
    pub download_time: SystemTime,
}

impl Remote {
    /// Returns a remote from which nothing was fetched yet.
    pub fn new(aci_url: impl Into<String>, sig_url: impl Into<String>) -> Self {
        Remote {
            aci_url: aci_url.into(),
            sig_url: sig_url.into(),
            etag: String::new(),
            key: None,
            cache_max_age: Duration::ZERO,
            download_time: SystemTime::UNIX_EPOCH,
        }
    }

    /// Returns whether the ACI is fresh at `now`, so that the server need not be asked. Returns
    /// false if `now` is before [`download_time`](Self::download_time), for example because the
    /// clock was set back.
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        let age = now.duration_since(self.download_time);
        age.is_ok_and(|age| age < self.cache_max_age)
    }

    /// Checks that both URLs and the ETag have at most [`limit::URL`] bytes and no control
    /// characters, and that the URL of the ACI is not empty.
    ///
    /// # Errors
    /// `InvalidArgument` otherwise.
    pub(crate) fn check(&self) -> Result<()> {
        for (what, text) in [
            ("a URL", &self.aci_url),
            ("a signature URL", &self.sig_url),
            ("an ETag", &self.etag),
        ] {
            if text.len() > limit::URL || text.chars().any(char::is_control) {
                let allowed = limit::URL;
                return Err(Error::invalid(format!(
                    "expected {what} with at most {allowed} bytes and no control characters"
                ))
                .subject(url_excerpt(&self.aci_url)));
            }
        }
        if self.aci_url.is_empty() {
            return Err(Error::invalid(
                "expected the URL of an ACI, found an empty text; give a URL",
            ));
        }
        Ok(())
    }
}

/// Returns how long an answer with the header `Cache-Control: {cache_control}` counts as fresh: the
/// value of `max-age`. Returns zero if `max-age` is absent, not valid or more than [`u32::MAX`]
/// seconds, or if the header contains `no-cache` or `no-store`.
pub fn max_age(cache_control: &str) -> Duration {
    let mut age = Duration::ZERO;
    for part in cache_control.split(',') {
        let part = part.trim().to_ascii_lowercase();
        if part == "no-cache" || part == "no-store" {
            return Duration::ZERO;
        }
        if let Some(seconds) = part.strip_prefix("max-age=") {
            age = Duration::from_secs(
                seconds
                    .trim_matches('"')
                    .parse::<u32>()
                    .map_or(0, u64::from),
            );
        }
    }
    age
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_is_fresh_until_its_age_is_reached() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut remote = Remote::new("https://host/a.aci", "");
        assert!(!remote.is_fresh(SystemTime::now()));
        remote.download_time = at(100);
        remote.cache_max_age = Duration::from_secs(10);
        let fresh: Vec<bool> = [99, 100, 109, 110]
            .map(|now| remote.is_fresh(at(now)))
            .into();
        assert_eq!(fresh, [false, true, true, false]);
    }

    #[test]
    fn the_age_is_that_of_the_header() {
        for (header, seconds) in [
            ("", 0),
            ("max-age=10", 10),
            ("public, Max-Age=\"10\"", 10),
            ("max-age=10, no-cache", 0),
            ("no-store,max-age=10", 0),
            ("max-age=-1", 0),
            ("max-age=99999999999999", 0),
        ] {
            assert_eq!(max_age(header), Duration::from_secs(seconds), "{header}");
        }
    }
}
