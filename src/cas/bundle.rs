//! Images as bundles for a container runtime.

use std::path::Path;

use cas_core::background::shield;
use cas_core::{Context, Error, Manifest, Result, dispatch, pool};
use cas_layer::unpack::{self, DirectoryOptions, Entrance};

use super::arguments::ImageRef;
use super::mounted::Mounted;
use super::{Cas, MountOptions, paths};
use crate::bundle::{self, BundleOptions, Config, NewBundle};

impl Cas {
    /// Makes an OCI runtime bundle of an image in `directory`, which must be absent or empty. Other
    /// users cannot enter the directory, because the root file system has the device nodes and
    /// set-id programs of the image.
    ///
    /// # Errors
    /// As [`Cas::unpack`]; `NotFound` if the image does not have the user or group that its
    /// configuration names; `Corrupt` if no process can be started with the configuration;
    /// `OutOfRange` if the image's lists of users and groups exceed a limit; `Denied` if
    /// `directory` belongs to another user. On an error, the unfinished bundle is removed.
    pub async fn bundle(
        &self,
        image: impl Into<ImageRef>,
        directory: impl AsRef<Path>,
    ) -> Result<()> {
        let options = BundleOptions::default();
        self.bundle_with(image, directory, options).await
    }

    /// Makes a bundle with options. [`BundleOptions::progress`] receives a warning for each label
    /// of the image that does not become an annotation because a runtime would act on it. It also
    /// receives a warning if the process of a rootless bundle cannot run as the user of the image.
    ///
    /// # Errors
    /// As [`Cas::bundle`]; as [`Cas::mount`] for a `mounted` bundle; `InvalidArgument` for
    /// `Platforms::All`, if both `mounted` and `rootless` are set, or if the entrypoint or the
    /// command in the options contains a zero byte.
    pub async fn bundle_with(
        &self,
        image: impl Into<ImageRef>,
        directory: impl AsRef<Path>,
        options: BundleOptions,
    ) -> Result<()> {
        if options.mounted && options.rootless.is_some() {
            let why = "a bundle cannot be both mounted and rootless; choose one";
            return Err(Error::invalid(why).operation("make bundle"));
        }
        let platforms = match options.mounted {
            true => self.to_unpack(&options.platforms),
            false => options.platforms.clone(),
        };
        let manifest = self.manifest_of(image, &platforms).await?;
        let config = dispatch::read(&*self.store.content, &manifest.config).await?;
        let config = Config::parse(&config).during("read configuration", manifest.config.digest)?;
        let directory = paths::directory(directory.as_ref());
        if !self.is_of_run(directory) {
            let outside = self.check_output(directory);
            outside.during("make bundle", directory.display())?;
        }
        let new = NewBundle::begin(directory, &*options.progress).await;
        let mut new = new.during("make bundle", directory.display())?;
        let filled = self.fill(&manifest, &mut new, &options).await;
        match filled {
            Ok(mounted) => finish(new, mounted, config, options).await,
            Err(error) => {
                // The first error is reported, even if something cannot be removed.
                let _ = new.remove();
                Err(error)
            }
        }
    }

    /// Unpacks or mounts the root file system. Returns the mount, if there is one.
    async fn fill(
        &self,
        manifest: &Manifest,
        new: &mut NewBundle,
        options: &BundleOptions,
    ) -> Result<Option<Mounted>> {
        let rootfs = new.rootfs();
        if !options.mounted {
            let how = DirectoryOptions {
                entrance: Entrance::AsImage,
                rootless: options.rootless.is_some(),
                temporary: options.temporary,
                confine: self.confine,
            };
            let (layers, progress) = (self.layers(), &options.progress);
            unpack::to_directory(layers, manifest, &rootfs, how, progress).await?;
            new.unpacked();
            return Ok(None);
        }
        new.make_rootfs()?;
        // The container needs the set-id programs and devices of the image. A new bundle is closed
        // to other users.
        let writable = MountOptions::default()
            .with_suid(true)
            .with_devices(true)
            .with_writable(true)
            .with_progress(options.progress.clone());
        let mounted = self.mount_manifest(manifest, &rootfs, writable).await?;
        Ok(Some(mounted))
    }
}

/// Writes `config.json` of the bundle. If the caller drops the future meanwhile, no bundle is left.
async fn finish(
    new: NewBundle,
    mounted: Option<Mounted>,
    config: Config,
    options: BundleOptions,
) -> Result<()> {
    let progress = options.progress.clone();
    let (new, mut mounted, finished) = shield(async move {
        let directory = new.path().to_owned();
        let finished = pool::run(move || bundle::finish(&directory, &config, &options)).await;
        (new, mounted, finished)
    })
    .await;
    let error = match finished {
        Ok(warnings) => {
            warnings.iter().for_each(|warning| progress.warn(warning));
            mounted.into_iter().for_each(Mounted::keep);
            new.keep();
            return Ok(());
        }
        Err(error) => error,
    };
    let cleared = async {
        if let Some(mounted) = &mut mounted {
            mounted.undo().await?;
        }
        pool::run(move || new.remove()).await
    };
    if let Err(left) = cleared.await {
        progress.warn(&format!(
            "the unfinished bundle could not be removed: {left}; remove the bundle yourself"
        ));
    }
    Err(error)
}
