//! Finds out what a blob is, if only its digest is known.

use super::info::find;
use super::sniff::sniff;
use crate::content::Stat;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch;
use crate::error::{Error, Result};
use crate::media_type::MediaType;
use crate::records::BlobRecord;
use crate::store::Store;

/// Returns a descriptor of a blob in the store. Its media type is the media type in the record of
/// the blob. If the blob has no record, or the record has no media type, a manifest or an index is
/// recognized by its bytes, and anything else is `application/octet-stream`.
///
/// # Errors
/// `NotFound` if the blob is not in the store; `Corrupt` if its record does not parse; errors of
/// the store.
pub async fn describe(store: &Store, digest: &Digest) -> Result<Descriptor> {
    let (stat, record) = find(store, digest).await?.ok_or_else(|| absent(digest))?;
    described(store, &stat, record.as_ref()).await
}

/// Returns a descriptor of a manifest or an index in the store.
///
/// # Errors
/// `NotFound` if the blob is not in the store; `InvalidArgument` if the blob is neither a manifest
/// nor an index; `Corrupt` if its record does not parse; errors of the store.
pub async fn document(store: &Store, digest: &Digest) -> Result<Descriptor> {
    let described = describe(store, digest).await?;
    if described.media_type.is_document() {
        return Ok(described);
    }
    Err(Error::invalid(format!(
        "expected a manifest or an index, found {:.200}; give the digest of a manifest or an index",
        described.media_type
    ))
    .subject(digest))
}

/// Returns what a blob lists, in order: the configuration and the layers of a manifest, or the
/// manifests of an index. Returns nothing for any other blob. If the record of the blob has this
/// list, the blob is not read.
///
/// # Errors
/// `NotFound` if the blob is not in the store; `Corrupt` if the blob is a damaged document, or if
/// its record does not parse; `OutOfRange` if the blob is a document that is too large to be read;
/// errors of the store.
pub async fn children(store: &Store, digest: &Digest) -> Result<Vec<Digest>> {
    let (stat, record) = find(store, digest).await?.ok_or_else(|| absent(digest))?;
    match record {
        Some(record) if !record.children.is_empty() => Ok(record.children),
        record => {
            let described = described(store, &stat, record.as_ref()).await?;
            let children = dispatch::children(&*store.content, &described).await?;
            Ok(children.iter().map(|child| child.digest).collect())
        }
    }
}

async fn described(store: &Store, stat: &Stat, record: Option<&BlobRecord>) -> Result<Descriptor> {
    let recorded = record.and_then(|record| record.media_type.clone());
    let media_type = match recorded {
        Some(media_type) => media_type,
        None => recognised(store, &stat.digest).await?,
    };
    Ok(Descriptor::new(media_type, stat.digest, stat.size))
}

async fn recognised(store: &Store, digest: &Digest) -> Result<MediaType> {
    let reader = store.content.open(digest).await?;
    let reader = reader.ok_or_else(|| absent(digest))?;
    let document = sniff(&*reader).await?;
    Ok(document.unwrap_or(MediaType::BYTES))
}

fn absent(digest: &Digest) -> Error {
    Error::not_found("not in the store; store it first").subject(digest)
}
