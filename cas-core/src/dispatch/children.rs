//! The children of a manifest or an index.

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;

use super::{Handler, Next};
use crate::content::{ContentExt, ContentStore};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::document::Document;
use crate::error::{Error, Result};

/// Returns all bytes of a blob. Takes them from the data that is embedded in `descriptor`, or from
/// the store if no data is embedded. A blob that is read from the store may have at most
/// [`limit::DOCUMENT_READ`](crate::limit::DOCUMENT_READ) bytes. Checks the bytes against the size
/// and the digest of the descriptor.
///
/// # Errors
/// Errors of [`ContentExt::fetch`]; `Corrupt` if the embedded data is not base64, or does not match
/// the descriptor.
pub async fn read(content: &dyn ContentStore, descriptor: &Descriptor) -> Result<Bytes> {
    match &descriptor.data {
        None => content.fetch(descriptor).await,
        Some(text) => embedded(text, descriptor).map_err(|error| {
            error
                .operation("read embedded data")
                .subject(descriptor.digest)
        }),
    }
}

/// Decodes `text`, the base64 data that is embedded in a descriptor. Checks the decoded bytes
/// against the size and the digest of the descriptor, and returns them.
///
/// # Errors
/// `Corrupt` if `text` is not base64, or does not match the descriptor.
pub fn embedded(text: &str, descriptor: &Descriptor) -> Result<Bytes> {
    let data = BASE64_STANDARD.decode(text).map_err(|error| {
        Error::corrupt(format!("invalid base64: {error}; build the image again")).source(error)
    })?;
    if data.len() as u64 != descriptor.size {
        let (expected, found) = (descriptor.size, data.len());
        return Err(Error::corrupt(format!(
            "expected {expected} bytes, found {found}; build the image again"
        )));
    }
    let found = Digest::of(descriptor.digest.algorithm(), &data);
    if found != descriptor.digest {
        return Err(Error::corrupt(format!(
            "the embedded data hashes to {found}; build the image again"
        )));
    }
    Ok(data.into())
}

/// Returns the manifest or index that a descriptor refers to.
///
/// # Errors
/// Errors of [`read`] and [`Document::parse`]; `Unsupported`, before the content is read, if the
/// media type of the descriptor is neither a manifest nor an index.
pub async fn document(content: &dyn ContentStore, descriptor: &Descriptor) -> Result<Document> {
    let media_type = &descriptor.media_type;
    if !media_type.is_document() {
        return Err(Error::unsupported(format!(
            "expected a manifest or an index, found {media_type:.200}; give the digest of a \
             manifest or an index"
        ))
        .operation("read document")
        .subject(descriptor.digest));
    }
    parse(descriptor, &read(content, descriptor).await?)
}

/// Parses `data`, the content of `descriptor`, as a manifest or an index.
pub(crate) fn parse(descriptor: &Descriptor, data: &[u8]) -> Result<Document> {
    Document::parse(&descriptor.media_type, data)
        .map_err(|error| error.operation("parse document").subject(descriptor.digest))
}

/// Returns the children of a descriptor: the configuration and the layers of a manifest in order,
/// the manifests of an index, or none for any other type.
///
/// # Errors
/// Errors of [`read`] and [`Document::parse`] for a manifest or an index.
pub async fn children(
    content: &dyn ContentStore,
    descriptor: &Descriptor,
) -> Result<Vec<Descriptor>> {
    let media_type = &descriptor.media_type;
    if media_type.is_document() {
        let document = document(content, descriptor).await?;
        return Ok(document.children().cloned().collect());
    }
    if !media_type.is_layer() && !media_type.is_known_config() {
        tracing::debug!(
            %media_type, digest = %descriptor.digest,
            "content of an unknown type counts as content without children"
        );
    }
    Ok(Vec::new())
}

/// Returns a handler that returns the [`children`] of each descriptor.
pub fn children_handler(content: &dyn ContentStore) -> impl Handler + '_ {
    Children(content)
}

struct Children<'a>(&'a dyn ContentStore);

#[async_trait]
impl Handler for Children<'_> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        children(self.0, descriptor).await.map(Next::Children)
    }
}
