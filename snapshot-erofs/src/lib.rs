//! The EROFS snapshotter: it keeps layers as tars. A chain of such layers is mounted as one EROFS
//! image. The image contains the metadata of all files, and refers to the tars for the data of the
//! files.
//!
//! ```text
//! ROOT/snapshots/7/     see [`cas_host::snapshotter`]
//!   fs/                 of a committed snapshot: its layer as `layer.tar`, or as `layer.erofs` if
//!                       the layer is an image itself, or the table of contents of a layer that is
//!                       read on demand, or a reference to a ready layer, `layer.tar.ready` or
//!                       `layer.erofs.ready`; of an active snapshot: what it changes, as in the
//!                       upper directory of an overlay, or the layer that an unpacker stores
//!   work/               0700, for the overlay of an active snapshot; a view without a parent also
//!                       has it, and a committed snapshot does not
//!   layer.digest        the digest of `layer.tar`, if this crate has packed it
//!   image.erofs         the merged metadata of the layers up to this one; if some of them are read
//!                       on demand, the name is `image-HASH.erofs`
//!   sparse              the content of the sparse files of these layers, if they have any; if some
//!                       layers are read on demand, the name is `sparse-HASH`
//!   image.json          which layers the image has, and the digests of the two files
//!   lazy.*, layer.tar   what has arrived of a layer that is read on demand: see `cas-lazyfs`
//! ROOT/mounts/5f3a/     where an image is mounted, shared by all snapshots on the layer; if some
//!                       layers are read on demand, the name ends in the number of the session
//! ROOT/mounts/layer-07/ where layer 7, an image itself, is mounted, shared as well; the number has
//!                       20 digits
//! ROOT/lazy/7           the data file of a layer that is read on demand; `cas-lazyfs` serves it
//! ```
//! - The image of a chain of layers is made when the first snapshot on the topmost layer is
//!   prepared or viewed. If a file of the image was lost or changed, or if a layer that the image
//!   reads on demand is now complete, the image is made again from the layers when it is next
//!   needed. If a tar was changed after its layer was committed, the image is not made, and the
//!   call that needs the image fails.
//! - A view on a parent is the image of the parent. An active snapshot on a parent is an overlay of
//!   its `fs` on that image.
//! - The commit of an active snapshot writes its changes as a tar, into a new directory.
//! - A layer that an unpacker has stored as a tar is committed without a change.
//! - A layer that is an EROFS image is called native. Each native layer is mounted on its own, and
//!   an overlay stacks the mounts. Only a snapshotter that was opened with [`Erofs::with_native`]
//!   mounts native layers.
//! - This crate mounts nothing except to probe, and to read the attributes of a parent's root
//!   directory. It returns mounts as data, and [`cas_host::mount`] mounts them.

use std::io;
use std::path::PathBuf;

use cas_core::platform::EROFS;
use cas_core::records::SnapshotRecord;
use cas_core::snapshot::{
    Backing, Condition, Depth, LAYER_IMAGE, LAYER_TAR, Mount, OnDemandBytes, SnapshotKind, Usage,
};
use cas_core::{Context, Descriptor, Digest, Error, Result};
use cas_host::calls::undisturbed;
use cas_host::overlay::{self, WORK};
use cas_host::snapshotter::{DirSnapshotter, SnapshotLayout};
use cas_host::{
    LockedDir, SnapshotDirs, TREE, calls, copy_attributes, erofs, make_tree, open_tree,
};
use cas_lazy::StoredTable;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

mod identity;
mod image;
mod lazy;
mod merged;
mod native;
mod opener;
mod pack;
mod probe;
mod protect;
mod ready;
mod record;

use identity::Identity;
pub use lazy::{SERVED, check_served, is_served};
pub use merged::write_ready_layers;
use native::Shown;
pub use opener::ErofsOpener;
pub use probe::{probe, probe_with};
use ready::{LAYER_FILES, REFERENCES};

/// The name of the snapshotter.
pub const NAME: &str = Erofs::NAME;

/// The EROFS snapshotter.
pub type ErofsSnapshotter = DirSnapshotter<Erofs>;

/// The layout of the EROFS snapshotter: the directory of a committed snapshot contains its layer as
/// a tar, as an EROFS image, or as a table of contents.
#[derive(Clone, Debug)]
pub struct Erofs {
    /// The mount options of every overlay.
    options: Vec<String>,
    backing: Backing,
    /// Whether committed layers are made immutable.
    immutable: bool,
    /// Whether layers that are EROFS images themselves are mounted.
    native: bool,
    /// The directories in which ready layers are looked up, in this order.
    ready: Vec<PathBuf>,
}

impl Erofs {
    /// Sets how the kernel reads the files of images: directly, or through loop devices.
    #[must_use]
    pub fn with_backing(mut self, backing: Backing) -> Self {
        self.backing = backing;
        self
    }

