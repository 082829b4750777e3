//! Deletes tags, manifests and blobs of a repository.

use cas_core::{Descriptor, Digest, Document, Error, Result, limit};
use reqwest::header::ACCEPT;
use reqwest::{Method, StatusCode, Url};

use crate::client::{Client, Inner};
use crate::error::REGISTRY;
use crate::fetch::{DOCUMENTS, known};
use crate::origin::shown;
use crate::request::{Action, Ask};

impl Client {
    /// Deletes the tag, the manifest or the index that the client's reference names. If the
    /// reference has a digest, the manifest or the index with that digest is deleted, with all tags
    /// that refer to it. Otherwise only the tag is deleted. A registry may lack the API for
    /// referrers. Before a referrer is deleted from such a registry, its entry is removed from the
    /// tag that lists the referrers of its subject.
    ///
    /// # Errors
    /// `NotFound` if the repository does not have this tag, manifest or index; `Unsupported` if the
    /// registry does not allow deletions; `Denied` if the registry refuses the request;
    /// `Unavailable` if the registry does not answer; `OutOfRange` if the manifest or the index has
    /// more than [`limit::DOCUMENT_READ`] bytes; `FailedPrecondition`, `OutOfRange` or `Conflict`
    /// if the tag that lists a referrer cannot be changed.
    pub async fn delete(&self) -> Result<()> {
        self.run(|inner| async move {
            let deleted = match inner.reference.digest() {
                Some(digest) => inner.delete_manifest(digest).await,
                None => {
                    let tag = inner.reference.tag().unwrap_or_default();
                    inner.delete(inner.url("manifests", tag)?).await
                }
            };
            deleted.map_err(|error| error.operation("delete").subject(&inner.reference))
        })
        .await
    }

    /// Deletes a blob of the repository. Manifests that list it are then incomplete.
    ///
    /// # Errors
    /// `NotFound` if the repository does not have the blob; `Unsupported`, `Denied` and
    /// `Unavailable` as [`Client::delete`].
    pub async fn delete_blob(&self, digest: &Digest) -> Result<()> {
        let digest = *digest;
        self.run(move |inner| async move {
            let deleted = inner.delete(inner.url("blobs", &digest.to_string())?).await;
            deleted.map_err(|error| error.operation("delete").subject(digest))
        })
        .await
    }
}

impl Inner {
    async fn delete_manifest(&self, digest: &Digest) -> Result<()> {
        let url = self.url("manifests", &digest.to_string())?;
        let Some((subject, entry)) = self.referrer_at(url.clone(), digest).await? else {
            return self.delete(url).await;
        };
        if self.referrers_by_api(&subject, None).await?.is_some() {
            return self.delete(url).await;
        }
        // After a kill between the two requests, the manifest is still there, so the whole deletion
        // can be repeated. In the other order, the tag would still list the manifest. A repetition
        // could not find the tag: it is named after the subject, which only the manifest states.
        self.unlist_referrer(&subject, digest).await?;
        let deleted = self.delete(url).await;
        if deleted.is_err() {
            self.list_referrer(&subject, &entry).await?;
        }
        deleted
    }

    /// Returns the subject of the document at `url`, and the entry of the document in a list of
    /// referrers. Returns `None` if the document is not a referrer, or cannot be parsed.
    async fn referrer_at(&self, url: Url, own: &Digest) -> Result<Option<(Digest, Descriptor)>> {
        let ask = Ask::new(Method::GET, url, Action::Delete).with(ACCEPT, DOCUMENTS);
        let (ok, patience) = ([StatusCode::OK], &mut self.http.patience());
        let whole = self.whole(ask, &ok, limit::DOCUMENT_READ, patience).await?;
        let Some(media_type) = known(&whole.headers) else {
            return Ok(None);
        };
        let Ok(document) = Document::parse(&media_type, &whole.data) else {
            return Ok(None);
        };
        let Some(subject) = document.subject() else {
            return Ok(None);
        };
        let own = Descriptor::new(media_type, *own, whole.data.len() as u64);
        Ok(Some((subject.digest, document.listed_as_referrer(&own))))
    }

    async fn delete(&self, url: Url) -> Result<()> {
        let ask = Ask::new(Method::DELETE, url, Action::Delete);
        let response = self.send(ask, &mut self.http.patience()).await?;
        match response.status() {
            StatusCode::ACCEPTED | StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            // The specification prescribes these answers for a registry that does not allow
            // deletions.
            status @ (StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED) => {
                Err(Error::unsupported(format!(
                    "{} answered {status}: the registry does not allow this deletion; if you gave \
                     a tag, give the digest instead, or ask the operator of the registry",
                    shown(response.url())
                ))
                .backend(REGISTRY))
            }
            _ => Err(self.refused(response).await.into()),
        }
    }
}
