//! Unpacks all layers into one plain directory.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use cas_core::content::Durability;
use cas_core::error::ErrorKind;
use cas_core::lease::LeaseGuard;
use cas_core::{Digest, Error, Manifest, Result, Store, pool};

use super::{StoredLayer, layers_with_diff_ids, pin_image, record_diff_id};
use crate::apply::Tree;
use crate::flow::{self, LayerSource};
use crate::progress::Progress;

/// Unpacks an image into `directory`, which must be absent or empty. The result is the root file
/// system as the layers describe it. It is on the device when this returns.
///
/// # Errors
/// `FailedPrecondition` if the directory is not empty; `NotFound` for a layer that is not in the
/// store; `Corrupt` for a damaged layer; errors of the file system. What was unpacked is removed.
pub async fn to_directory(
    store: &Store,
    manifest: &Manifest,
    directory: &Path,
    progress: &Arc<dyn Progress>,
) -> Result<()> {
    let guard = match LeaseGuard::begin(store, "unpack").await {
        // A store that cannot be written is not collected from here either.
        Err(error) if error.kind() == ErrorKind::Denied => None,
        outcome => Some(outcome?),
    };
    let unpacked = match &guard {
        Some(guard) => pin_image(guard, manifest).await,
        None => Ok(()),
    };
    let unpacked = match unpacked {
        Ok(()) => unpack(store, manifest, directory, progress).await,
        Err(error) => Err(error),
    };
    match guard {
        None => unpacked,
        Some(guard) => guard.finish_with(unpacked).await,
    }
}

async fn unpack(
    store: &Store,
    manifest: &Manifest,
    directory: &Path,
    progress: &Arc<dyn Progress>,
) -> Result<()> {
    let layers = layers_with_diff_ids(store, manifest).await?;
    let mut sources = Vec::with_capacity(layers.len());
    for layer in layers.clone() {
        sources.push(StoredLayer::open(store, layer).await?.source());
    }
    let (path, reporter) = (directory.to_owned(), Arc::clone(progress));
    pool::run(move || fill(sources, &path, reporter.as_ref()))
        .await
        .map_err(|error| error.operation("unpack").within(directory.display()))?;
    for (layer, diff_id) in &layers {
        record_diff_id(store, layer, diff_id, progress.as_ref()).await;
    }
    Ok(())
}

fn fill(layers: Vec<LayerSource<'_>>, path: &Path, progress: &dyn Progress) -> Result<()> {
    let made = begin(path)?;
    let outcome = apply(layers, path, progress);
    if outcome.is_err()
        && let Err(error) = clear(path, made)
    {
        let path = path.display();
        progress.warn(&format!(
            "what was unpacked into {path} could not be removed: {error}"
        ));
    }
    outcome
}

fn apply(layers: Vec<LayerSource<'_>>, path: &Path, progress: &dyn Progress) -> Result<()> {
    let item = path.display().to_string();
    let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
    let total = layers.iter().map(|layer| layer.size).sum();
    progress.begin(&item, Some(total));
    let tree = Tree::open(path)?;
    let advance = |bytes| progress.advance(&item, bytes);
    let applied = flow::unpack(layers, &tree, Durability::Full, &advance)?;
    for (layer, applied) in digests.iter().zip(applied) {
        for warning in applied.warnings {
            progress.warn(&format!("{layer}: {warning}"));
        }
    }
    progress.end(&item);
    Ok(())
}

/// Creates the directory if it is absent. Returns whether it did.
fn begin(path: &Path) -> Result<bool> {
    match fs::create_dir(path) {
        Ok(()) => {
            // The umask may have removed permissions.
            fs::set_permissions(path, Permissions::from_mode(0o755))?;
            return Ok(true);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let why = "the parent directory does not exist; create it first";
            return Err(Error::not_found(why).source(error));
        }
        Err(error) => return Err(error.into()),
    }
    match fs::read_dir(path)?.next() {
        None => Ok(false),
        Some(_) => Err(Error::precondition(
            "the directory is not empty; name one that is empty or absent, or remove what an \
             interrupted unpack has left in it",
        )),
    }
}

/// Removes what was unpacked, and the directory itself if it was created for that.
fn clear(path: &Path, made: bool) -> Result<()> {
    if made {
        return Ok(fs::remove_dir_all(path)?);
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