    /// Sets whether layers that are EROFS images themselves are mounted. The metadata of such an
    /// image was not written by `cas`, and may be hostile, but the kernel trusts it.
    #[must_use]
    pub fn with_native(mut self, native: bool) -> Self {
        self.native = native;
        self
    }

    /// Sets the directories in which ready layers are looked up, in this order. The file of a ready
    /// layer is `blobs/sha256/HEX`, where HEX are the digits of its diff ID. A snapshot then refers
    /// to this file, and has no copy. If all layers of an image are ready, their merged metadata is
    /// copied from such a directory, if it is there (see [`write_ready_layers`]). The kernel trusts
    /// this metadata, so the directories must be as well protected as the root. Nothing is written
    /// to them.
    #[must_use]
    pub fn with_ready_layers(mut self, directories: Vec<PathBuf>) -> Self {
        self.ready = directories;
        self
    }

    /// Sets whether the commit of a layer makes the layer's file immutable, as `chattr +i` does.
    /// The file is a tar or an EROFS image. The removal of the layer first makes the file mutable.
    #[must_use]
    pub fn with_immutable(mut self, immutable: bool) -> Self {
        self.immutable = immutable;
        self
    }
}

impl SnapshotLayout for Erofs {
    const NAME: &'static str = "erofs";
    const REBASES: bool = true;
    const TARS: bool = true;

    fn open() -> Result<Self> {
        let mut options = overlay::options()?;
        // A layer cannot express that a directory was renamed, or that only attributes changed.
        // With these options, the kernel does not write marks for either, and does not follow the
        // marks that a native layer may have.
        options.extend(["redirect_dir=nofollow", "metacopy=off"].map(str::to_owned));
        Ok(Erofs {
            options,
            backing: Backing::default(),
            immutable: false,
            native: false,
            ready: Vec::new(),
        })
    }

    /// Copies the attributes of the parent's root directory, because an overlay shows the
    /// attributes of the root directory of its top layer.
    fn fill(&self, dirs: &SnapshotDirs, new: &LockedDir, below: &[u64]) -> Result<()> {
        make_tree(new)?;
        overlay::make_work(new)?;
        if below.is_empty() {
            return Ok(());
        }
        // The root directory of an overlay is that of its topmost layer.
        let mounted = match Shown::made(dirs, below, self.native, &self.ready)? {
            Shown::Merged(image) => erofs::mount_image(image.served(dirs)?.files(self.backing))?,
            Shown::Native(layers) => match layers.first() {
                Some(top) => erofs::mount_image(top.files(self.backing))?,
                None => return Ok(()),
            },
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = calls::openat(&mounted, ".", flags, Mode::empty()).map_err(io::Error::from);
        copy_attributes(root.during("open", "the image")?, open_tree(new)?)
    }

    fn ready(&self, dirs: &SnapshotDirs, below: &[u64]) -> Result<()> {
        match below {
            [] => Ok(()),
            below => Shown::made(dirs, below, self.native, &self.ready).map(|_| ()),
        }
    }

    fn mounts(
        &self,
        dirs: &SnapshotDirs,
        snapshot: &SnapshotRecord,
        below: &[u64],
    ) -> Result<Vec<Mount>> {
        let directory = dirs.path(snapshot.id);
        let is_view = snapshot.kind == SnapshotKind::View;
        let has_work = || undisturbed(|| directory.join(WORK).try_exists());
        if !is_view && !has_work().during("open", directory.display())? {
            return Err(Error::precondition(
                "the snapshot was prepared to store a layer and cannot be mounted; commit it, then \
                 prepare or view a snapshot on it",
            ));
        }
        if below.is_empty() {
            return Ok(vec![Mount::Bind {
                source: directory.join(TREE),
                read_only: is_view,
            }]);
        }
        let shown = Shown::existing(dirs, below, self.native)?;
        let (mut mounts, lower) = shown.into_mounts(dirs, self.backing);
        if is_view && lower.len() == 1 {
            return Ok(mounts);
        }
        let inside = |name| (!is_view).then(|| directory.join(name));
        mounts.push(Mount::Overlay {
            lower,
            upper: inside(TREE),
            work: inside(WORK),
            options: self.options.clone(),
        });
        Ok(mounts)
    }

    fn os_features(&self) -> &'static [&'static str] {
        match self.native {
            true => &[EROFS],
            false => &[],
        }
    }

    fn tar(&self, dirs: &SnapshotDirs, id: u64) -> PathBuf {
        ready::layer_file(dirs, id, LAYER_TAR)
    }

    fn use_ready_layer(
        &self,
        dirs: &SnapshotDirs,
        id: u64,
        layer: &Descriptor,
        diff_id: &Digest,
    ) -> Result<bool> {
        ready::refer(&self.ready, dirs, id, layer, diff_id, self.native)
    }

    fn has_ready_layer(&self, dirs: &SnapshotDirs, id: u64) -> bool {
        ready::is_used(dirs, id)
    }

