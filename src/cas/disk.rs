//! Images as one read-only file system.

use std::path::Path;
use std::sync::Arc;

use cas_core::platform::Platforms;
use cas_core::progress::{Progress, Silent};
use cas_core::{Context, Result, pool};
use cas_erofs::{Disk, Layers};
use cas_layer::unpack;

use super::Cas;
use super::arguments::ImageRef;

/// Options of [`Cas::disk_with`].
#[derive(Clone)]
#[non_exhaustive]
pub struct DiskOptions {
    /// The platform of the image that is written. `Platforms::All` is refused.
    pub platforms: Platforms,
    /// Receives the progress. By default nothing does.
    pub progress: Arc<dyn Progress>,
}

impl Default for DiskOptions {
    fn default() -> Self {
        DiskOptions {
            platforms: Platforms::default(),
            progress: Arc::new(Silent),
        }
    }
}

impl DiskOptions {
    /// Sets [`platforms`](Self::platforms).
    #[must_use]
    pub fn with_platforms(mut self, platforms: impl Into<Platforms>) -> Self {
        self.platforms = platforms.into();
        self
    }

    /// Sets [`progress`](Self::progress).
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }
}

impl Cas {
    /// Writes the root file system of an image to `file`, as one read-only EROFS image: metadata,
    /// and then the uncompressed tar of each layer. Linux mounts it from 6.4 on, on a device with
    /// sectors of 512 bytes. The same image always gives the same bytes. This needs no privileges.
    /// Returns the size of the file.
    ///
    /// The file gets its name when it is complete, and replaces a file that has the name. Until
    /// then, its directory needs space for twice its size.
    ///
    /// # Errors
    /// `NotFound` if the store does not have the image, one of its layers, or the platform of this
    /// machine, or if the directory of `file` does not exist; `OutOfRange` if the file would have
    /// 2 TiB or more, or if the image exceeds another limit; `Corrupt` for damaged or hostile
    /// layers. On an error, an existing file is unchanged.
    pub async fn disk(&self, image: impl Into<ImageRef>, file: impl AsRef<Path>) -> Result<Disk> {
        self.disk_with(image, file, DiskOptions::default()).await
    }

    /// Writes a disk with options. Returns the same as [`Cas::disk`].
    ///
    /// # Errors
    /// As [`Cas::disk`]; `InvalidArgument` for `Platforms::All`.
    pub async fn disk_with(
        &self,
        image: impl Into<ImageRef>,
        file: impl AsRef<Path>,
        options: DiskOptions,
    ) -> Result<Disk> {
        let manifest = self.manifest_of(image, &options.platforms).await?;
        let (file, progress) = (file.as_ref(), &options.progress);
        let directory = file.parent().filter(|parent| *parent != Path::new(""));
        let layers = Layers::new(directory.unwrap_or(Path::new(".")));
        let reporter = Arc::clone(progress);
        let read = move |layers: &mut Layers, input: &mut dyn std::io::BufRead| {
            for warning in layers.add(input)? {
                reporter.warn(&warning);
            }
            Ok(())
        };
        let item = file.display().to_string();
        let layers = unpack::fold_layers(self.opened()?, &manifest, &item, progress, layers, read);
        let (tree, data) = layers.await.during("make disk", file.display())?.finish();
        let path = file.to_owned();
        let written = pool::run(move || Disk::write(&tree, &data, &path)).await;
        written.during("make disk", file.display())
    }
}
