//! What lists the referrers of a manifest: a remote repository or a store.

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};

use crate::blob;
use crate::descriptor::Descriptor;
use crate::error::Result;
use crate::store::Store;

/// The referrers of a manifest, page by page. An error is the last page.
pub type ReferrerPages = BoxStream<'static, Result<Vec<Descriptor>>>;

/// Lists the referrers of a manifest or an index: the documents whose subject it is, such as
/// signatures and lists of contents.
#[async_trait]
pub trait Referrers: Send + Sync {
    /// Returns descriptors of the referrers of `subject`, as the repository lists them, with their
    /// annotations and the types of their artifacts; with a type, only the referrers of this type.
    /// The stream is bounded. A caller that reads a referrer checks that `subject` is its subject.
    ///
    /// # Errors
    /// `Denied`; `Unavailable`; `OutOfRange` for a list beyond its bounds; errors of the store. A
    /// subject that does not exist has no referrers.
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

/// What a store has of the referrers, as by [`blob::referrers`], in one page.
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
