//! Resolves the name and fetches content.

use std::ops::Range;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use cas_core::transfer::{Fetcher, Pieces};
use cas_core::{Algorithm, Descriptor, Digest, Error, MediaType, Result, limit};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use crate::client::{Client, Inner};
use crate::request::{Action, Ask};
use crate::{body, http};

/// The media types of documents that this client accepts.
const DOCUMENTS: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";
/// The header with the digest of a document.
pub(crate) const CONTENT_DIGEST: &str = "docker-content-digest";

#[async_trait]
impl Fetcher for Client {
    async fn resolve(&self) -> Result<Descriptor> {
        self.run(|inner| async move {
            let resolved = inner.resolve().await;
            resolved.map_err(|error| error.operation("resolve").subject(&inner.reference))
        })
        .await
    }

    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<Pieces> {
        let descriptor = descriptor.clone();
        self.run(move |inner| async move {
            let (response, kept) = inner.open(&descriptor, range).await?;
            body::stream(response, kept)
        })
        .await
    }

    fn serves_ranges(&self) -> bool {
        !self.0.ignores_ranges.load(Ordering::Relaxed)
    }
}

impl Inner {
    async fn resolve(&self) -> Result<Descriptor> {
        let digest = self.reference.digest().map(Digest::to_string);
        let name = digest.as_deref().or(self.reference.tag());
        let url = self.url("manifests", name.unwrap_or_default())?;
        let asked = Ask::new(Method::HEAD, url.clone(), Action::Pull).with(ACCEPT, DOCUMENTS);
        let response = self.expect(asked, &[StatusCode::OK]).await?;
        let headers = response.headers();
        let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let size = said(CONTENT_LENGTH.as_str()).and_then(|size| size.parse::<u64>().ok());
        let digest = said(CONTENT_DIGEST).and_then(|digest| digest.parse::<Digest>().ok());
        let descriptor = match (known(headers), size, digest) {
            (Some(media_type), Some(size), Some(digest)) => {
                Descriptor::new(media_type, digest, size)
            }
            _ => self.read_root(url).await?,
        };
        if descriptor.size > limit::DOCUMENT_READ {
            let (found, allowed) = (descriptor.size, limit::DOCUMENT_READ);
            return Err(Error::out_of_range(format!(
                "expected a manifest or an index of at most {allowed} bytes, found {found}; push \
                 the image again with fewer entries"
            )));
        }
        match self.reference.digest() {
            Some(expected) if *expected != descriptor.digest => Err(Error::corrupt(format!(
                "expected the digest {expected}, but the registry returned {}; check the registry",
                descriptor.digest
            ))),
            _ => Ok(descriptor),
        }
    }

    /// Reads a document whose headers did not contain all of its descriptor. Returns the
    /// descriptor.
    async fn read_root(&self, url: Url) -> Result<Descriptor> {
        let asked = Ask::new(Method::GET, url, Action::Pull).with(ACCEPT, DOCUMENTS);
        let response = self.expect(asked, &[StatusCode::OK]).await?;
        let media_type = known(response.headers());
        let data = http::body(response, limit::DOCUMENT_READ).await?;
        let said = || serde_json::from_slice::<Said>(&data).ok()?.media_type;
        let media_type = media_type.or_else(said).filter(is_document);
        let media_type = media_type.ok_or_else(|| {
            Error::unsupported(
                "expected a manifest or an index of OCI or of Docker's schema 2, found another \
                 document; push the image again with a newer tool",
            )
        })?;
        let algorithm = self.reference.digest().map(Digest::algorithm);
        let digest = Digest::of(algorithm.unwrap_or(Algorithm::Sha256), &data);
        Ok(Descriptor::new(media_type, digest, data.len() as u64))
    }

    /// Requests the bytes `range` of some content. Returns the response, and which bytes of its
    /// body they are.
    async fn open(
        &self,
        descriptor: &Descriptor,
        range: Range<u64>,
    ) -> Result<(Response, Range<u64>)> {
        let ask = Ask::new(Method::GET, self.content(descriptor)?, Action::Pull);
        let ask = ask.accepting(&descriptor.media_type);
        if range == (0..descriptor.size) {
            let response = self.expect(ask, &[StatusCode::OK]).await?;
            return Ok((response, 0..u64::MAX));
        }
        let (start, last) = (range.start, range.end.saturating_sub(1));
        let ranged = ask.clone().with(RANGE, &format!("bytes={start}-{last}"));
        let accepted = [
            StatusCode::OK,
            StatusCode::PARTIAL_CONTENT,
            StatusCode::RANGE_NOT_SATISFIABLE,
        ];
        let response = self.expect(ranged, &accepted).await?;
        // What follows the end of the content is not cut off, so that the caller detects the
        // damage.
        let is_cut = range.end < descriptor.size;
        let end = if is_cut { range.end } else { u64::MAX };
        if response.status() == StatusCode::PARTIAL_CONTENT && is_of(&response, start, last) {
            return Ok((response, 0..end - start));
        }
        self.ignores_ranges.store(true, Ordering::Relaxed);
        let response = match response.status() {
            StatusCode::OK => response,
            // The registry refused the range, or sent another one.
            _ => self.expect(ask, &[StatusCode::OK]).await?,
        };
        Ok((response, start..end))
    }
}

/// Returns whether a partial response holds the bytes from `start` to `last`.
fn is_of(response: &Response, start: u64, last: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE);
    let range = range.and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {start}-{last}/")))
}

/// The media type in a document itself.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    media_type: Option<MediaType>,
}

fn is_document(media_type: &MediaType) -> bool {
    media_type.is_index() || media_type.is_manifest()
}

/// Returns the media type of a document, if the headers name a known one.
fn known(headers: &HeaderMap) -> Option<MediaType> {
    let said = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let said = said.split(';').next().unwrap_or_default().trim();
    Some(MediaType::from(said)).filter(is_document)
}
