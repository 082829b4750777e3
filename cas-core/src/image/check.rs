//! Whether an image is whole, and how large it is.

use std::collections::HashSet;

use super::resolve::manifest;
use crate::content::ContentStore;
use crate::descriptor::Descriptor;
use crate::document::Manifest;
use crate::error::{Error, ErrorKind, Result};
use crate::platform::Matcher;

/// What an image needs on a platform, and what of it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Whether the manifest was found, so that `required` is all that the image needs; parts may
    /// still be `missing`.
    pub available: bool,
    /// The configuration and the layers; the image itself when no manifest was found.
    pub required: Vec<Descriptor>,
    /// Those that are there.
    pub present: Vec<Descriptor>,
    /// Those that are not.
    pub missing: Vec<Descriptor>,
}

impl Check {
    /// Whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.available && self.missing.is_empty()
    }
}

/// Looks for everything that an image needs on a platform.
///
/// # Errors
/// Those of [`manifest`] but `NotFound`; `Corrupt` when something is there in another size.
pub async fn check(
    content: &dyn ContentStore,
    image: &Descriptor,
    matcher: &dyn Matcher,
) -> Result<Check> {
    let manifest = match manifest(content, image, matcher).await {
        Ok(resolved) => resolved.manifest,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Check {
                required: vec![image.clone()],
                missing: vec![image.clone()],
                ..Check::default()
            });
        }
        Err(error) => return Err(error),
    };
    let mut check = Check {
        available: true,
        ..Check::default()
    };
    for part in parts(manifest) {
        let side = match content.stat(&part.digest).await? {
            None => &mut check.missing,
            Some(stat) if stat.size == part.size => &mut check.present,
            Some(stat) => {
                let (expected, found) = (part.size, stat.size);
                return Err(Error::corrupt(format!(
                    "expected {expected} bytes, the store has {found}; remove the blob and \
                     import it again"
                ))
                .operation("check")
                .subject(part.digest));
            }
        };
        side.push(part.clone());
        check.required.push(part);
    }
    Ok(check)
}

/// Bytes of an image on a platform, packed: its root, the manifest, the configuration and the
/// layers, each blob once.
///
/// # Errors
/// Those of [`manifest`]; `OutOfRange` when the sum is more than a `u64` holds.
pub async fn size(
    content: &dyn ContentStore,
    image: &Descriptor,
    matcher: &dyn Matcher,
) -> Result<u64> {
    let resolved = manifest(content, image, matcher).await?;
    let mut seen = HashSet::new();
    [image.clone(), resolved.descriptor]
        .into_iter()
        .chain(parts(resolved.manifest))
        .filter(|blob| seen.insert(blob.digest))
        .try_fold(0u64, |sum, blob| sum.checked_add(blob.size))
        .ok_or_else(|| {
            Error::out_of_range("the sizes of its blobs add up to more than 2^64 bytes")
                .operation("measure image")
                .subject(image.digest)
        })
}

fn parts(manifest: Manifest) -> impl Iterator<Item = Descriptor> {
    std::iter::once(manifest.config).chain(manifest.layers)
}
