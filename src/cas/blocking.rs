//! The blocking form of the facade, for programs without a runtime.

use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "registry")]
use cas_core::Descriptor;
use cas_core::gc::Removed;
use cas_core::{Digest, Image, Result};
use cas_layer::export::{ExportOptions, Target};
use cas_layer::import::{ImportOptions, Source};
use cas_layer::progress::{Progress, Silent};
use tokio::runtime::{Builder, Runtime};

/// One open root; see [`crate::Cas`]. Not for use inside a runtime, where it would block it.
pub struct Cas {
    inner: crate::Cas,
    runtime: Runtime,
}

impl Cas {
    /// Opens a root, made with the default engines where nothing is there.
    ///
    /// # Errors
    /// As [`crate::Cas::open`].
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let inner = runtime.block_on(crate::Cas::open(root))?;
        Ok(Cas { inner, runtime })
    }

    /// The async form of the same handle.
    pub fn inner(&self) -> &crate::Cas {
        &self.inner
    }

    /// Imports all of an archive or a layout under the names it has; the images.
    ///
    /// # Errors
    /// As [`crate::Cas::import`].
    pub fn import(&self, source: impl AsRef<Path>) -> Result<Vec<Image>> {
        let source = Source::Path(source.as_ref().to_owned());
        self.import_with(source, &ImportOptions::default())
    }

    /// Imports with options.
    ///
    /// # Errors
    /// As [`crate::Cas::import`].
    pub fn import_with(&self, source: Source, options: &ImportOptions) -> Result<Vec<Image>> {
        self.runtime
            .block_on(self.inner.import(source, options, &silent()))
    }

    /// Writes images into one OCI archive, with all that the store has of them.
    ///
    /// # Errors
    /// As [`crate::Cas::export`].
    pub fn export(&self, names: &[impl AsRef<str>], file: impl AsRef<Path>) -> Result<Vec<Image>> {
        let target = Target::Path(file.as_ref().to_owned());
        self.export_with(names, target, &ExportOptions::default())
    }

    /// Exports with options.
    ///
    /// # Errors
    /// As [`crate::Cas::export`].
    pub fn export_with(
        &self,
        names: &[impl AsRef<str>],
        target: Target,
        options: &ExportOptions,
    ) -> Result<Vec<Image>> {
        self.runtime
            .block_on(self.inner.export(names, target, options, &silent()))
    }

    /// Pulls an image, for this machine's platform, from the registry whose host `reference` says.
    ///
    /// # Errors
    /// As [`crate::Cas::pull`].
    #[cfg(feature = "registry")]
    pub fn pull(&self, reference: &str) -> Result<Image> {
        let (choice, options) = Default::default();
        let (reference, progress) = (reference.parse()?, silent());
        self.runtime
            .block_on(self.inner.pull(&reference, &choice, options, &progress))
    }

    /// Pushes the image `name` to `reference`; what that stands for now.
    ///
    /// # Errors
    /// As [`crate::Cas::push`].
    #[cfg(feature = "registry")]
    pub fn push(&self, name: &str, reference: &str) -> Result<Descriptor> {
        let (choice, options) = Default::default();
        let (reference, progress) = (reference.parse()?, silent());
        let pushed = self
            .inner
            .push(name, &reference, &choice, options, &progress);
        self.runtime.block_on(pushed)
    }

    /// All images in the order of their names.
    ///
    /// # Errors
    /// As [`crate::Cas::images`].
    pub fn images(&self) -> Result<Vec<Image>> {
        self.runtime.block_on(self.inner.images())
    }

    /// The image of this name.
    ///
    /// # Errors
    /// As [`crate::Cas::image`].
    pub fn image(&self, name: &str) -> Result<Image> {
        self.runtime.block_on(self.inner.image(name))
    }

    /// Gives an image a second name.
    ///
    /// # Errors
    /// As [`crate::Cas::tag`].
    pub fn tag(&self, from: &str, to: &str) -> Result<Image> {
        self.runtime.block_on(self.inner.tag(from, to))
    }

    /// Removes a name.
    ///
    /// # Errors
    /// As [`crate::Cas::remove`].
    pub fn remove(&self, name: &str) -> Result<()> {
        self.runtime.block_on(self.inner.remove(name))
    }

    /// Removes what no name, lease or label holds; with `dry_run` only tells what would go.
    ///
    /// # Errors
    /// As [`crate::Cas::collect`].
    pub fn collect(&self, dry_run: bool) -> Result<Removed> {
        self.runtime.block_on(self.inner.collect(dry_run))
    }

    /// Writes the root file system of an image, for this machine's platform.
    ///
    /// # Errors
    /// As [`crate::Cas::unpack`].
    pub fn unpack(&self, name: &str, directory: impl AsRef<Path>) -> Result<()> {
        let directory = directory.as_ref();
        self.runtime
            .block_on(self.inner.unpack(name, directory, None, &silent()))
    }

    /// Unpacks the layers of an image into committed snapshots; the name of the topmost,
    /// nothing for an image without layers.
    ///
    /// # Errors
    /// As [`crate::Cas::snapshot`].
    pub fn snapshot(&self, name: &str) -> Result<Option<Digest>> {
        self.runtime
            .block_on(self.inner.snapshot(name, None, &silent()))
    }
}

fn silent() -> Arc<dyn Progress> {
    Arc::new(Silent)
}
