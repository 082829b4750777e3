//! Images as one read-only file system.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cas_core::image::{self, image_config, not_a_tar};
use cas_core::platform::Platforms;
use cas_core::progress::{Progress, Silent};
use cas_core::snapshot::Mount;
use cas_core::{Context, Digest, Error, ErrorKind, Labels, Manifest, Result, pool, unique};
use cas_erofs::{DataFile, Disk, Image, Layers};
use cas_host::erofs::open_file;
use cas_host::{Output, calls, make_ext4, no_directory, resolved};
use cas_layer::unpack;

use super::arguments::ImageRef;
use super::mounted::{Mounted, NewSnapshot};
use super::{Cas, paths};

/// The form of a disk: the root file system of an image as one read-only EROFS image, or the files
/// from which other roots make such an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskFormat {
    /// One file: metadata, the uncompressed tar of each layer, and the content of sparse files, if
    /// there are any.
    #[default]
    Erofs,
    /// A directory with a VMDK descriptor, `disk.vmdk`, and the files that the descriptor joins to
    /// one disk: the metadata, the uncompressed tar of each layer, the content of sparse files, if
    /// there are any, and zeros that fill the gaps. The disk has the same bytes as the file of
    /// [`Self::Erofs`].
    Vmdk,
    /// A directory of ready layers, for the option `layers` of the snapshotter `erofs` of other
    /// roots: the uncompressed tar of each layer as `blobs/sha256/HEX`, where HEX are the digits of
    /// the layer's diff ID, and the metadata. The layers of several images can be in one directory.
    Layers,
}

/// Options of [`Cas::disk_with`].
#[derive(Clone)]
#[non_exhaustive]
pub struct DiskOptions {
    /// The platform of the image. `Platforms::All` is an error.
    pub platforms: Platforms,
    /// The form of the disk.
    pub format: DiskFormat,
    /// Receives the progress. By default, nothing is reported.
    pub progress: Arc<dyn Progress>,
    /// The file and the size in bytes of a second disk, which is writable and empty. By default,
    /// none is made.
    pub writable: Option<(PathBuf, u64)>,
}

