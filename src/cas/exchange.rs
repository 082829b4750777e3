//! Import from archives and layouts, and export to archives.

use std::path::Path;
use std::sync::Arc;

use cas_core::image::Reference;
use cas_core::platform::Platforms;
use cas_core::progress::{Progress, Silent};
use cas_core::{Context, Image, Result};
use cas_layer::Naming;
use cas_layer::export::{self, ExportOptions, Target};
use cas_layer::import::{self, Source};

use super::arguments::ImageRef;
use super::{Cas, StoredImage, paths};

/// Options of [`Cas::import_with`].
#[derive(Clone)]
#[non_exhaustive]
pub struct ImportOptions {
    /// The name of the image. If the source has several names, each named image gets `name:tag`,
    /// with the tag of its name in the source. By default, the images get the names that the source
    /// gives them. An image that the source does not name gets its digest as its name, unless it is
    /// the only image and this option is set.
    pub name: Option<Reference>,
    /// How [`name`](Self::name) and the names in the source are read. By default, all are used
    /// unchanged.
    pub naming: Naming,
    /// The platforms whose content is imported, by default all in the source.
    pub platforms: Platforms,
    /// Whether the images are also unpacked into snapshots, as by [`Cas::snapshot`]. If all
    /// platforms are imported, only the platform of this machine is unpacked. A root that keeps
    /// layers only as tars always unpacks images, and stores artifacts as other roots do.
    pub unpack: bool,
    /// Receives the progress. By default, nothing is reported.
    pub progress: Arc<dyn Progress>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        ImportOptions {
            name: None,
            naming: Naming::default(),
            platforms: Platforms::All,
            unpack: false,
            progress: Arc::new(Silent),
        }
    }
}

impl ImportOptions {
    /// Sets [`name`](Self::name).
    #[must_use]
    pub fn with_name(mut self, name: impl Into<Option<Reference>>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets [`naming`](Self::naming).
    #[must_use]
    pub fn with_naming(mut self, naming: Naming) -> Self {
        self.naming = naming;
        self
    }

    /// Sets [`platforms`](Self::platforms).
    #[must_use]
    pub fn with_platforms(mut self, platforms: impl Into<Platforms>) -> Self {
        self.platforms = platforms.into();
        self
    }

    /// Sets [`unpack`](Self::unpack).
    #[must_use]
    pub fn with_unpack(mut self, unpack: bool) -> Self {
        self.unpack = unpack;
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
    /// Imports all images of an archive or a directory, under the names that they have there.
    /// Returns the images, sorted by name.
    ///
    /// # Errors
    /// `InvalidArgument` if the source is not an image, or gives an image a name that cannot be
    /// used; `NotFound` if the source is absent or incomplete; `Corrupt` if the source is damaged
    /// or hostile; `Unsupported` for a sparse file in an archive, for a version of the image layout
    /// other than 1.0.0, if a compressed archive is followed by bytes that are neither zeros nor
    /// more data in the same format, or if the digests of the images have other algorithms than
    /// SHA-256 and SHA-512; `OutOfRange` if the source exceeds a limit; errors of the store. If the
    /// import fails before it writes the first name, it removes the blobs that it has stored,
    /// except those that something else refers to by then.
    pub async fn import(&self, source: impl AsRef<Path>) -> Result<Vec<Image>> {
        let source = Source::Path(source.as_ref().to_owned());
        let imported = self.import_with(source, ImportOptions::default()).await?;
        Ok(imported.into_iter().map(|stored| stored.image).collect())
    }

    /// Imports with options. Writes the names last: after all content is stored and, with
    /// [`ImportOptions::unpack`], unpacked. Returns the images, sorted by name.
    ///
    /// # Errors
    /// As [`Cas::import`]; `NotFound` if the source has nothing for the platform in the options;
    /// `InvalidArgument` if the images cannot get the `name` in the options, for example because
    /// `name` has a tag and the source has several names; as [`Cas::snapshot`] if the images are
    /// unpacked.
    pub async fn import_with(
        &self,
        source: Source,
        options: ImportOptions,
    ) -> Result<Vec<StoredImage>> {
        let store = self.writable()?;
        let import = import::ImportOptions::default()
            .with_name(options.name)
            .with_naming(options.naming)
            .with_progress(Arc::clone(&options.progress));
        let platforms = options.platforms.clone();
        let import = import.with_platforms(options.platforms);
        let images = if options.unpack || self.only_tars {
            import::import_unpacked(store, source, &import, self.target()?).await?
        } else {
            let images = import::import(store, source, &import).await?;
            images.into_iter().map(|image| (image, None)).collect()
        };
        for (image, _) in &images {
            self.note_use(&image.name);
            self.name_was_written(&image.name, options.naming, &options.progress)
                .await?;
            self.drop_blobs(&image.target, &platforms, &options.progress)
                .await?;
        }
        let stored = images.into_iter();
        Ok(stored
            .map(|(image, snapshot)| StoredImage { image, snapshot })
            .collect())
    }

    /// Exports images into one OCI archive, with all platforms that the store has, but without
    /// referrers. Returns the images with the targets that they have in the archive.
    ///
    /// If the root keeps layers only as tars, and the original bytes of a layer blob cannot be made
    /// again, the layer is compressed again, and its image gets a new digest in the archive. If
    /// this happens in [`Cas::export_with`], the progress receives a warning with the new digest.
    ///
    /// # Errors
    /// `InvalidArgument` if there are no images, or if `file` is a directory, is in the root or the
    /// store, is a symbolic link that leads to nothing, ends in a slash or does not end in a UTF-8
    /// name; `NotFound` for an unknown name, for content that was lost, or for a layer that a pull
    /// did not store; `Corrupt` for damaged content. On an error, an existing file stays unchanged.
    pub async fn export(
        &self,
        images: impl IntoIterator<Item = impl Into<ImageRef>>,
        file: impl AsRef<Path>,
    ) -> Result<Vec<Image>> {
        let target = Target::Path(file.as_ref().to_owned());
        let options = ExportOptions::default();
        self.export_with(images, target, options).await
    }

    /// Exports with options. Returns the images as [`Cas::export`] does.
    ///
    /// # Errors
    /// As [`Cas::export`]; `NotFound` for a platform that an image does not have; `Unsupported` for
    /// an image that docker cannot load, if the archive is for docker; `OutOfRange` if the images
    /// together have more than [`limit::REFERRERS`](cas_core::limit::REFERRERS) referrers.
    pub async fn export_with(
        &self,
        images: impl IntoIterator<Item = impl Into<ImageRef>>,
        target: Target,
        options: ExportOptions,
    ) -> Result<Vec<Image>> {
        let mut found = Vec::new();
        for image in images {
            let image = self.image(image).await?;
            self.note_use(&image.name);
            found.push(image);
        }
        let store = self.opened()?;
        if let Target::Path(path) = &target {
            let checked = paths::file(path).and_then(|path| self.check_output(path));
            checked.during("export", path.display())?;
        }
        let progress = Arc::clone(&options.progress);
        let platforms = options.exported_platforms();
        let export =
            async |images: Vec<Image>| export::export(store, &images, target, &options).await;
        self.with_whole(found, &platforms, &progress, export).await
    }
}
