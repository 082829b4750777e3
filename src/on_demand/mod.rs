//! Layers that are read on demand. A pull with [`PullOptions::on_demand`](crate::PullOptions)
//! fetches only the tables of contents of these layers. Before an image with such layers is
//! mounted, a process must serve their data: see [`OnDemand`].

mod lifetime;
pub(crate) mod lost;
mod registry;
mod tables;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;

use async_trait::async_trait;
use cas_core::{Context, Descriptor, Digest, Error, ErrorKind, Manifest, Result};
use cas_host::mount::UnmountMode;
use cas_host::{Dir, Lock, MountedDirs, mount};
use cas_layer::unpack::{LayerTable, LayerTables};
use cas_lazy::PrefetchFile;
use cas_lazyfs::{Files, FilesRead, Session};

use self::lifetime::{LOCK, Lifetime};
use self::registry::FromRegistry;
pub use self::tables::RegistryTables;
use crate::root::{RemoteSettings, Root};

/// The layers of a root that are read on demand. They belong to the snapshotter `erofs`.
///
/// Their data is served by a FUSE file system below the root. As in `cas lazy serve`, one process
/// should [hold](Self::hold) the session of this file system, and start another process, which
/// [serves](Self::serve) it. If the second process dies, readers wait, and the first process can
/// start another one, which [resumes](Self::serve) the session. To resume a session, Linux 6.9 or
/// later is needed. If both processes die, reads of data that the kernel does not have in memory
/// fail, until a new session is held and served, and the images are mounted again.
pub struct OnDemand {
    settings: RemoteSettings,
    /// Maximum number of bytes per second that are fetched in the background.
    speed: u64,
    /// The directory of the snapshotter.
    directory: PathBuf,
    /// Whether a session ends if the root has no layers that are read on demand.
    ends_without_layers: bool,
}

/// The session of a root. While this value exists, no other process can hold a session of the root.
pub struct Held {
    device: OwnedFd,
    _lock: Lock,
}

impl Held {
    /// Returns the file descriptor of the session, for the process that serves the session.
    pub fn device(&self) -> &OwnedFd {
        &self.device
    }
}

