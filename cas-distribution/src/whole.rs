//! Reads the whole of an HTTP answer into memory. An answer that exceeds the allowed
//! length is an error.

use bytes::Bytes;
use cas_core::Result;
use reqwest::header::HeaderMap;
use reqwest::{StatusCode, Url};

use crate::client::Inner;
use crate::open;
use crate::request::Ask;
use crate::retry::Patience;

/// An answer with all of its body.
pub(crate) struct Whole {
    /// The URL that has answered, after redirects.
    pub(crate) url: Url,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) data: Bytes,
}

impl Inner {
    /// Sends a request and reads the answer, of at most `allowed` bytes. Any status that is not
    /// `accepted` is an error. A body that breaks off is requested again.
    ///
    /// # Errors
    /// `OutOfRange` for a longer answer; `Unsupported` for an encoded answer; as [`Inner::expect`].
    pub(crate) async fn whole(
        &self,
        ask: Ask,
        accepted: &[StatusCode],
        allowed: u64,
        patience: &mut Patience,
    ) -> Result<Whole> {
        loop {
            let response = self.expect(ask.clone(), accepted, patience).await?;
            if response.status().is_success() {
                open::check_encoding(&response, None)?;
            }
            let (url, status) = (response.url().clone(), response.status());
            let headers = response.headers().clone();
            match self.http.body(response, allowed).await {
                Ok(data) => {
                    return Ok(Whole {
                        url,
                        status,
                        headers,
                        data,
                    });
                }
                Err(failure) => patience.wait(failure).await?,
            }
        }
    }
}
