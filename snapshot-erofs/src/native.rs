//! Native layers: layers that are EROFS images themselves. Each is mounted on its own, and an
//! overlay stacks the mounts.
//!
//! The kernel trusts the metadata of an EROFS image, but the metadata of a native layer was not
//! written by `cas`, and may be hostile. Native layers are therefore mounted only if the
//! snapshotter was opened with the option `native`, and only after a check of their superblocks.

use std::path::{Path, PathBuf};

use cas_core::snapshot::{Backing, LAYER_IMAGE, Mount};
use cas_core::{Context, Error, Result};
use cas_host::SnapshotDirs;
use cas_host::erofs::{self, ImageFiles};

use crate::image::{self, Image};
use crate::ready;

/// The images that are mounted to show a chain of layers.
pub(crate) enum Shown {
    /// One image over the tars of all layers.
    Merged(Image),
    /// The layers, topmost first. There is at least one.
    Native(Vec<NativeLayer>),
}

/// A layer that is an image itself.
pub(crate) struct NativeLayer {
    file: PathBuf,
    /// Where the layer is mounted for all snapshots on it.
    shared: PathBuf,
}

impl Shown {
    /// Returns the images of the layers with these numbers, topmost first. If the layers are tars,
    /// makes the merged image if there is none. `native` allows native layers. `ready` are the
    /// directories of ready layers.
    ///
    /// # Errors
    /// As [`Image::made`]; `Unsupported` if there are native layers and `native` is false, if only
    /// some layers are native, or if a native layer needs other files or has unknown features;
    /// `Corrupt` if a native layer is damaged or is not an EROFS image.
    pub(crate) fn made(
        dirs: &SnapshotDirs,
        chain: &[u64],
        native: bool,
        ready: &[PathBuf],
    ) -> Result<Self> {
        match are_native(dirs, chain)? {
            true => layers(dirs, chain, native).map(Shown::Native),
            false => Image::made(dirs, chain, ready).map(Shown::Merged),
        }
    }

    /// Returns the images of the layers with these numbers, topmost first. Does not make the merged
    /// image.
    ///
    /// # Errors
    /// As [`Image::existing`], and as [`Self::made`] for native layers.
    pub(crate) fn existing(dirs: &SnapshotDirs, chain: &[u64], native: bool) -> Result<Self> {
        match are_native(dirs, chain)? {
            true => layers(dirs, chain, native).map(Shown::Native),
            false => Image::existing(dirs, chain).map(Shown::Merged),
        }
    }

    /// Returns the mounts of the images and the directories at which these mounts are shared, both
    /// topmost first.
    pub(crate) fn into_mounts(
        self,
        dirs: &SnapshotDirs,
        backing: Backing,
    ) -> (Vec<Mount>, Vec<PathBuf>) {
        match self {
            Shown::Merged(image) => {
                let shared = image.shared(dirs);
                (vec![image.into_mount(dirs, backing)], vec![shared])
            }
            Shown::Native(layers) => {
                let shared = layers.iter().map(|layer| layer.shared.clone()).collect();
                let mount = |layer: NativeLayer| Mount::Erofs {
                    image: layer.file,
                    devices: Vec::new(),
                    shared: layer.shared,
                    backing,
                };
                (layers.into_iter().map(mount).collect(), shared)
            }
        }
    }
}

impl NativeLayer {
    pub(crate) fn files(&self, backing: Backing) -> ImageFiles<'_> {
        ImageFiles {
            metadata: &self.file,
            devices: &[],
            backing,
        }
    }
}

/// Returns whether the layer with this number is native.
pub(crate) fn is_native(dirs: &SnapshotDirs, id: u64) -> bool {
    ready::name(dirs, id) == Some(LAYER_IMAGE)
}

/// Returns the error for native layers in a snapshotter that was opened without `native`.
pub(crate) fn not_allowed() -> Error {
    Error::unsupported(
        "the layers are EROFS images, and this root does not mount them, because the kernel trusts \
         their metadata; if you trust their source, open the root with the snapshotter \
         `erofs://?native=true`, otherwise use the variant of the image whose layers are tars",
    )
}

/// Returns whether all these layers are native.
///
/// # Errors
/// `Unsupported` if only some are native, because no specification says how to stack native layers
/// and tars; as [`image::check_layer`].
fn are_native(dirs: &SnapshotDirs, chain: &[u64]) -> Result<bool> {
    let found = chain.iter().filter(|id| is_native(dirs, **id)).count();
    if found != 0 && found != chain.len() {
        // A native layer whose image file is missing looks like a tar. Report the missing file.
        for id in chain {
            image::check_layer(dirs, *id)?;
        }
        return Err(Error::unsupported(
            "some layers of the image are tars and some are EROFS images; build the image with \
             layers of one type",
        ));
    }
    Ok(found != 0)
}

/// Checks native layers. Returns them in the order of `chain`.
fn layers(dirs: &SnapshotDirs, chain: &[u64], native: bool) -> Result<Vec<NativeLayer>> {
    if !native {
        return Err(not_allowed());
    }
    let layer = |id: &u64| {
        image::check_layer(dirs, *id)?;
        let file = ready::layer_file(dirs, *id, LAYER_IMAGE);
        check(&file).during("check layer", file.display())?;
        Ok(NativeLayer {
            // Numbers are never reused. All names have the same length, so that no name is the
            // beginning of another.
            shared: image::mounts(dirs).join(format!("layer-{id:020}")),
            file,
        })
    };
    chain.iter().map(layer).collect()
}

fn check(file: &Path) -> Result<()> {
    cas_erofs::check_image(&erofs::open_file(file)?)
}
