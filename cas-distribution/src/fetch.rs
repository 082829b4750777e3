//! Resolves the name of an image and fetches content, both from a registry.

use std::ops::Range;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use cas_core::transfer::{Fetcher, Pieces};
use cas_core::{Algorithm, Descriptor, Digest, Error, MediaType, Result, limit};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use reqwest::{Method, StatusCode, Url};

use crate::client::{Client, Inner};
use crate::read::Reading;
use crate::request::{Action, Ask};
use crate::retry::Patience;
use crate::whole::Whole;

/// The media types of documents that this client accepts.
pub(crate) const DOCUMENTS: &str = "application/vnd.oci.image.index.v1+json, \
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
        self.run(move |inner| async move { Reading::begin(inner, descriptor, range).await })
            .await
    }

    fn serves_ranges(&self) -> bool {
        !self.0.ignores_ranges.load(Ordering::Relaxed)
    }

    /// Returns whether the content may have been wrong because the registry sent wrong ranges. If
    /// so, the next requests are for the whole content.
    fn distrust(&self, _: &Descriptor) -> bool {
        self.0.distrust_ranges()
    }
}

impl Inner {
    async fn resolve(&self) -> Result<Descriptor> {
        let digest = self.reference.digest().map(Digest::to_string);
        let name = digest.as_deref().or(self.reference.tag());
        let url = self.url("manifests", name.unwrap_or_default())?;
        let patience = &mut self.http.patience();
        let asked = Ask::new(Method::HEAD, url.clone(), Action::Pull).with(ACCEPT, DOCUMENTS);
        let response = self.send(asked, patience).await?;
        // A server that does not support HEAD may send any answer. GET is sent next, unless the
        // status is 200 and the headers contain the whole descriptor.
        let is_answered = response.status() == StatusCode::OK;
        let headers = response.headers();
        let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let size = said(CONTENT_LENGTH.as_str()).and_then(|size| size.parse::<u64>().ok());
        let digest = said(CONTENT_DIGEST).and_then(|digest| digest.parse::<Digest>().ok());
        let descriptor = match (known(headers), size, digest) {
            (Some(media_type), Some(size), Some(digest)) if is_answered => {
                Descriptor::new(media_type, digest, size)
            }
            _ => self.read_root(url, patience).await?,
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
    async fn read_root(&self, url: Url, patience: &mut Patience) -> Result<Descriptor> {
        let asked = Ask::new(Method::GET, url, Action::Pull).with(ACCEPT, DOCUMENTS);
        let ok = [StatusCode::OK];
        let whole = self.whole(asked, &ok, limit::DOCUMENT_READ, patience);
        let Whole { headers, data, .. } = whole.await?;
        let media_type = known(&headers);
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

/// Returns the media type in the headers, if it is a known type of document.
pub(crate) fn known(headers: &HeaderMap) -> Option<MediaType> {
    let said = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let said = said.split(';').next().unwrap_or_default().trim();
    Some(MediaType::from(said)).filter(is_document)
}
