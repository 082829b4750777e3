//! Pushes blobs and documents to a repository.

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::transfer::{Content, DocumentName, Pusher};
use cas_core::{Descriptor, Document, Error, Result};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName};
use reqwest::{Method, StatusCode};

use crate::client::{Client, Inner};
use crate::fetch::CONTENT_DIGEST;
use crate::request::{Action, Ask};
use crate::retry::Patience;
use crate::upload::{self, Upload};

/// The header with which a registry confirms that it lists a pushed referrer. Without this header,
/// the client must list the referrer.
const OCI_SUBJECT: &str = "oci-subject";

#[async_trait]
impl Pusher for Client {
    async fn exists(&self, descriptor: &Descriptor) -> Result<bool> {
        let descriptor = descriptor.clone();
        self.run(|inner| async move {
            let patience = &mut inner.http.patience();
            inner.has(&descriptor, patience).await
        })
        .await
    }

    async fn push(&self, descriptor: &Descriptor, content: Content) -> Result<()> {
        let descriptor = descriptor.clone();
        self.run(|inner| async move { Upload::new(&inner, &descriptor, &content).run().await })
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
    /// Returns whether the repository has the content. An answer that is not clear, such as that of
    /// a server that does not support HEAD, counts as no. Content that the repository has may then
    /// be sent again.
    pub(crate) async fn has(
        &self,
        descriptor: &Descriptor,
        patience: &mut Patience,
    ) -> Result<bool> {
        let url = self.content(descriptor)?;
        let ask = Ask::new(Method::HEAD, url, Action::Push).accepting(&descriptor.media_type);
        let response = self.send(ask, patience).await?;
        match response.status() {
            StatusCode::OK => Ok(describes(response.headers(), descriptor)),
            StatusCode::UNAUTHORIZED => Err(self.refused(response).await.into()),
            _ => Ok(false),
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
                "the reference has the digest {expected}, but the image has the digest {digest}; \
                 leave the digest out of the reference"
            ))
            .subject(&self.reference));
        }
        let name = self.reference.tag().filter(|_| is_root).unwrap_or(&digest);
        let url = self.url("manifests", name)?;
        let mut ask = Ask::new(Method::PUT, url, Action::Push);
        ask = ask.with(CONTENT_TYPE, descriptor.media_type.as_str());
        ask.body = data.clone();
        let accepted = [StatusCode::CREATED, StatusCode::OK, StatusCode::NO_CONTENT];
        let patience = &mut self.http.patience();
        let response = self.expect(ask, &accepted, patience).await?;
        upload::check_digest(response.headers(), descriptor)?;
        if response.headers().contains_key(OCI_SUBJECT) {
            return Ok(());
        }
        // If the document is a referrer, the registry does not list it, so this client does.
        let document = Document::parse(&descriptor.media_type, &data).ok();
        let subject = document.as_ref().and_then(Document::subject);
        match document.as_ref().zip(subject) {
            Some((document, subject)) => {
                let entry = document.listed_as_referrer(descriptor);
                self.list_referrer(&subject.digest, &entry).await
            }
            None => Ok(()),
        }
    }
}

/// Returns whether the headers agree with the size and the digest of `descriptor`. A header that is
/// absent agrees.
fn describes(headers: &HeaderMap, descriptor: &Descriptor) -> bool {
    let states = |name: HeaderName, expected: String| {
        let found = headers.get(name);
        found.is_none_or(|found| found.as_bytes() == expected.as_bytes())
    };
    states(CONTENT_LENGTH, descriptor.size.to_string())
        && states(
            HeaderName::from_static(CONTENT_DIGEST),
            descriptor.digest.to_string(),
        )
}
