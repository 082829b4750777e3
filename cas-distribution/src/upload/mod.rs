//! Uploads a blob as a whole or in chunks, or mounts it from another repository.

mod chunks;
mod sending;

use cas_core::transfer::Content;
use cas_core::{Descriptor, Result};
use reqwest::header::{CONTENT_LENGTH, HeaderMap, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};

use crate::client::Inner;
use crate::error;
use crate::fetch::CONTENT_DIGEST;
use crate::request::{Action, Ask};
use crate::retry::{Failure, Patience};

/// Maximum length in bytes of the first chunk that is tried, for a registry that refuses the whole
/// blob as too large and states no length for chunks.
const CHUNK: u64 = 8 << 20;
/// Minimum length of a chunk in bytes. A registry may demand longer chunks.
const SHORTEST: u64 = 64 << 10;
/// If the registry forgets this many uploads of a blob in a row, the push fails.
const FORGOTTEN: u32 = 4;
/// The header with the minimum length of a chunk.
const CHUNK_MIN_LENGTH: &str = "oci-chunk-min-length";

/// A blob that is being uploaded.
pub(crate) struct Upload<'a> {
    inner: &'a Inner,
    descriptor: &'a Descriptor,
    content: &'a Content,
    patience: Patience,
    /// The length of a chunk in bytes. `None` until the registry states a minimum length, or
    /// refuses the whole blob as too large.
    chunk: Option<u64>,
    /// The minimum length of a chunk: [`SHORTEST`], or more if the registry demands more.
    least: u64,
    /// The greatest number of bytes that an upload had when a chunk was accepted.
    best: u64,
}

/// How an attempt failed.
enum Refusal {
    /// The failure decides whether another attempt is made.
    Failed(Failure),
    /// The body was too large.
    TooLarge(Failure),
}

impl<T: Into<Failure>> From<T> for Refusal {
    fn from(failure: T) -> Self {
        Refusal::Failed(failure.into())
    }
}

impl<'a> Upload<'a> {
    pub(crate) fn new(inner: &'a Inner, descriptor: &'a Descriptor, content: &'a Content) -> Self {
        Upload {
            inner,
            descriptor,
            content,
            patience: inner.http.patience(),
            chunk: None,
            least: SHORTEST,
            best: 0,
        }
    }

    /// Uploads the blob.
    ///
    /// An attempt that fails for a temporary reason is repeated. The blob is sent in chunks if the
    /// registry refuses the whole blob as too large. It is also sent in chunks if the registry
    /// states a minimum length for chunks, and the blob is longer than it and than [`SHORTEST`].
    ///
    /// # Errors
    /// As [`Inner::expect`]; `OutOfRange` if even the shortest chunks are too large for the
    /// registry; as [`check_digest`]; errors of the content.
    pub(crate) async fn run(mut self) -> Result<()> {
        let mut mount_from = self.inner.mount_from.as_deref();
        loop {
            let failure = match self.attempt(mount_from.take()).await {
                Ok(()) => return Ok(()),
                Err(Refusal::TooLarge(failure)) => {
                    match shorter(self.chunk, self.descriptor.size, self.least) {
                        Some(shorter) => {
                            self.chunk = Some(shorter);
                            continue;
                        }
                        None => failure,
                    }
                }
                Err(Refusal::Failed(failure)) => failure,
            };
            self.patience.wait(failure).await?;
            // The last answer may have been lost after the blob was stored.
            if self.is_stored().await? {
                return Ok(());
            }
        }
    }

    async fn is_stored(&mut self) -> Result<bool> {
        self.inner.has(self.descriptor, &mut self.patience).await
    }

    async fn attempt(&mut self, mount_from: Option<&str>) -> Result<(), Refusal> {
        let Some(place) = self.begin(mount_from).await? else {
            return Ok(());
        };
        let size = self.descriptor.size;
        if let Some(chunk) = self.chunk.filter(|chunk| *chunk < size) {
            return self.send_chunks(place, chunk).await;
        }
        let place = self.finished(place);
        let response = self.send(Method::PUT, &place, 0..size).await?;
        self.check_stored(response).await
    }