    fn must_pack(&self, dirs: &SnapshotDirs, active: &LockedDir, below: &[u64]) -> Result<bool> {
        let has = |name: &str| match calls::statat(active, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(false),
            found => found.map(|_| true).map_err(io::Error::from),
        };
        if has(WORK).during("open directory", WORK)? {
            if below.iter().any(|id| native::is_native(dirs, *id)) {
                return Err(Error::unsupported(
                    "the changes would become a tar, which cannot be mounted on layers that are \
                     EROFS images; keep the snapshot active, or prepare it on the variant of the \
                     image whose layers are tars",
                ));
            }
            return Ok(true);
        }
        let others = [StoredTable::FILE].into_iter().chain(REFERENCES);
        for name in LAYER_FILES.into_iter().chain(others) {
            let path = format!("{TREE}/{name}");
            if has(&path).during("open", &path)? {
                return match name == LAYER_IMAGE && !self.native {
                    true => Err(native::not_allowed()),
                    false => Ok(false),
                };
            }
        }
        Err(Error::precondition(
            "the snapshot does not have its layer yet; store the layer before the commit",
        ))
    }

    fn pack(&self, active: &LockedDir, new: &LockedDir) -> Result<()> {
        let digest = pack::pack(&open_tree(active)?, &open_tree(new)?)?;
        identity::record(new, &digest)
    }

    fn protect(&self, complete: &LockedDir) -> Result<()> {
        match self.immutable {
            true => protect::protect(complete),
            false => Ok(()),
        }
    }

    fn unprotect(&self, dirs: &SnapshotDirs, id: u64) -> Result<()> {
        protect::unprotect(dirs, id)
    }

    fn added(&self, dirs: &SnapshotDirs, id: u64) -> Result<Usage> {
        image::usage(&dirs.path(id))
    }

    fn on_demand(&self, dirs: &SnapshotDirs, id: u64) -> Result<Option<OnDemandBytes>> {
        lazy::arrived(dirs, id)
    }

    /// With [`Depth::Bytes`], also compares the layer with its digest, and the image of the layers
    /// with its record.
    fn check(
        &self,
        dirs: &SnapshotDirs,
        key: &str,
        snapshot: &SnapshotRecord,
        depth: Depth,
    ) -> Result<Condition> {
        match check_layer(dirs, key, snapshot, depth)? {
            Condition::Sound if matches!(depth, Depth::Bytes { .. }) => {
                image::check(&dirs.path(snapshot.id))
            }
            found => Ok(found),
        }
    }

    /// Removes the image of the layers if only its bytes were changed.
    fn repair(
        &self,
        dirs: &SnapshotDirs,
        key: &str,
        snapshot: &SnapshotRecord,
        per_second: Option<u64>,
    ) -> Result<bool> {
        match check_layer(dirs, key, snapshot, Depth::Bytes { per_second })? {
            Condition::Sound => image::discard_damaged(&dirs.path(snapshot.id)).map(|()| true),
            _ => Ok(false),
        }
    }

    fn release(&self, dirs: &SnapshotDirs) {
        let mounts = image::mounts(dirs);
        erofs::release_unused(&mounts);
        if let Err(error) = lazy::remove_unused_data(dirs, &mounts) {
            tracing::warn!(
                %error,
                "cannot remove unused data files of layers; the next removal of a snapshot tries \
                 again"
            );
        }
    }
}

/// Returns the condition of a snapshot without the image of the layers. With [`Depth::Bytes`], also
/// compares the layer with its digest.
fn check_layer(
    dirs: &SnapshotDirs,
    key: &str,
    snapshot: &SnapshotRecord,
    depth: Depth,
) -> Result<Condition> {
    let id = snapshot.id;
    match lazy::check(dirs, id, depth)? {
        Condition::Sound => {}
        found => return Ok(found),
    }
    if depth != Depth::Directory && dirs.check(id, Depth::Directory)? == Condition::Sound {
        match ready::check(dirs, id)? {
            Condition::Sound => {}
            found => return Ok(found),
        }
    }
    // Without the manifest of the snapshot, nothing else shows that the file is lost.
    let may_be_lost = depth != Depth::Directory && snapshot.kind == SnapshotKind::Committed;
    let checked = || match dirs.check(id, depth)? {
        Condition::Sound
            if may_be_lost && ready::stored(dirs, id).is_none() && !lazy::is_here(dirs, id) =>
        {
            Ok(ready::missing())
        }
        found => Ok(found),
    };
    let Depth::Bytes { per_second } = depth else {
        return checked();
    };
    match Identity::of(dirs, key, snapshot) {
        None => checked(),
        // The digest of the tar is compared, so its checksum need not be.
        Some(identity) => match dirs.check(id, Depth::Files)? {
            Condition::Sound => identity.check(dirs, id, per_second),
            found => Ok(found),
        },
    }
}
