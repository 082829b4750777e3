//! Resources as people type them.

use cas::image::Reference;
use cas::records::Resource;
use cas::{Cas, DigestPrefix, ErrorKind, ImageRef, Result};

use super::blob;

/// Returns the resource that `text` means: `content/DIGEST`, `images/NAME`, `ingests/KEY` or
/// `snapshots/SNAPSHOTTER/KEY`, or a digest alone. Of a digest the first digits are enough, and a
/// name may have any spelling.
pub(crate) async fn find(cas: &Cas, text: &str) -> Result<Resource> {
    match text.split_once('/') {
        Some(("content", digest)) => content(cas, digest).await,
        Some(("images", name)) => match image(cas, name).await {
            // A lease may still list a name that was removed.
            Err(error) if error.kind() == ErrorKind::NotFound => text.parse(),
            found => found,
        },
        None if text.parse::<DigestPrefix>().is_ok() => content(cas, text).await,
        _ => text.parse(),
    }
}

/// Returns the same as [`find`]. `text` may also be the name of an image, without `images/`.
pub(crate) async fn find_or_image(cas: &Cas, text: &str) -> Result<Resource> {
    let kind = text.split_once('/').map(|(kind, _)| kind);
    let is_kind = matches!(kind, Some("content" | "images" | "ingests" | "snapshots"));
    if is_kind {
        return find(cas, text).await;
    }
    if text.parse::<DigestPrefix>().is_ok() {
        match content(cas, text).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            found => return found,
        }
    }
    image(cas, text).await
}

async fn content(cas: &Cas, digest: &str) -> Result<Resource> {
    if let Ok(whole) = digest.parse() {
        return Ok(Resource::Content(whole));
    }
    let blob = blob::find(cas.store(), digest).await?;
    Ok(Resource::Content(blob.digest))
}

/// Returns the image, or its content if it does not have a name.
async fn image(cas: &Cas, name: &str) -> Result<Resource> {
    let image = cas.image(ImageRef::typed(name)).await?;
    let digest = image.target.digest;
    Ok(match image.name == Reference::from(digest) {
        true => Resource::Content(digest),
        false => Resource::Image(image.name.to_string()),
    })
}
