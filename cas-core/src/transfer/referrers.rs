//! Lists the referrers of a manifest in a remote repository or a store.

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};

use crate::blob;
use crate::descriptor::Descriptor;
use crate::error::Result;
use crate::store::Store;

/// The referrers of a manifest, page by page. No page follows an error.
pub type ReferrerPages = BoxStream<'static, Result<Vec<Descriptor>>>;

/// Lists the referrers of a manifest or an index: the documents that name it as their subject, such
/// as signatures and SBOMs (lists of the software in an image).
#[async_trait]
pub trait Referrers: Send + Sync {
    /// Returns the descriptors that the repository or store lists as referrers of `subject`. Each
    /// descriptor includes the annotations and the artifact type that are listed for its referrer.
    /// If `artifact_type` is given, only referrers of this type are listed. Bounds of
    /// [`limit`](crate::limit) apply to the number and the sizes of the pages. A caller that reads
    /// a referrer must check that the referrer names `subject` as its subject.
    ///
    /// # Errors
    /// `Denied` if the repository refuses the request; `Unavailable` if it does not answer;
    /// `OutOfRange` for a list that exceeds a bound of [`limit`](crate::limit); `Corrupt` for a
    /// list or a record that does not parse; errors of the client or the store. The stream of pages
    /// can contain the same errors. For a subject that does not exist, the list is empty, and no
    /// error is returned.
    async fn referrers(
        &self,
        subject: &Descriptor,
        artifact_type: Option<&str>,
    ) -> Result<ReferrerPages>;
}

#[async_trait]
impl<R: Referrers + ?Sized> Referrers for &R {
    async fn referrers(
        &self,
        subject: &Descriptor,
        artifact_type: Option<&str>,
    ) -> Result<ReferrerPages> {
        (**self).referrers(subject, artifact_type).await
    }
}

/// Lists the referrers that a store has, as [`blob::referrers`] does, in one page.
#[async_trait]
impl Referrers for Store {
    async fn referrers(
        &self,
        subject: &Descriptor,
        artifact_type: Option<&str>,
    ) -> Result<ReferrerPages> {
        let mut found = blob::referrers(self, &subject.digest).await?;
        if artifact_type.is_some() {
            found.retain(|one| one.artifact_type.as_deref() == artifact_type);
        }
        Ok(stream::once(async { Ok(found) }).boxed())
    }
}