impl OnDemand {
    /// Opens the layers of the root at `root`, without opening its store. If `root` is absent or
    /// empty, makes a root with the default store and snapshotter.
    ///
    /// # Errors
    /// As [`Cas::open`](crate::Cas::open), except errors of the store and the snapshotter;
    /// `InvalidArgument` if `complete` in the table `[lazy]` of `cas.toml` is true, and `speed`
    /// there is 0 or not a size.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = Root::open(root.as_ref(), &crate::registry())?;
        let directory = root.snapshots(snapshot_erofs::NAME);
        let settings = root.remote_settings();
        let speed = root.engines.lazy.bytes_per_second()?;
        Ok(OnDemand {
            settings,
            speed,
            directory,
            ends_without_layers: false,
        })
    }

    /// Sets whether [`serve`](Self::serve) unmounts the file system when no mounted image uses it,
    /// and the root has had no layers that are read on demand for a minute. By default, the session
    /// lasts, because the root may get such layers later.
    #[must_use]
    pub fn ending_without_layers(mut self, ends: bool) -> Self {
        self.ends_without_layers = ends;
        self
    }

    /// Returns whether the root may have layers that are read on demand: whether a pull has found
    /// the table of contents of such a layer, or a session was held.
    pub fn is_used(&self) -> bool {
        fs::symlink_metadata(self.served()).is_ok()
    }

    /// Returns whether a process serves the data of the layers of this root. If a session is held,
    /// but no process serves it, waits until one does, or until the session ends.
    pub fn is_served(&self) -> bool {
        snapshot_erofs::is_served(&self.served())
    }

    /// Mounts a new file system for the data of the layers. Returns its session.
    ///
    /// # Errors
    /// `Busy` if a session is held or still served; `Denied` without the right to mount;
    /// `Unsupported` if the kernel does not support FUSE; errors of the file system.
    pub fn hold(&self) -> Result<Held> {
        let served = self.served();
        make_directory(&served)?;
        let directory = Dir::open(&self.directory);
        let directory = directory.during("open directory", self.directory.display())?;
        let lock = Lock::try_exclusive(&directory, LOCK);
        let lock = lock.during("lock", self.directory.display())?;
        let lock = lock.filter(|_| !self.is_served()).ok_or_else(|| {
            Error::new(
                ErrorKind::Busy,
                "another process already serves the layers of this root; end it first",
            )
            .subject(self.directory.display())
        })?;
        // An earlier session may have left a file system that nothing serves. Images that use it
        // must be mounted again.
        while MountedDirs::read_own().has(&served) {
            let mode = UnmountMode {
                lazy: true,
                ..UnmountMode::default()
            };
            mount::unmount(&served, mode)?;
        }
        Ok(Held {
            device: cas_lazyfs::mount(&served)?,
            _lock: lock,
        })
    }

    /// Serves a session until its file system is unmounted. After the root was removed, this call
    /// itself unmounts the file system once no mounted image uses it. No further image can then be
    /// mounted with this session, even if a new root is at the path of the removed root.
    /// `is_resumed` states whether another process has served the session before. If `is_resumed`
    /// is true, this call also answers the requests that the other process has left unanswered.
    ///
    /// # Errors
    /// `Unsupported` if `is_resumed` is true, and the kernel is older than Linux 6.9 and so cannot
    /// resend requests; errors of the system. If a fetch fails, only the reads that need the
    /// fetched data fail.
    pub fn serve(&self, device: OwnedFd, is_resumed: bool) -> Result<()> {
        let fetch = FromRegistry::new(self.settings.clone())?;
        let files = Files::new(self.snapshots(), Arc::new(fetch)).with_speed(self.speed);
        let lifetime = Arc::new(Lifetime::of_session(&self.directory));
        let asked = Arc::clone(&lifetime);
        let session = Session::new(device, files).with_validity(move || asked.is_valid());
        if is_resumed {
            session.resume()?;
        }
        let ends = self.ends_without_layers;
        let (end, ended) = mpsc::channel();
        thread::scope(|scope| {
            // Without this thread, the session lasts until it is unmounted.
            let _ = thread::Builder::new()
                .spawn_scoped(scope, move || lifetime.end_when_unused(ends, &ended));
            let served = session.serve();
            drop(end);
            served
        })
    }

    /// Returns the files that were read on demand from these layers, in all sessions so far, with
    /// the parts that were read. Each path is returned once. The files of the first layer come first, in the order in
    /// which they were first read. Reads are recorded only for layers with a zTOC. Files that were
    /// first read within the last second may be missing.
    ///
    /// # Errors
    /// `Corrupt` if the description or the table of contents of any layer of the root is damaged;
    /// `Unsupported` if the version of a table is not supported, or if the layer of a table cannot
    /// be read on demand; `OutOfRange` if a table exceeds a limit; errors of the file system.
    pub fn files_read(&self, layers: &[Descriptor]) -> Result<Vec<PrefetchFile>> {
        if !self.is_used() {
            return Ok(Vec::new());
        }
        let directory = self.snapshots();
        let snapshots = fs::read_dir(&directory).during("list", directory.display())?;
        let mut found: Vec<FilesRead> = Vec::new();
        for snapshot in snapshots {
            let path = snapshot.during("list", directory.display())?.path();
            match FilesRead::of_snapshot(&path) {
                // The layer is not read on demand, or the snapshot was just removed.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                read => found.push(read?),
            }
        }
        let mut files = Vec::new();
        for layer in layers {
            let of_layer = found.iter().filter(|read| read.layer == layer.digest);
            files.extend(of_layer.flat_map(|read| &read.files).cloned());
        }
        let mut known = BTreeSet::new();
        files.retain(|file: &PrefetchFile| known.insert(file.path().to_owned()));
        Ok(files)
    }

    /// Returns the directory of the snapshotter.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the directory that has one directory for each snapshot.
    fn snapshots(&self) -> PathBuf {
        self.directory.join("snapshots")
    }

    /// Returns the directory in which the data is served.
    fn served(&self) -> PathBuf {
        self.directory.join(snapshot_erofs::SERVED)
    }
}

/// Tables of contents for the pull of a root. As soon as a table is found, the root counts as
/// [used](OnDemand::is_used).
pub(crate) struct TablesOfRoot {
    pub(crate) tables: Arc<dyn LayerTables>,
    /// The directory of the snapshotter.
    pub(crate) directory: PathBuf,
}

#[async_trait]
impl LayerTables for TablesOfRoot {
    async fn tables(
        &self,
        root: &Descriptor,
        own: &Descriptor,
        manifest: &Manifest,
        layers: &[(Descriptor, Digest)],
    ) -> Result<Vec<Option<LayerTable>>> {
        let tables = self.tables.tables(root, own, manifest, layers).await?;
        if tables.iter().any(Option::is_some) {
            make_directory(&self.directory.join(snapshot_erofs::SERVED))?;
        }
        Ok(tables)
    }
}

fn make_directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.during("make directory", path.display())
}
