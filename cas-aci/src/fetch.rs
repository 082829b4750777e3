//! What fetches ACIs.

use std::io::Read;

use async_trait::async_trait;
use cas_core::Result;

/// Fetches ACIs by URL, over HTTP or in any other way.
#[async_trait]
pub trait AciFetcher: Send + Sync {
    /// Fetches the ACI at `url`, unless it is still the one with this ETag: a fetcher for HTTP
    /// sends `If-None-Match` and answers a 304 with [`Fetched::NotModified`].
    ///
    /// # Errors
    /// `Unavailable` if the server cannot be reached; `NotFound` if it does not have the ACI.
    async fn fetch(&self, url: &str, etag: Option<&str>) -> Result<Fetched>;
}

/// The answer of a server.
pub enum Fetched {
    /// The ACI is still the one with the ETag.
    NotModified {
        /// The header `Cache-Control`; empty if there is none.
        cache_control: String,
    },
    /// The ACI.
    Aci {
        /// Its bytes. Reading them may block.
        body: Box<dyn Read + Send>,
        /// The header `ETag`; empty if there is none.
        etag: String,
        /// The header `Cache-Control`; empty if there is none.
        cache_control: String,
    },
}
