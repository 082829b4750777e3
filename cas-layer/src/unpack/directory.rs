//! Unpacks all layers into one plain directory.

use std::path::Path;
use std::sync::Arc;

use cas_core::blob::name_damaged;
use cas_core::content::Durability;
use cas_core::lease::ReadGuard;
use cas_core::progress::Progress;
use cas_core::{Digest, Manifest, Result, pool};
use cas_host::NewDirectory;

use super::cancel::Waiter;
use super::new_directory::new_directory;
use super::{LayersFrom, check_types, layers_with_diff_ids, parts};
use crate::apply::Tree;
use crate::flow::{self, Accept, LayerSource};

/// Who may enter the directory that an image is unpacked into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Entrance {
    /// The users whom the mode of the image's root directory allows to enter. If no layer states
    /// this mode, all users may enter a new directory, and an existing directory keeps its mode. If
    /// other users can reach device nodes, or programs that are set-id or have capabilities, the
    /// progress receives a warning.
    #[default]
    AsImage,
    /// Only the user that unpacks.
    Private,
}

impl Entrance {
    /// Returns the mode of a new directory before layers change it.
    fn mode(self) -> u32 {
        match self {
            Entrance::AsImage => 0o755,
            Entrance::Private => 0o700,
        }
    }
}

/// How an image is unpacked into a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryOptions {
    /// Who may enter the directory.
    pub entrance: Entrance,
    /// Whether all files belong to the user of this process: see [`Tree::into_rootless`].
    pub rootless: bool,
    /// Whether the tree is temporary. It is then not synced, so a power loss may damage it.
    pub temporary: bool,
    /// Whether the threads that unpack are [confined](cas_host::Confinement) to the directory, as
    /// they are by default.
    pub confine: bool,
}

impl Default for DirectoryOptions {
    fn default() -> Self {
        DirectoryOptions {
            entrance: Entrance::default(),
            rootless: false,
            temporary: false,
            confine: true,
        }
    }
}

impl From<Entrance> for DirectoryOptions {
    fn from(entrance: Entrance) -> Self {
        DirectoryOptions {
            entrance,
            ..Self::default()
        }
    }
}

/// Unpacks an image into `directory`, which must be absent or empty. Waits while another task or
/// process unpacks into `directory`. If a process was killed while it unpacked into `directory`,
/// first removes the files that the process has left there. The directory becomes the root file
/// system that the layers describe, with the changes that `options` requests. The files are on the
/// device when this function returns, except with [`DirectoryOptions::temporary`].
///
/// # Errors
/// `InvalidArgument` if the directory is not empty; `NotFound` if `from` does not have the
/// configuration or a layer; `Corrupt` for a damaged layer, for a layer whose tar was lost, or if
/// the manifest and the configuration do not match; `OutOfRange` if the configuration is too large
/// to be read; `Unsupported` for an artifact, or for a layer that is not a tar; `Denied` if the
/// directory must become private and belongs to another user; errors of
/// [`NewDirectory::try_begin`], of [`flow::unpack`] and of the store. After an error, or if the
/// future is dropped, what was unpacked is removed.
pub async fn to_directory<'a>(
    from: impl Into<LayersFrom<'a>>,
    manifest: &Manifest,
    directory: &Path,
    options: impl Into<DirectoryOptions>,
    progress: &Arc<dyn Progress>,
) -> Result<()> {
    let options = options.into();
    let from = from.into();
    let guard = ReadGuard::begin(from.store, "unpack").await?;
    let unpacked = match guard.pin_all(&parts(manifest)).await {
        Ok(()) => unpack(from, manifest, directory, options, progress).await,
        Err(error) => Err(error),
    };
    let unpacked = name_damaged(from.store, &manifest.layers, unpacked).await;
    let failed = unpacked.as_ref().err();
    from.distrust_after(failed, manifest).await;
    guard.finish_with(unpacked).await.map(NewDirectory::keep)
}

async fn unpack(
    from: LayersFrom<'_>,
    manifest: &Manifest,
    directory: &Path,
    options: DirectoryOptions,
    progress: &Arc<dyn Progress>,
) -> Result<NewDirectory> {
    let layers = layers_with_diff_ids(from.store, manifest).await?;
    check_types(&layers, Accept::Tars)?;
    let waiter = Waiter::new();
    let sources = from.open(&layers, &waiter).await?;
    let checkpoints: Vec<_> = (sources.iter().map(|layer| layer.checkpoints.clone())).collect();
    let (path, reporter) = (directory.to_owned(), Arc::clone(progress));
    let filled = async {
        let new = new_directory(directory, options.entrance.mode(), progress.as_ref()).await?;
        pool::run(move || fill(sources, &path, new, options, reporter.as_ref())).await
    };
    let filled = filled.await;
    let filled = filled.map_err(|error| error.operation("unpack").within(directory.display()))?;
    from.record(&layers, &checkpoints, progress.as_ref()).await;
    Ok(filled)
}

fn fill(
    layers: Vec<LayerSource<'_>>,
    path: &Path,
    new: NewDirectory,
    options: DirectoryOptions,
    progress: &dyn Progress,
) -> Result<NewDirectory> {
    if let Err(error) = apply(layers, path, &new, options, progress) {
        if let Err(left) = new.clear() {
            let path = path.display();
            progress.warn(&format!(
                "the unpack into {path} failed, and its files could not be removed: {left}; remove \
                 these files"
            ));
        }
        return Err(error);
    }
    if options.entrance == Entrance::AsImage {
        warn_of_exposed(path, progress);
    }
    Ok(new)
}

/// Warns if other users can reach device nodes or privileged programs of the image.
fn warn_of_exposed(path: &Path, progress: &dyn Progress) {
    let exposed = match cas_host::exposed(path) {
        Ok(None) => return,
        Ok(Some(exposed)) => exposed,
        Err(error) => {
            return progress.warn(&format!(
                "cannot find out whether other users can reach device nodes or privileged \
                 programs in {}: {error}; to be safe, make the directory yours with `chown` and \
                 close it with `chmod 700`",
                path.display()
            ));
        }
    };
    let (count, first) = (exposed.count, exposed.first.display());
    progress.warn(&format!(
        "other users can reach device nodes or privileged programs, for example {first} ({count} \
         in total); make the directory yours with `chown` and close it with `chmod 700`, or unpack \
         the image with `cas unpack --private`"
    ));
}

fn apply(
    layers: Vec<LayerSource<'_>>,
    path: &Path,
    new: &NewDirectory,
    options: DirectoryOptions,
    progress: &dyn Progress,
) -> Result<()> {
    let item = path.display().to_string();
    let digests: Vec<Digest> = layers.iter().map(|layer| layer.descriptor.digest).collect();
    let total = layers.iter().map(|layer| layer.descriptor.size).sum();
    progress.begin(&item, Some(total));
    let mut tree = Tree::open(path)?;
    if options.entrance == Entrance::Private {
        new.close()?;
        tree = tree.into_private();
    }
    if options.rootless {
        tree = tree.into_rootless();
    }
    let advance = |bytes| progress.advance(&item, bytes);
    let durability = match options.temporary {
        true => Durability::Relaxed,
        false => Durability::Full,
    };
    let applied = flow::unpack(layers, &tree, options.confine, durability, &advance)?;
    for (layer, applied) in digests.iter().zip(applied) {
        for warning in applied.warnings {
            progress.warn(&format!("{layer}: {warning}"));
        }
    }
    progress.end(&item);
    Ok(())
}