    /// Begins an upload. Returns where to send the blob, or `None` if the repository has it now,
    /// because the blob was there or could be mounted.
    async fn begin(&mut self, mount_from: Option<&str>) -> Result<Option<Url>> {
        let (inner, digest) = (self.inner, self.descriptor.digest.to_string());
        let url = inner.url("blobs", "uploads/")?;
        let ask = |url| Ask::new(Method::POST, url, Action::Push).with(CONTENT_LENGTH, "0");
        let accepted = [StatusCode::ACCEPTED, StatusCode::CREATED];
        let mut response = None;
        if let Some(from) = mount_from {
            let mut url = url.clone();
            url.query_pairs_mut()
                .append_pair("mount", &digest)
                .append_pair("from", from);
            // A registry that refuses to mount may still take the bytes.
            let answer = inner.send(ask(url), &mut self.patience).await?;
            response = Some(answer).filter(|answer| accepted.contains(&answer.status()));
        }
        let response = match response {
            Some(response) => response,
            None => {
                inner
                    .expect(ask(url), &accepted, &mut self.patience)
                    .await?
            }
        };
        if response.status() == StatusCode::CREATED {
            if names(response.headers(), &digest) || self.is_stored().await? {
                return Ok(None);
            }
            let what = "answered that it has the blob, but does not have the blob";
            return Err(error::unexpected(response.url(), what));
        }
        let stated = response.headers().get(CHUNK_MIN_LENGTH);
        let stated = stated.and_then(|length| length.to_str().ok()?.parse().ok());
        if let Some(stated) = stated {
            self.least = SHORTEST.max(stated);
            self.chunk = Some(self.chunk.unwrap_or(SHORTEST).max(self.least));
        }
        inner.location(&response).map(Some)
    }

    /// Returns the URL that ends the upload at `place`.
    fn finished(&self, mut place: Url) -> Url {
        let digest = self.descriptor.digest.to_string();
        place.query_pairs_mut().append_pair("digest", &digest);
        place
    }

    /// Checks the answer to the last request of an upload.
    async fn check_stored(&self, response: Response) -> Result<(), Refusal> {
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK => {}
            _ => return Err(self.refused(response).await),
        }
        Ok(check_digest(response.headers(), self.descriptor)?)
    }

    /// Returns the refusal for the answer to a request of an upload. The answer must not be a
    /// success.
    async fn refused(&self, response: Response) -> Refusal {
        let status = response.status();
        match (status, self.inner.refused(response).await) {
            (StatusCode::PAYLOAD_TOO_LARGE, failure) => Refusal::TooLarge(failure),
            // The registry has forgotten the upload, or expects other bytes of the blob next. A new
            // upload may succeed.
            (StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE, Failure::Stays(error)) => {
                Refusal::Failed(Failure::repeated(error, FORGOTTEN))
            }
            (_, failure) => Refusal::Failed(failure),
        }
    }
}

/// Checks the digest that a registry states for the content that it has stored.
///
/// # Errors
/// `Corrupt` if it is not the digest of `descriptor`; `Unsupported` if it has another algorithm.
pub(crate) fn check_digest(headers: &HeaderMap, descriptor: &Descriptor) -> Result<()> {
    let expected = descriptor.digest.to_string();
    match headers.get(CONTENT_DIGEST) {
        Some(found) if found.as_bytes() != expected.as_bytes() => {
            Err(error::stored_other(&descriptor.digest, found))
        }
        _ => Ok(()),
    }
}

/// Returns the length in bytes of the next chunk to try, after a request with one chunk or with the
/// whole blob was too large. Returns `None` if it would be shorter than `least`.
fn shorter(chunk: Option<u64>, size: u64, least: u64) -> Option<u64> {
    let tried = chunk.map_or(size, |chunk| chunk.min(size));
    let next = match chunk {
        None => CHUNK.min(tried / 2),
        Some(_) => tried / 2,
    };
    (next >= least).then_some(next)
}

/// Returns whether the headers of an answer name the blob: by its digest, or by its URL.
fn names(headers: &HeaderMap, digest: &str) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text(CONTENT_DIGEST) {
        Some(found) => found == digest,
        None => text(LOCATION.as_str()).is_some_and(|url| url.ends_with(&format!("/{digest}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_become_shorter_until_they_are_too_short() {
        const MIB: u64 = 1 << 20;
        for (chunk, size, least, expected) in [
            (None, 100 * MIB, SHORTEST, Some(CHUNK)),
            (None, MIB, SHORTEST, Some(MIB / 2)),
            (None, SHORTEST, SHORTEST, None),
            (Some(CHUNK), 100 * MIB, SHORTEST, Some(CHUNK / 2)),
            (Some(CHUNK), MIB, SHORTEST, Some(MIB / 2)),
            (Some(SHORTEST), MIB, SHORTEST, None),
            (Some(MIB), 100 * MIB, MIB, None),
            (Some(2 * MIB), 100 * MIB, MIB, Some(MIB)),
        ] {
            let found = shorter(chunk, size, least);
            assert_eq!(found, expected, "{chunk:?} {size} {least}");
        }
    }
}
