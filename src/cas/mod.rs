//! One handle on images, their content and their snapshots.

pub mod blocking;
mod bundle;
mod gc;
mod mount;
#[cfg(feature = "registry")]
mod remote;

use std::path::Path;
use std::sync::Arc;

use cas_core::image::{self, Check, Reference, Resolved};
use cas_core::lease::LeaseGuard;
use cas_core::platform::Only;
use cas_core::records::Records;
use cas_core::{
    Digest, Error, Image, Platform, Registry, Result, Snapshotter, SnapshotterParts, Store,
};
use cas_layer::export::{self, Target};
use cas_layer::import::{self, Source};
use cas_layer::progress::Progress;
use cas_layer::unpack;
use cas_records_sqlite::SqliteRecords;

pub use self::mount::MountOptions;
use crate::root::{Engines, Root, parse_snapshotter};

/// How a root is opened.
#[derive(Default)]
pub struct Options {
    /// A store for this handle only: a scheme, a URL or a table of the root; else what it says.
    pub store: Option<String>,
    /// A snapshotter for this handle only; else what the root says.
    pub snapshotter: Option<String>,
    /// The backends to choose from; else all that are compiled in.
    pub registry: Option<Registry>,
}

/// Images, their content and their snapshots: one open root.
///
/// Cheap to clone; all clones are one handle.
#[derive(Clone)]
pub struct Cas {
    store: Store,
    /// None if the root was made by a build without snapshotters.
    snapshotter: Option<Arc<dyn Snapshotter>>,
    /// By which unpacks of the same layers take turns.
    locks: Arc<Path>,
    /// Whether the store is the root's, and not another for this handle only.
    own_store: bool,
    #[cfg(feature = "registry")]
    root: Arc<Root>,
}

impl Cas {
    /// Makes a root with these engines. It may exist already with the same ones. Returns the
    /// engines, and if no snapshotter was chosen, why the preferred one does not work here.
    ///
    /// # Errors
    /// `Unsupported` for an engine that is not compiled in; `InvalidArgument` for a composition
    /// without its members; `AlreadyExists` if the root uses other engines; `FailedPrecondition`
    /// if the directory holds something else.
    pub fn init(root: impl AsRef<Path>, engines: Engines) -> Result<(Engines, Option<Error>)> {
        Self::init_with(root, engines, &crate::registry())
    }

    /// As [`Cas::init`], with the backends and snapshotters of `registry`. The root is opened with
    /// the same registry in [`Options::registry`].
    ///
    /// # Errors
    /// As [`Cas::init`].
    pub fn init_with(
        root: impl AsRef<Path>,
        engines: Engines,
        registry: &Registry,
    ) -> Result<(Engines, Option<Error>)> {
        let location = engines.locate(&engines.store, root.as_ref(), registry)?;
        registry.check(&location)?;
        if !engines.snapshotter.is_empty() {
            registry.snapshotter(parse_snapshotter(&engines.snapshotter)?.scheme())?;
        }
        let (root, why) = Root::init(root.as_ref(), engines, registry)?;
        Ok((root.engines, why))
    }

    /// Opens a root, made with the default engines where nothing is there.
    ///
    /// # Errors
    /// `Unsupported`, `Busy`, `FailedPrecondition` as the engines say.
    pub async fn open(root: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(root, Options::default()).await
    }

    /// Opens a root with other engines than its own.
    ///
    /// # Errors
    /// As [`Cas::open`].
    pub async fn open_with(root: impl AsRef<Path>, options: Options) -> Result<Self> {
        let registry = options.registry.unwrap_or_else(crate::registry);
        let root = Root::open(root.as_ref(), &registry)?;
        let location = match &options.store {
            Some(store) => root.locate(store, &registry)?,
            None => root.store(&registry)?,
        };
        let store = registry.open(&location).await?;
        let chosen = options.snapshotter.as_ref();
        let chosen = parse_snapshotter(chosen.unwrap_or(&root.engines.snapshotter))?;
        let directory = root.snapshots(chosen.scheme());
        let locks = directory.join("locks").into();
        let snapshotter = if chosen.scheme().is_empty() {
            None
        } else {
            let records: Arc<dyn Records> = Arc::new(SqliteRecords::open(&root.local_records()?)?);
            let mut parts = SnapshotterParts::new(directory, records, store.clone());
            parts.options.clone_from(chosen.options());
            Some(registry.snapshotter(chosen.scheme())?.open(parts).await?)
        };
        Ok(Cas {
            store,
            snapshotter,
            locks,
            own_store: options.store.is_none(),
            #[cfg(feature = "registry")]
            root: Arc::new(root),
        })
    }

    /// The store beneath, for everything that is not a verb of its own here.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the snapshotter beneath.
    ///
    /// # Errors
    /// `FailedPrecondition` if the root was made without one.
    pub fn snapshotter(&self) -> Result<&dyn Snapshotter> {
        self.snapshotter.as_deref().ok_or_else(|| {
            Error::precondition(
                "the root was made without a snapshotter; choose one for this call, or make a new \
                 root with a build that has one",
            )
            .operation("open snapshotter")
        })
    }

