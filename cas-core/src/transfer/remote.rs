//! A remote repository, as pull and push use it.
//!
//! Pull and push do not depend on a protocol. A client implements [`Fetcher`] and [`Pusher`] for
//! one name in one repository.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::descriptor::Descriptor;
use crate::error::Result;

/// A stream of bytes from or to a remote, in pieces.
pub type Pieces = BoxStream<'static, Result<Bytes>>;

/// A function that receives an offset in bytes, and returns the bytes of a blob from this offset to
/// the end. A [`Pusher`] may call the function several times, because it may have to send bytes
/// again.
pub type Content = Arc<dyn Fn(u64) -> Pieces + Send + Sync>;

/// Reads content from a repository. The name of a fetcher, if the fetcher has one, is the name of
/// an image in the repository.
#[async_trait]
pub trait Fetcher: Send + Sync {
    /// Returns the descriptor of the manifest or index that the name of this fetcher refers to.
    ///
    /// # Errors
    /// `NotFound` if the repository does not have the name; `Denied` if it refuses the request;
    /// `Unavailable` if it does not answer; `OutOfRange` for a document larger than
    /// [`limit::DOCUMENT_READ`](crate::limit::DOCUMENT_READ); `Unsupported` if the fetcher has no
    /// name; errors of the client, such as `Corrupt` for an answer that does not parse.
    async fn resolve(&self) -> Result<Descriptor>;

    /// Returns the bytes `range` of the content of `descriptor`.
    ///
    /// The end is exclusive, so the whole content is `0..descriptor.size`. The range must lie
    /// within the content, and may be empty only if the content is empty. If the range ends before
    /// the content does, the stream ends with the range, even if the repository sends more bytes.
    /// Apart from that, the fetcher checks neither the length nor the digest of the bytes. No piece
    /// follows an error.
    ///
    /// # Errors
    /// `NotFound` if the repository does not have the content; `Denied` if it refuses the request;
    /// `Unavailable` if it does not answer; errors of the client. The stream can contain the same
    /// errors.
    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<Pieces>;

    /// Returns whether the remote may serve ranges. Returns `false` once the remote has answered a
    /// request for a range with the whole content.
    fn serves_ranges(&self) -> bool {
        true
    }

    /// Reports to the fetcher that the fetched bytes do not have the digest of `descriptor`.
    /// Returns `true` if the fetcher has another way to fetch the content: from another place, or
    /// as a whole if ranges of it were fetched. The next [`fetch`](Fetcher::fetch) of the content
    /// then uses this way. Returns `false` once all ways were used, so a caller may repeat the
    /// fetch for as long as the result is `true`. By default, returns `false`.
    fn distrust(&self, _: &Descriptor) -> bool {
        false
    }
}

/// The name under which a document is pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DocumentName {
    /// The name of the [`Pusher`], for the topmost document of the image.
    Root,
    /// The digest of the document.
    Digest,
}

/// Writes content to a repository. The name of a pusher is the name that the pushed image gets in
/// the repository.
#[async_trait]
pub trait Pusher: Send + Sync {
    /// Returns whether the repository reports that it has the content.
    ///
    /// # Errors
    /// `Denied` if the repository refuses the request; `Unavailable` if it does not answer.
    async fn exists(&self, descriptor: &Descriptor) -> Result<bool>;

    /// Pushes a blob. `content` returns its bytes.
    ///
    /// # Errors
    /// `Corrupt` if the repository received other bytes than `descriptor` specifies; `Denied` if it
    /// refuses the request; `Unavailable` if it does not answer; errors of `content`.
    async fn push(&self, descriptor: &Descriptor, content: Content) -> Result<()>;

    /// Pushes a manifest or an index under `name`. The caller has pushed the children of the
    /// document before.
    ///
    /// # Errors
    /// As [`Pusher::push`]; `InvalidArgument` if `name` is [`DocumentName::Root`], and the name of
    /// the pusher contains a digest other than the digest of the document.
    async fn push_document(
        &self,
        descriptor: &Descriptor,
        data: Bytes,
        name: DocumentName,
    ) -> Result<()>;
}
