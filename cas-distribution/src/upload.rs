//! Uploads blobs and documents to a repository.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::sync::lock;
use cas_core::transfer::{DocumentName, Pieces, Pusher};
use cas_core::{Descriptor, Error, Result};
use futures_util::StreamExt;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Method, StatusCode, Url};

use crate::body::Sent;
use crate::client::{Client, Inner};
use crate::error;
use crate::fetch::CONTENT_DIGEST;
use crate::request::{Action, Ask};

/// How much longer a registry may take to answer after the last byte of a blob, in multiples of
/// `http::IDLE`.
const EXTRA_TIMEOUTS: u32 = 10;

#[async_trait]
impl Pusher for Client {
    async fn exists(&self, descriptor: &Descriptor) -> Result<bool> {
        let descriptor = descriptor.clone();
        self.run(|inner| async move {
            let url = inner.content(&descriptor)?;
            let ask = Ask::new(Method::HEAD, url, Action::Push).accepting(&descriptor.media_type);
            let accepted = [StatusCode::OK, StatusCode::NOT_FOUND];
            let response = inner.expect(ask, &accepted).await?;
            Ok(response.status() == StatusCode::OK)
        })
        .await
    }

    async fn push(&self, descriptor: &Descriptor, content: Pieces) -> Result<()> {
        let descriptor = descriptor.clone();
        self.run(|inner| async move {
            let Some(place) = inner.begin_upload(&descriptor).await? else {
                return Ok(());
            };
            inner.upload(&descriptor, place, content).await
        })
        .await
    }

    async fn push_document(
        &self,
        descriptor: &Descriptor,
        data: Bytes,
        name: DocumentName,
    ) -> Result<()> {
        let descriptor = descriptor.clone();
        self.run(move |inner| async move { inner.put_document(&descriptor, data, name).await })
            .await
    }
}

impl Inner {
    /// Returns the URL to send the blob to, or `None` if the registry reports that it has the blob.
    async fn begin_upload(&self, descriptor: &Descriptor) -> Result<Option<Url>> {
        let url = self.url("blobs", "uploads/")?;
        let ask = Ask::new(Method::POST, url, Action::Push).with(CONTENT_LENGTH, "0");
        let accepted = [StatusCode::ACCEPTED, StatusCode::CREATED];
        let response = self.expect(ask, &accepted).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(None);
        }
        let mut place = self.location(&response)?;
        let digest = descriptor.digest.to_string();
        place.query_pairs_mut().append_pair("digest", &digest);
        Ok(Some(place))
    }

    async fn upload(&self, descriptor: &Descriptor, place: Url, content: Pieces) -> Result<()> {
        // An error of our own store must not be reported as one of the registry.
        let ours = Arc::new(Mutex::new(None));
        let kept = Arc::clone(&ours);
        let content = content.map(move |piece| {
            piece.map_err(|error| {
                *lock(&kept) = Some(error);
                Error::internal("the store failed")
            })
        });
        let sent = Sent::default();
        let mut request = self
            .http
            .request(Method::PUT, &place)?
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, descriptor.size)
            .body(sent.body(content.boxed()));
        if let Some(header) = self.shown_at(&place).await {
            request = request.header(AUTHORIZATION, header);
        }
        let size = descriptor.size;
        let answer = sent.watch(request.send(), &place, size, EXTRA_TIMEOUTS);
        let answer = answer.await?;
        if let Some(error) = lock(&ours).take() {
            return Err(error);
        }
        let response = answer.map_err(|error| error::broken(error, &place))?;
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(()),
            _ => Err(self.refused(response).await),
        }
    }

    async fn put_document(
        &self,
        descriptor: &Descriptor,
        data: Bytes,
        name: DocumentName,
    ) -> Result<()> {
        let digest = descriptor.digest.to_string();
        let is_root = name == DocumentName::Root;
        if let Some(expected) = self.reference.digest().filter(|_| is_root)
            && *expected != descriptor.digest
        {
            return Err(Error::invalid(format!(
                "expected the digest {expected} of the reference, but the image is {digest}; \
                 leave the digest out"
            ))
            .subject(&self.reference));
        }
        let name = self.reference.tag().filter(|_| is_root).unwrap_or(&digest);
        let url = self.url("manifests", name)?;
        let mut ask = Ask::new(Method::PUT, url, Action::Push);
        ask = ask.with(CONTENT_TYPE, descriptor.media_type.as_str());
        ask.body = data;
        let accepted = [StatusCode::CREATED, StatusCode::OK, StatusCode::NO_CONTENT];
        let response = self.expect(ask, &accepted).await?;
        match response.headers().get(CONTENT_DIGEST) {
            Some(found) if found.as_bytes() != digest.as_bytes() => Err(Error::corrupt(format!(
                "expected the digest {digest}, but the registry stored {:.200?}; check the \
                 registry",
                found
            ))),
            _ => Ok(()),
        }
    }
}
