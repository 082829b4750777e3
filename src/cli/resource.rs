//! Resources as people type them.

use std::collections::BTreeMap;

use cas::image::Reference;
use cas::labels::VERIFIED_LAYER;
use cas::records::Resource;
use cas::{Cas, Digest, DigestPrefix, Error, ErrorKind, ImageRef, Result};

use super::blob;

/// Returns the resource that `text` means: `content/DIGEST`, `images/NAME`, `ingests/KEY` or
/// `snapshots/SNAPSHOTTER/KEY`. For a blob, `DIGEST` without `content/` is enough. The first digits
/// of a digest are enough, except in the key of an ingest. The name of an image may be short, such
/// as `app` for `docker.io/library/app:latest`. If the digest, key or name is complete, the
/// resource does not have to exist.
///
/// # Errors
/// `InvalidArgument` for other text, or for text that stands for several resources; `NotFound` if
/// `text` is a shortened digest, and no blob has a digest that begins with these digits; errors of
/// the store and the snapshotter.
pub(crate) async fn find(cas: &Cas, text: &str) -> Result<Resource> {
    match text.split_once('/') {
        Some(("content", digest)) => content(cas, digest).await,
        Some(("images", name)) => match image(cas, name).await {
            // A lease may still list a name that was removed.
            Err(error) if error.kind() == ErrorKind::NotFound => text.parse(),
            found => found,
        },
        Some(("snapshots", rest)) => snapshot(cas, rest).await,
        None if is_prefix(text) => content(cas, text).await,
        _ => text.parse(),
    }
}

/// Returns the resource that `text` means, as [`find`] does. `text` may also be the name of an
/// image, without `images/`, or the digest of a layer that the root keeps only as a tar. The result
/// is then the image, or the snapshot that has the tar.
///
/// # Errors
/// As [`find`]; `NotFound` if `text` is the name of an image that does not exist.
pub(crate) async fn find_or_image(cas: &Cas, text: &str) -> Result<Resource> {
    let kind = text.split_once('/').map(|(kind, _)| kind);
    let is_kind = matches!(kind, Some("content" | "images" | "ingests" | "snapshots"));
    if is_kind {
        return find(cas, text).await;
    }
    if is_prefix(text) {
        match content(cas, text).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Ok(Resource::Content(digest)) if cas.store().content.stat(&digest).await?.is_none() => {
                return Ok(tar(cas, text).await?.unwrap_or(Resource::Content(digest)));
            }
            found => return found,
        }
        if let Some(snapshot) = tar(cas, text).await? {
            return Ok(snapshot);
        }
    }
    image(cas, text).await
}

/// Returns a snapshot that has the tar of the layer whose digest begins with `text`, if the
/// snapshotter keeps tars.
///
/// # Errors
/// `InvalidArgument` if the digests of several layers begin with `text`; errors of the
/// snapshotter.
async fn tar(cas: &Cas, text: &str) -> Result<Option<Resource>> {
    let prefix: DigestPrefix = text.to_ascii_lowercase().parse()?;
    let Some(snapshotter) = cas.snapshotter().ok().filter(|one| one.keeps_tars()) else {
        return Ok(None);
    };
    let mut found = BTreeMap::new();
    for info in cas.snapshots().await? {
        let layer = info.labels.get(VERIFIED_LAYER);
        let layer = layer.and_then(|layer| layer.parse::<Digest>().ok());
        if let Some(layer) = layer.filter(|layer| prefix.matches(layer)) {
            found.entry(layer).or_insert(info.key);
        }
    }
    if found.len() > 1 {
        let why = "the digests of several layers begin with these digits; give more digits";
        return Err(Error::invalid(why).operation("find layer").subject(text));
    }
    let key = found.into_values().next();
    Ok(key.map(|key| Resource::Snapshot {
        snapshotter: snapshotter.name().to_owned(),
        key,
    }))
}

/// Returns whether `text` is the beginning of a digest. Its hexadecimal digits may be in upper or
/// lower case.
pub(crate) fn is_prefix(text: &str) -> bool {
    text.to_ascii_lowercase().parse::<DigestPrefix>().is_ok()
}

async fn content(cas: &Cas, digest: &str) -> Result<Resource> {
    if let Ok(whole) = digest.to_ascii_lowercase().parse() {
        return Ok(Resource::Content(whole));
    }
    let blob = blob::find(cas.store(), digest).await?;
    Ok(Resource::Content(blob.digest))
}

/// Returns the snapshot `SNAPSHOTTER/KEY`. A `KEY` that is a digest may be shortened to its first
/// digits if one of the handles of [`Cas::with_each_snapshotter`] has the snapshotter. For any
/// other snapshotter, `KEY` must be whole.
async fn snapshot(cas: &Cas, typed: &str) -> Result<Resource> {
    let unchanged = || format!("snapshots/{typed}").parse();
    let Some((name, key)) = typed.split_once('/') else {
        return unchanged();
    };
    let handles = cas.with_each_snapshotter().await?;
    let mut snapshotters = handles.iter().filter_map(|cas| cas.snapshotter().ok());
    let Some(snapshotter) = snapshotters.find(|one| one.name() == name) else {
        return unchanged();
    };
    match super::snapshot::resolve(&**snapshotter, key).await {
        // A lease may still list a snapshot that was removed.
        Err(error) if error.kind() == ErrorKind::NotFound => unchanged(),
        key => Ok(Resource::Snapshot {
            snapshotter: name.to_owned(),
            key: key?,
        }),
    }
}

/// Returns the image of this name or digest. If the image has no name, returns its target, a blob.
async fn image(cas: &Cas, name: &str) -> Result<Resource> {
    let image = cas.image(ImageRef::typed(name)).await?;
    let digest = image.target.digest;
    Ok(match image.name == Reference::from(digest) {
        true => Resource::Content(digest),
        false => Resource::Image(image.name.to_string()),
    })
}
