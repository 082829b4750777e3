//! The trait for fetching ACIs.

use std::io::Read;

use async_trait::async_trait;
use cas_core::Result;

/// Fetches ACIs by URL, over HTTP or in any other way.
#[async_trait]
pub trait AciFetcher: Send + Sync {
    /// Fetches the ACI at `url`. If `etag` is given and the ACI still has this ETag, returns
    /// [`Fetched::NotModified`] instead. For this, an HTTP fetcher sends the ETag as
    /// `If-None-Match`, and returns `NotModified` if the server answers 304. Without `etag`,
    /// `NotModified` is not a valid answer.
    ///
    /// # Errors
    /// `Unavailable` if the server cannot be reached; `NotFound` if the server does not have the
    /// ACI.
    async fn fetch(&self, url: &str, etag: Option<&str>) -> Result<Fetched>;
}

/// The answer of a server.
pub enum Fetched {
    /// The ACI still has the ETag that was passed to the fetcher.
    NotModified {
        /// The header `Cache-Control`. Empty if there is none.
        cache_control: String,
    },
    /// The ACI.
    Aci {
        /// The bytes of the ACI. Reading them may block.
        body: Box<dyn Read + Send>,
        /// The header `ETag`. Empty if there is none.
        etag: String,
        /// The header `Cache-Control`. Empty if there is none.
        cache_control: String,
    },
}
