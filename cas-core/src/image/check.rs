//! Checks whether an image is complete, and adds up its size.

use std::collections::HashSet;

use super::resolve::manifest;
use crate::content::ContentStore;
use crate::descriptor::Descriptor;
use crate::dispatch;
use crate::document::Manifest;
use crate::error::{Error, ErrorKind, REPAIR_BYTES, Result};
use crate::platform::Matcher;

/// The content that an image needs on a platform, and which parts of this content are in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Whether the manifest was found. If not, `required` and `missing` list only the image itself.
    pub available: bool,
    /// The configuration and the layers, or the image itself if no manifest was found. Each entry
    /// is also in `present` or in `missing`.
    pub required: Vec<Descriptor>,
    /// The required content that is in the store, or embedded in a descriptor.
    pub present: Vec<Descriptor>,
    /// The required content that is not in the store. If no manifest was found, this is the image
    /// itself, even if the store has it.
    pub missing: Vec<Descriptor>,
}

impl Check {
    /// Returns whether the image is complete.
    pub fn is_complete(&self) -> bool {
        self.available && self.missing.is_empty()
    }
}

/// Returns the content that an image needs on a platform, and which parts of this content are in
/// the store. If `image` is neither a manifest nor an index, its manifest counts as not found.
///
/// # Errors
/// Errors of [`manifest`] except `NotFound` and `Unsupported`; `Corrupt` if a stored blob does not
/// have the size that its descriptor states, or if embedded data does not match its descriptor.
pub async fn check(
    content: &dyn ContentStore,
    image: &Descriptor,
    matcher: &dyn Matcher,
) -> Result<Check> {
    let not_found = || Check {
        required: vec![image.clone()],
        missing: vec![image.clone()],
        ..Check::default()
    };
    if !image.media_type.is_document() {
        return Ok(not_found());
    }
    let manifest = match manifest(content, image, matcher).await {
        Ok(resolved) => resolved.manifest,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(not_found()),
        Err(error) => return Err(error),
    };
    let mut check = Check {
        available: true,
        ..Check::default()
    };
    for part in parts(manifest) {
        if part.data.is_some() {
            // Data in the descriptor needs no blob, and is small.
            dispatch::read(content, &part).await?;
            check.present.push(part.clone());
            check.required.push(part);
            continue;
        }
        let side = match content.stat(&part.digest).await? {
            None => &mut check.missing,
            Some(stat) if stat.size == part.size => &mut check.present,
            Some(stat) => {
                let (expected, found) = (part.size, stat.size);
                return Err(Error::corrupt(format!(
                    "the stored blob is damaged: expected {expected} bytes, found {found}"
                ))
                .advice(REPAIR_BYTES)
                .operation("check")
                .subject(part.digest));
            }
        };
        side.push(part.clone());
        check.required.push(part);
    }
    Ok(check)
}

/// Returns the size of an image on a platform, in bytes. This is the sum of the sizes of the
/// manifest, the configuration, the layers, and the indexes that lead to the manifest. Each blob
/// counts once. The sizes are those that the descriptors state, so a blob that is not in the store
/// counts, too.
///
/// # Errors
/// Errors of [`manifest`]; `OutOfRange` if the sum exceeds a `u64`.
pub async fn size(
    content: &dyn ContentStore,
    image: &Descriptor,
    matcher: &dyn Matcher,
) -> Result<u64> {
    let resolved = manifest(content, image, matcher).await?;
    let mut seen = HashSet::new();
    let documents = resolved.indexes.into_iter().chain([resolved.descriptor]);
    documents
        .chain(parts(resolved.manifest))
        .filter(|blob| seen.insert(blob.digest))
        .try_fold(0u64, |sum, blob| sum.checked_add(blob.size))
        .ok_or_else(|| {
            Error::out_of_range(
                "the sizes of the blobs add up to 2^64 bytes or more; build the image again",
            )
            .operation("measure image")
            .subject(image.digest)
        })
}

fn parts(manifest: Manifest) -> impl Iterator<Item = Descriptor> {
    std::iter::once(manifest.config).chain(manifest.layers)
}
