//! What an image is pulled from and pushed to: a repository that somebody else keeps.
//!
//! The engines know no protocol; whoever speaks one implements these two for one name in one
//! repository.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::descriptor::Descriptor;
use crate::error::Result;

/// Bytes on their way from or to a remote, piece by piece.
pub type Pieces = BoxStream<'static, Result<Bytes>>;

/// Hands out content of a repository.
#[async_trait]
pub trait Fetcher: Send + Sync {
    /// What the name stands for there: a manifest or an index.
    ///
    /// # Errors
    /// `NotFound`; `Denied`; `Unavailable`; `OutOfRange` for a document over
    /// [`limit::DOCUMENT_READ`](crate::limit::DOCUMENT_READ).
    async fn resolve(&self) -> Result<Descriptor>;

    /// The content of `descriptor` from the byte `start` on, which is within it.
    ///
    /// Neither length nor digest are checked; an error among the pieces ends them.
    ///
    /// # Errors
    /// `NotFound`; `Denied`; `Unavailable`.
    async fn fetch(&self, descriptor: &Descriptor, start: u64) -> Result<Pieces>;
}

/// Takes content into a repository.
#[async_trait]
pub trait Pusher: Send + Sync {
    /// Whether the repository has the content.
    ///
    /// # Errors
    /// `Denied`; `Unavailable`.
    async fn exists(&self, descriptor: &Descriptor) -> Result<bool>;

    /// Pushes a blob, of which `content` gives all bytes.
    ///
    /// # Errors
    /// `Corrupt` when the remote found other bytes than `descriptor` says; `Denied`;
    /// `Unavailable`; those of `content`.
    async fn push(&self, descriptor: &Descriptor, content: Pieces) -> Result<()>;

    /// Pushes a manifest or an index, whose children are there; under the name, where it is the
    /// root of the image, else under its digest.
    ///
    /// # Errors
    /// As [`Pusher::push`]; `InvalidArgument` when the name has the digest of another.
    async fn push_document(&self, descriptor: &Descriptor, data: Bytes, root: bool) -> Result<()>;
}