impl Default for DiskOptions {
    fn default() -> Self {
        DiskOptions {
            platforms: Platforms::default(),
            format: DiskFormat::default(),
            progress: Arc::new(Silent),
            writable: None,
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

    /// Sets [`format`](Self::format).
    #[must_use]
    pub fn with_format(mut self, format: DiskFormat) -> Self {
        self.format = format;
        self
    }

    /// Sets [`progress`](Self::progress).
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Sets [`writable`](Self::writable).
    #[must_use]
    pub fn with_writable(mut self, file: impl Into<PathBuf>, size: u64) -> Self {
        self.writable = Some((file.into(), size));
        self
    }
}

impl Cas {
    /// Writes the root file system of an image to `file`, as one read-only EROFS image: first
    /// metadata, then the uncompressed tar of each layer, and the content of sparse files, if there
    /// are any. Linux 6.4 and later can mount the file. A block device with the bytes of the file
    /// must have sectors of 512 bytes. The same image always gives the same bytes, with one
    /// exception: if a process serves a layer of the image on demand, and the tar of this layer is
    /// not complete, `file` contains, in place of this tar, the data that the process serves. No
    /// privileges are needed. Returns the sizes of the file and of the metadata in the file.
    ///
    /// The file appears under its name when it is complete, and replaces an older file of this
    /// name, or the file to which a symbolic link of this name leads. Until then, the directory may
    /// need free space for twice the size of the file. If the image is unpacked into snapshots of
    /// the snapshotter `erofs`, and the root is not read-only, the directory needs less space: the
    /// files of these snapshots are copied, and no layer is decompressed. If the file system can
    /// share blocks between files, the new file shares its blocks with the snapshots.
    ///
    /// If there is a pipe or a device at `file`, it is not replaced, but written from start to end.
    /// Temporary files are then made in the system's directory for temporary files.
    ///
    /// # Errors
    /// `NotFound` if the store does not have the image or one of its layers, if the image has
    /// nothing for the platform of this machine, or if the directory of `file` does not exist;
    /// `OutOfRange` if the file would have 2 TiB or more, or if the image exceeds another limit;
    /// `Corrupt` for damaged or hostile layers; `Unsupported` for an artifact, for a blob that is
    /// not a layer, or for layers that are EROFS images themselves; `InvalidArgument` if `file` is
    /// a directory, is in the root or the store, or is a symbolic link that leads to nothing;
    /// errors of the file system, for example for a block device that is mounted. On an error, an
    /// existing file is unchanged, but a pipe or a device may have received a part of the disk.
    pub async fn disk(&self, image: impl Into<ImageRef>, file: impl AsRef<Path>) -> Result<Disk> {
        self.disk_with(image, file, DiskOptions::default()).await
    }

    /// Writes a disk with options. Returns the same as [`Cas::disk`].
    ///
    /// With [`DiskOptions::writable`], the program `mke2fs` also writes an empty ext4 file system
    /// to a second file. A virtual machine can use this file system for the upper directory of an
    /// overlay. The second file is sparse, and with the same release of `mke2fs`, the same size
    /// gives the same bytes. When the disk is complete, the second file replaces an older file of
    /// its name.
    ///
    /// With [`DiskFormat::Vmdk`], `file` is a directory, which must be empty or absent. If the call
    /// fails, it removes what it has written into the directory. A killed process leaves its files
    /// in the directory. The next call for this directory removes these files, but only if the file
    /// system of the directory supports extended attributes.
    ///
    /// With [`DiskFormat::Layers`], `file` is a directory, which may be absent and need not be
    /// empty. A layer that it has already is not written again. After an error or a kill, complete
    /// files stay, and the next call removes temporary files. If a layer has sparse files, the
    /// metadata is left out, and each root makes it.
    ///
    /// # Errors
    /// As [`Cas::disk`]; `InvalidArgument` for `Platforms::All`, for a writable disk with the path
    /// `file`, for a writable disk at the path of a pipe or a device, or in the root or the store,
    /// or for a writable disk whose size is not a multiple of 4,096 bytes; for
    /// [`DiskFormat::Vmdk`], `InvalidArgument` for a directory that is not empty, and for a path
    /// that is not a directory; `OutOfRange` for a writable disk of less than 16 MiB or more than
    /// [`limit::WRITABLE_DISK`](cas_core::limit::WRITABLE_DISK); `Unsupported` for a writable disk
    /// if this machine does not have `mke2fs`.
    pub async fn disk_with(
        &self,
        image: impl Into<ImageRef>,
        file: impl AsRef<Path>,
        options: DiskOptions,
    ) -> Result<Disk> {
        let manifest = self.manifest_of(image, &options.platforms).await?;
        let file = file.as_ref();
        let file = match options.format {
            DiskFormat::Erofs => paths::file(file).during("make disk", file.display())?,
            DiskFormat::Vmdk | DiskFormat::Layers => paths::directory(file),
        };
        let outside = self.check_output(file);
        outside.during("make disk", file.display())?;
        if let Some((writable, _)) = &options.writable {
            let outside = self.check_output(writable);
            outside.during("make writable disk", writable.display())?;
        }
        let mut layers = manifest.layers.iter();
        if let Some(image) = layers.find(|layer| layer.media_type.is_erofs()) {
            return Err(not_a_tar(image).operation("make disk"));
        }
        // The writable disk is made first, because this fails quickly if it fails.
        let writable = match options.writable {
            Some((writable, size)) => Some(make_writable(writable, size, file).await?),
            None => None,
        };
        let written = match options.format {
            DiskFormat::Erofs => self.write_disk(&manifest, file, &options.progress).await,
            DiskFormat::Vmdk => self.write_vmdk(&manifest, file, &options.progress).await,
            DiskFormat::Layers => self.write_layers(&manifest, file, &options.progress).await,
        };
        let disk = written.during("make disk", file.display())?;
        if let Some(new) = writable {
            pool::run(move || new.publish()).await?;
        }
        Ok(disk)
    }

    async fn write_disk(
        &self,
        manifest: &Manifest,
        file: &Path,
        progress: &Arc<dyn Progress>,
    ) -> Result<Disk> {
        let path = file.to_owned();
        let out = pool::run(move || Output::open(&path)).await?;
        if let Some((metadata, data)) = self.open_stored(manifest).await? {
            let join = move || Ok((Disk::join(&metadata, &data, out.file())?, out));
            return publish(pool::run(join).await?).await;
        }
        let layers = Layers::new(out.directory());
        let read = self.read_layers(manifest, file, progress, layers).await?;
        let (tree, data) = read.finish();
        let write = move || Ok((Disk::write(&tree, &data, out.file())?, out));
        publish(pool::run(write).await?).await
    }

    /// Opens the metadata and the data files of an image in the snapshotter `erofs`. Returns `None`
    /// if the root has another snapshotter or is read-only, or if the image is not unpacked.
    async fn open_stored(&self, manifest: &Manifest) -> Result<Option<(DataFile, Vec<DataFile>)>> {
        let snapshotter = self.snapshotter().ok();
        let snapshotter = snapshotter.filter(|one| one.name() == snapshot_erofs::NAME);
        let Some(snapshotter) = snapshotter.filter(|_| self.check_writable().is_ok()) else {
            return Ok(None);
        };
        let chain_ids = unpack::verified_chain_ids(&self.store, &**snapshotter, manifest).await?;
        let Some(top) = chain_ids.and_then(|chain_ids| chain_ids.last().copied()) else {
            return Ok(None);
        };
        let new = NewSnapshot {
            key: &unique::key("disk"),
            writable: false,
            // No label keeps the view, because its open files can be read even after a collection
            // removes it.
            labels: Labels::new(),
        };
        let open_all = async {
            let mut view = Mounted::make(snapshotter, &new, Some(top)).await?;
            let mounts = view.mounts().to_vec();
            let opened = pool::run(move || open(&mounts)).await;
            // If this fails, a collection removes the view.
            let _ = view.undo().await;
            opened
        };
        match open_all.await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            opened => opened,
        }
    }

    async fn write_vmdk(
        &self,
        manifest: &Manifest,
        directory: &Path,
        progress: &Arc<dyn Progress>,
    ) -> Result<Disk> {
        let new = unpack::new_directory(directory, 0o755, progress.as_ref()).await?;
        let layers = Layers::named(new.path());
        let read = self.read_layers(manifest, directory, progress, layers);
        let (tree, data) = read.await?.finish();
        let write = move || Ok((Disk::write_vmdk(&tree, &data, new.path())?, new));
        let (disk, new) = pool::run(write).await?;
        new.keep();
        Ok(disk)
    }

    async fn write_layers(
        &self,
        manifest: &Manifest,
        directory: &Path,
        progress: &Arc<dyn Progress>,
    ) -> Result<Disk> {
        let config = image_config(&*self.store.content, &manifest.config).await?;
        let diff_ids = image::layers(manifest, &config)?
            .into_iter()
            .map(|(_, id)| id);
        let diff_ids: Vec<Digest> = diff_ids.collect();
        let directory = directory.to_owned();
        let made = pool::run(move || match calls::make_dirs(&directory) {
            Ok(()) => Ok(directory),
            Err(error) => Err(no_directory(error, &directory)),
        });
        let directory = made.await?;
        let layers = Layers::new(&directory);
        let read = self.read_layers(manifest, &directory, progress, layers);
        let layers = read.await?;
        let sparse = layers.sparse();
        let (tree, data) = layers.finish();
        let write = move || {
            let image = Image::new(&tree, &data)?;
            let metadata = sparse.is_none().then(|| image.metadata());
            let tars = data
                .iter()
                .enumerate()
                .filter(|(at, _)| Some(*at) != sparse);
            let tars = diff_ids.iter().zip(tars.map(|(_, tar)| tar));
            let tars: Vec<_> = tars.map(|(id, tar)| (*id, &tar.file, tar.length)).collect();
            let length: u64 = tars.iter().map(|(.., length)| *length).sum();
            snapshot_erofs::write_ready_layers(&directory, &tars, metadata)?;
            let metadata = metadata.map_or(0, |bytes| bytes.len() as u64);
            Ok(Disk {
                length: length + metadata,
                metadata,
            })
        };
        pool::run(write).await
    }

    /// Reads the layers of an image, and adds them to `layers`. Returns the layers.
    async fn read_layers(
        &self,
        manifest: &Manifest,
        file: &Path,
        progress: &Arc<dyn Progress>,
        layers: Layers,
    ) -> Result<Layers> {
        let reporter = Arc::clone(progress);
        let read = move |layers: &mut Layers, input: &mut dyn std::io::BufRead| {
            for warning in layers.add(input)? {
                reporter.warn(&warning);
            }
            Ok(())
        };
        let item = file.display().to_string();
        let (from, confine) = (self.layers(), self.confine);
        let read = unpack::fold_layers(from, manifest, &item, confine, progress, layers, read);
        read.await
    }
}

/// Gives a complete disk its name. A caller that was cancelled before does not get here, and the
/// new file is removed.
async fn publish((disk, out): (Disk, Output)) -> Result<Disk> {
    pool::run(move || out.publish()).await?;
    Ok(disk)
}

/// Makes a writable disk. It gets the name `file` when the caller publishes it.
async fn make_writable(file: PathBuf, size: u64, disk: &Path) -> Result<Output> {
    let (path, disk) = (file.display().to_string(), disk.to_owned());
    let made = pool::run(move || {
        paths::file(&file)?;
        if resolved(&file) == resolved(&disk) {
            return Err(Error::invalid(
                "the disk and the writable disk need different files; name another file",
            ));
        }
        let there = calls::undisturbed(|| file.metadata()).ok();
        if there.is_some_and(|there| !there.is_file() && !there.is_dir()) {
            return Err(Error::invalid(
                "a writable disk can only be made in a regular file, and the path is a pipe or a \
                 device; name another file",
            ));
        }
        let out = Output::open(&file)?;
        make_ext4(out.file(), size)?;
        Ok(out)
    });
    made.await.during("make writable disk", path)
}

/// Opens the files of the EROFS image that `mounts` show. Returns `None` if `mounts` is not a
/// single mount of an EROFS image.
fn open(mounts: &[Mount]) -> Result<Option<(DataFile, Vec<DataFile>)>> {
    let [Mount::Erofs { image, devices, .. }] = mounts else {
        return Ok(None);
    };
    let open = |path: &Path| {
        let file = open_file(path).during("open", path.display())?;
        let length = file.metadata()?.len();
        Ok(DataFile { file, length })
    };
    let data: Result<_> = devices.iter().map(|device| open(device)).collect();
    Ok(Some((open(image)?, data?)))
}
