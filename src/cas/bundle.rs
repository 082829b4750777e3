//! Images as bundles for a container runtime.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use cas_core::{Context, Error, Manifest, Result, dispatch, pool};
use cas_layer::progress::Progress;
use cas_layer::unpack;

use super::Cas;
use super::mount::MountOptions;
use crate::bundle::{self, Config, Options, ROOTFS};

impl Cas {
    /// Makes an OCI runtime bundle of an image in `directory`, which must be absent or empty.
    ///
    /// # Errors
    /// As [`Cas::unpack`] or [`Cas::mount`]; `NotFound` for a user that the image has not. What
    /// was made is removed again.
    pub async fn bundle(
        &self,
        name: &str,
        directory: &Path,
        options: &Options,
        progress: &Arc<dyn Progress>,
    ) -> Result<()> {
        let platform = options.platform.as_ref();
        let manifest = self.manifest(name, platform).await?.manifest;
        let config = dispatch::read(&*self.store.content, &manifest.config).await?;
        let config = Config::parse(&config).during("read configuration", manifest.config.digest)?;
        let made = begin(directory).during("make bundle", directory.display())?;
        let filled = self
            .fill(&manifest, config, directory, options, progress)
            .await;
        if filled.is_err() && made {
            // What is left in it has been told.
            let _ = fs::remove_dir(directory);
        }
        filled
    }

    async fn fill(
        &self,
        manifest: &Manifest,
        config: Config,
        directory: &Path,
        options: &Options,
        progress: &Arc<dyn Progress>,
    ) -> Result<()> {
        let rootfs = directory.join(ROOTFS);
        match options.mounted {
            true => {
                fs::create_dir(&rootfs).during("make directory", rootfs.display())?;
                let writable = MountOptions {
                    writable: true,
                    ..MountOptions::default()
                };
                let mounted = self
                    .mount_manifest(manifest, &rootfs, writable, progress)
                    .await;
                mounted.inspect_err(|_| {
                    let _ = fs::remove_dir(&rootfs);
                })?;
            }
            false => unpack::to_directory(&self.store, manifest, &rootfs, progress).await?,
        }
        let (place, wanted) = (directory.to_owned(), options.clone());
        let finished = pool::run(move || bundle::finish(&place, &config, &wanted)).await;
        match finished {
            Ok(warnings) => {
                warnings.iter().for_each(|warning| progress.warn(warning));
                Ok(())
            }
            Err(error) => {
                if let Err(left) = self.clear(&rootfs, options.mounted).await {
                    progress.warn(&format!("what was made stays: {left}"));
                }
                Err(error)
            }
        }
    }

    async fn clear(&self, rootfs: &Path, mounted: bool) -> Result<()> {
        if mounted {
            self.unmount(rootfs).await?;
            return fs::remove_dir(rootfs).during("remove", rootfs.display());
        }
        let path = rootfs.to_owned();
        pool::run(move || fs::remove_dir_all(&path).during("remove", path.display())).await
    }
}

/// Makes the directory where it is absent; true when it did.
fn begin(directory: &Path) -> Result<bool> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let why = "the directory that it shall be made in is not there; make that first";
            return Err(Error::not_found(why).source(error));
        }
        Err(error) => return Err(error.into()),
    }
    match fs::read_dir(directory)?.next() {
        None => Ok(false),
        Some(_) => Err(Error::precondition(
            "the directory is not empty; give one that is, or that is absent, or remove what an \
             interrupted `cas bundle` has left in it (`cas umount DIR/rootfs` first, if that was \
             with --mount)",
        )),
    }
}
