//! Resolves a name to a descriptor, and fetches content.

use async_trait::async_trait;
use cas_core::transfer::{Fetcher, Pieces};
use cas_core::{Algorithm, Descriptor, Digest, Error, MediaType, Result, limit};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use crate::client::{Client, Inner};
use crate::request::{Action, Ask};
use crate::{body, http};

/// The media types of documents that can be read.
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

    async fn fetch(&self, descriptor: &Descriptor, start: u64) -> Result<Pieces> {
        let descriptor = descriptor.clone();
        self.run(move |inner| async move {
            let (response, skip) = inner.open(&descriptor, start).await?;
            body::stream(response, skip)
        })
        .await
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
                "the document has {found} bytes, at most {allowed} are read"
            )));
        }
        match self.reference.digest() {
            Some(expected) if *expected != descriptor.digest => Err(Error::corrupt(format!(
                "the registry returned {}, which is not the digest asked for",
                descriptor.digest
            ))),
            _ => Ok(descriptor),
        }
    }

    /// Reads a document and returns its descriptor, if the headers did not contain all of it.
    async fn read_root(&self, url: Url) -> Result<Descriptor> {
        let asked = Ask::new(Method::GET, url, Action::Pull).with(ACCEPT, DOCUMENTS);
        let response = self.expect(asked, &[StatusCode::OK]).await?;
        let media_type = known(response.headers());
        let data = http::body(response, limit::DOCUMENT_READ).await?;
        let said = || serde_json::from_slice::<Said>(&data).ok()?.media_type;
        let media_type = media_type.or_else(said).filter(is_document);
        let media_type = media_type.ok_or_else(|| {
            Error::unsupported("expected a manifest or an index of OCI or of Docker's schema 2")
        })?;
        let algorithm = self.reference.digest().map(Digest::algorithm);
        let digest = Digest::of(algorithm.unwrap_or(Algorithm::Sha256), &data);
        Ok(Descriptor::new(media_type, digest, data.len() as u64))
    }

    /// Returns an answer with the content, and how many of its first bytes to skip to get to
    /// `start`.
    async fn open(&self, descriptor: &Descriptor, start: u64) -> Result<(Response, u64)> {
        let asked = Ask::new(Method::GET, self.content(descriptor)?, Action::Pull);
        let asked = asked.accepting(&descriptor.media_type);
        let whole = [StatusCode::OK];
        if start == 0 {
            return Ok((self.expect(asked, &whole).await?, 0));
        }
        let ranged = asked.clone().with(RANGE, &format!("bytes={start}-"));
        let accepted = [
            StatusCode::OK,
            StatusCode::PARTIAL_CONTENT,
            StatusCode::RANGE_NOT_SATISFIABLE,
        ];
        let response = self.expect(ranged, &accepted).await?;
        let range = response.headers().get(CONTENT_RANGE);
        let range = range.and_then(|range| range.to_str().ok());
        let from_start = format!("bytes {start}-");
        match response.status() {
            StatusCode::OK => Ok((response, start)),
            StatusCode::PARTIAL_CONTENT if range.is_some_and(|at| at.starts_with(&from_start)) => {
                Ok((response, 0))
            }
            // The registry answered with another range. Read the whole blob; its digest is checked.
            _ => Ok((self.expect(asked, &whole).await?, start)),
        }
    }
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
