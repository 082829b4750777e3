//! Finds the artifacts that refer to an image.

use futures_util::StreamExt;

use super::referrers::Referrers;
use crate::descriptor::Descriptor;
use crate::error::{Context, Error, Result};
use crate::limit;

/// Finds the referrers of a manifest or an index in a repository or a store: all of them, or one
/// that the caller chooses.
pub struct ArtifactClient<R> {
    inner: R,
    artifact_type: Option<String>,
}

impl<R: Referrers> ArtifactClient<R> {
    /// Returns a client for artifacts of any type.
    pub fn new(inner: R) -> Self {
        let artifact_type = None;
        ArtifactClient {
            inner,
            artifact_type,
        }
    }

    /// Sets the type of the artifacts to find. With `None`, artifacts of any type are found.
    #[must_use]
    pub fn with_artifact_type(mut self, artifact_type: impl Into<Option<String>>) -> Self {
        self.artifact_type = artifact_type.into();
        self
    }

    /// Returns the repository or the store. If it is also a [`Fetcher`](super::Fetcher), the caller
    /// can fetch the artifacts with it.
    pub fn inner(&self) -> &R {
        &self.inner
    }

    /// Returns all referrers of `subject` that have the artifact type of this client, in the order
    /// in which the repository or the store lists them. A referrer that is listed several times is
    /// returned once.
    ///
    /// # Errors
    /// `OutOfRange` for more than [`limit::REFERRERS`] referrers, or if the texts of their
    /// descriptors, such as annotations, have more than [`limit::DOCUMENT_READ`] bytes together;
    /// errors of [`Referrers::referrers`].
    pub async fn all_referrers(&self, subject: &Descriptor) -> Result<Vec<Descriptor>> {
        let listed = self.list(subject).await;
        listed.during("list referrers", subject.digest)
    }

    async fn list(&self, subject: &Descriptor) -> Result<Vec<Descriptor>> {
        let artifact_type = self.artifact_type.as_deref();
        let mut pages = self.inner.referrers(subject, artifact_type).await?;
        let (mut found, mut texts) = (Vec::<Descriptor>::new(), 0);
        while let Some(page) = pages.next().await.transpose()? {
            for one in page {
                if found.iter().any(|known| known.digest == one.digest) {
                    continue;
                }
                texts += one.text_size();
                if found.len() == limit::REFERRERS || texts > limit::DOCUMENT_READ {
                    return Err(Error::out_of_range(format!(
                        "the list has more than {} referrers, or more than {} bytes of \
                         annotations and other texts; ask for one type of artifact, leave the \
                         referrers out, or remove some of them",
                        limit::REFERRERS,
                        limit::DOCUMENT_READ
                    )));
                }
                found.push(one);
            }
        }
        Ok(found)
    }

    /// Returns the referrer of `subject` that `policy` chooses among
    /// [`ArtifactClient::all_referrers`]. A policy is, for example, [`select_first`].
    ///
    /// # Errors
    /// `NotFound` if `subject` has no referrers of the artifact type of this client; errors of
    /// `policy` and of [`ArtifactClient::all_referrers`].
    pub async fn select_referrer(
        &self,
        subject: &Descriptor,
        policy: impl FnOnce(&[Descriptor]) -> Result<Descriptor>,
    ) -> Result<Descriptor> {
        let found = self.all_referrers(subject).await?;
        let selected = match found.is_empty() {
            true => Err(none()),
            false => policy(&found),
        };
        selected.during("select a referrer", subject.digest)
    }
}

/// Returns the first referrer.
///
/// # Errors
/// `NotFound` if `found` is empty.
pub fn select_first(found: &[Descriptor]) -> Result<Descriptor> {
    found.first().cloned().ok_or_else(none)
}

fn none() -> Error {
    Error::not_found("there are no referrers, or none of this type; check the digest and the type")
}