    /// Imports an archive or a layout; the images it named.
    ///
    /// # Errors
    /// `Corrupt` when the source is damaged or hostile; nothing is left of it then.
    pub async fn import(
        &self,
        source: Source,
        options: &import::ImportOptions,
        progress: &Arc<dyn Progress>,
    ) -> Result<Vec<Image>> {
        import::import(&self.store, source, options, &**progress).await
    }

    /// The same, and unpacks the images into snapshots as [`Cas::snapshot`] does, each with the
    /// name of its topmost; no name is made before all are unpacked.
    ///
    /// # Errors
    /// As [`Cas::import`] and [`Cas::snapshot`]; nothing is named then.
    pub async fn import_unpacked(
        &self,
        source: Source,
        options: &import::ImportOptions,
        progress: &Arc<dyn Progress>,
    ) -> Result<Vec<(Image, Option<Digest>)>> {
        import::import_unpacked(&self.store, source, options, self.target()?, progress).await
    }

    /// Writes images into one archive; the images with the targets that the archive gives them.
    ///
    /// # Errors
    /// `NotFound` for an unknown name, a platform that an image has not, or content that was lost;
    /// `Corrupt` for damaged content. A file that has the name of the target stays as it was then.
    pub async fn export(
        &self,
        names: &[impl AsRef<str>],
        target: Target,
        options: &export::ExportOptions,
        progress: &Arc<dyn Progress>,
    ) -> Result<Vec<Image>> {
        let mut images = Vec::with_capacity(names.len());
        for name in names {
            images.push(self.image(name.as_ref()).await?);
        }
        export::export(&self.store, &images, target, options, &**progress).await
    }

    /// All images in the order of their names.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn images(&self) -> Result<Vec<Image>> {
        self.store.images.list(&[]).await
    }

    /// The image of this name.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` when it is no name.
    pub async fn image(&self, name: &str) -> Result<Image> {
        let name: Reference = name.parse()?;
        self.store.images.get(&name).await?.ok_or_else(|| {
            Error::not_found("no image of this name; `cas images` lists them")
                .operation("find image")
                .subject(name)
        })
    }

    /// Gives the image `from` the name `to` as well; a name that exists stands for it afterwards.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn tag(&self, from: &str, to: &str) -> Result<Image> {
        let image = Image::new(to.parse()?, self.image(from).await?.target);
        let guard = LeaseGuard::begin(&self.store, "tag").await?;
        if let Err(error) = guard.pin_tree(&image.target).await {
            return guard.finish_with(Err(error)).await;
        }
        guard.name_one(image, &["target"]).await
    }

    /// Removes a name.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn remove(&self, name: &str) -> Result<()> {
        self.store.images.delete(&name.parse()?, None).await
    }

    /// Which parts of an image are there, for a platform.
    ///
    /// # Errors
    /// `Corrupt` when a document of it is.
    pub async fn check(&self, name: &str, platform: &Platform) -> Result<Check> {
        let target = self.image(name).await?.target;
        image::check(&*self.store.content, &target, &Only::new(platform)).await
    }

    /// Writes the root file system of an image into `directory`, which must be absent or empty.
    ///
    /// # Errors
    /// `NotFound` for a platform that the image has not; `Corrupt` for damaged or hostile layers;
    /// nothing is left in `directory` then.
    pub async fn unpack(
        &self,
        name: &str,
        directory: &Path,
        platform: Option<&Platform>,
        progress: &Arc<dyn Progress>,
    ) -> Result<()> {
        let manifest = self.manifest(name, platform).await?.manifest;
        unpack::to_directory(&self.store, &manifest, directory, progress).await
    }

    /// Unpacks the layers of an image into committed snapshots; the name of the topmost, nothing
    /// for an image without layers.
    ///
    /// # Errors
    /// As [`Cas::unpack`].
    pub async fn snapshot(
        &self,
        name: &str,
        platform: Option<&Platform>,
        progress: &Arc<dyn Progress>,
    ) -> Result<Option<Digest>> {
        let manifest = self.manifest(name, platform).await?.manifest;
        unpack::to_snapshots(&self.store, self.target()?, &manifest, progress).await
    }

    /// Returns where snapshots are made.
    fn target(&self) -> Result<unpack::Target<'_>> {
        Ok(unpack::Target {
            snapshotter: self.snapshotter()?,
            locks: &self.locks,
        })
    }

    /// The manifest of an image for a platform; without one for this machine's, where the image
    /// leaves a choice.
    ///
    /// # Errors
    /// `NotFound` when the image has none for it.
    pub async fn manifest(&self, name: &str, platform: Option<&Platform>) -> Result<Resolved> {
        let target = self.image(name).await?.target;
        image::manifest_for(&*self.store.content, &target, platform)
            .await
            .map_err(|error| error.within(name))
    }
}

#[cfg(all(test, feature = "redb"))]
mod tests {
    use cas_core::{ErrorKind, pool::wait};

    use super::*;

    #[test]
    fn a_root_without_a_snapshotter_has_images_and_says_that_it_has_no_snapshotter() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("root");
        let registry = || Registry::new().with(backend_redb::RedbOpener);
        let options = Options {
            registry: Some(registry()),
            ..Options::default()
        };
        let cas = wait(Cas::open_with(&root, options)).unwrap();
        assert_eq!(wait(cas.images()).unwrap(), []);
        wait(cas.collect(true)).unwrap();
        let error = cas.snapshotter().err().unwrap();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains("snapshotter"), "{error}");
    }
}
