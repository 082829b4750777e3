//! A snapshotter of numbered directories. A [`SnapshotLayout`] defines the content of the
//! directories.
//!
//! ```text
//! ROOT/                 0700
//!   snapshots/          0700
//!     7/                0700, the directory of snapshot 7, locked while it is built
//!   manifests/          0700
//!     7                 attributes and checksums of all files of the committed snapshot 7
//!     6.replaced        the key of the snapshot that had the directory 6 before a repair
//!     8.kept            empty; the snapshot 8 may have the only copy of files
//! ```
//! The number, kind and parent of a snapshot are only in its record. The key of the record is the
//! key of the snapshot. A directory whose number is in no record has no meaning, and
//! [`Snapshotter::cleanup`] removes it when nothing uses it any more.
//!
//! - A directory is complete before its record is written.
//! - A view on a parent has no directory.
//! - A commit makes the content durable, then changes the record. It moves nothing on disk. If the
//!   layout packs the content, the commit stores the packed content in a new directory, and the
//!   record gets the number of that directory.
//! - A removal deletes the record, then the directory. Numbers are never reused, so a leftover
//!   directory does no harm.
//! - An active or committed snapshot that does not belong to a job has a `.kept` file. If the
//!   record of the snapshot is lost, this file keeps its directory. The file is made after the
//!   record, and removed before the record. So if a creation or a removal is killed, a directory
//!   without a record does not have the file either, and a cleanup removes the directory.
//!
//! The content of an active snapshot becomes durable when the snapshot is committed. After a power
//! loss before the commit, remove the snapshot and prepare it again.

mod layout;
mod leftovers;
mod removal;
mod seal;
mod stray_tars;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cas_core::error::{Context, Error, ErrorKind, Result};
use cas_core::labels::is_of_job;
use cas_core::records::{New, SnapshotRecord, Snapshots};
use cas_core::snapshot::{
    Commit, Condition, Depth, Info, LayerTarget, Mount, OnDemandBytes, SnapshotKind, Usage,
};
use cas_core::{Descriptor, Digest, Labels, Records, Snapshotter, pool};

pub use layout::SnapshotLayout;

use crate::calls::undisturbed;
use crate::in_use::MountedDirs;
use crate::regular_file::open_file;
use crate::{LockedDir, SnapshotDirs, TREE, make_tree};

/// The content of a new snapshot.
#[derive(Clone, Copy)]
enum NewTree {
    /// What [`SnapshotLayout::fill`] writes.
    Snapshot,
    /// An empty tree for the tar of a layer.
    Tar,
}

/// A snapshotter that keeps its snapshots in numbered directories.
pub struct DirSnapshotter<L> {
    layout: Arc<L>,
    snapshots: Snapshots,
    dirs: Arc<SnapshotDirs>,
    /// The numbers of the directories that the last call of [`Snapshotter::keep_tars`] has kept.
    kept_tars: Mutex<BTreeSet<u64>>,
    closed: AtomicBool,
}

impl<L: SnapshotLayout> DirSnapshotter<L> {
    /// Opens the snapshots below `root`, which is created if it is absent. Several processes may
    /// open the same snapshots.
    ///
    /// # Errors
    /// `Unsupported` if batches of `records` are not atomic; errors of the system.
    pub fn open(root: impl AsRef<Path>, records: Arc<dyn Records>) -> Result<Self> {
        let layout = L::open().during("open snapshotter", L::NAME)?;
        Self::with_layout(layout, root, records)
    }

    /// Does the same as [`open`](Self::open), but uses `layout` instead of the layout that
    /// [`SnapshotLayout::open`] returns.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_layout(
        layout: L,
        root: impl AsRef<Path>,
        records: Arc<dyn Records>,
    ) -> Result<Self> {
        let snapshots = Snapshots::new(records, L::NAME)?;
        Ok(DirSnapshotter {
            layout: Arc::new(layout),
            snapshots,
            dirs: Arc::new(SnapshotDirs::open(root)?),
            kept_tars: Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::precondition(
                "the snapshotter is closed; open it again",
            ));
        }
        Ok(())
    }

    /// Creates a snapshot: first its directory, then its record. Returns the record.
    async fn create(&self, new: &New<'_>, tree: NewTree) -> Result<SnapshotRecord> {
        self.check_open()?;
        let below = match self.snapshots.admit(new).await? {
            Some(parent) => self.ids_from(parent).await?,
            None => Vec::new(),
        };
        let (id, dir) = match (new.kind, below.is_empty()) {
            (SnapshotKind::View, false) => {
                self.ready(below, new).await?;
                (self.snapshots.fresh_id().await?, None)
            }
            _ => {
                let (id, dir) = self.build(below, new, tree).await?;
                (id, Some(dir))
            }
        };
        let created = self.snapshots.create(new, id).await;
        if let Err(error) = &created
            && dir.is_some()
            // After other errors, the record may have been written, and needs the directory.
            && is_certain(error)
        {
            self.remove_dir(id).await;
        }
        if created.is_ok() && dir.is_some() && new.kind == SnapshotKind::Active {
            self.keep(id, new.labels).await;
        }
        created
    }

    /// Makes the `.kept` file of `id`, unless a snapshot with these labels belongs to a job. If
    /// that fails, the directory does not stay if the record of the snapshot is lost.
    async fn keep(&self, id: u64, labels: &Labels) {
        if is_of_job(labels) {
            return;
        }
        let dirs = Arc::clone(&self.dirs);
        if let Err(error) = pool::run(move || dirs.keep(id)).await {
            let why = "cannot create the empty `.kept` file of a snapshot; create it by hand, or a \
                       garbage collection removes the directory if the snapshot's record is lost";
            tracing::warn!(id, %error, "{why}");
        }
    }

    /// Returns the number of a snapshot, and then the numbers of its ancestors, the nearest first.
    async fn ids_from(&self, record: SnapshotRecord) -> Result<Vec<u64>> {
        let below = self.snapshots.ancestors(&record).await?;
        let ids = std::iter::once(&record).chain(&below);
        Ok(ids.map(|record| record.id).collect())
    }

    /// Makes the files that the mounts of a new view need.
    async fn ready(&self, below: Vec<u64>, new: &New<'_>) -> Result<()> {
        let (layout, dirs) = (Arc::clone(&self.layout), Arc::clone(&self.dirs));
        let ready = pool::run(move || layout.ready(&dirs, &below)).await;
        if ready.is_err() {
            // If the parent was removed meanwhile, this call returns the better error.
            self.snapshots.admit(new).await?;
        }
        ready
    }

    /// Creates and fills a new directory. Returns its number and the locked directory.
    async fn build(
        &self,
        below: Vec<u64>,
        new: &New<'_>,
        tree: NewTree,
    ) -> Result<(u64, LockedDir)> {
        let below = Arc::new(below);
        let (layout, dirs) = (Arc::clone(&self.layout), Arc::clone(&self.dirs));
        let built = self.in_new_dir(move |dir| {
            match tree {
                NewTree::Snapshot => layout.fill(&dirs, &dir, &below)?,
                NewTree::Tar => make_tree(&dir)?,
            }
            dirs.sync(&dir)?;
            Ok(dir)
        });
        match built.await {
            Ok(built) => Ok(built),
            Err(error) => {
                // If the parent was removed meanwhile, this call returns the better error.
                self.snapshots.admit(new).await?;
                Err(error)
            }
        }
    }

    /// Creates a new directory and calls `fill` with it, which may wait for the lock of a directory.
    /// Returns its number and the result. After an error, removes the directory.
    async fn in_new_dir<T, F>(&self, fill: F) -> Result<(u64, T)>
    where
        T: Send + 'static,
        F: Fn(LockedDir) -> Result<T> + Clone + Send + 'static,
    {
        loop {
            let id = self.snapshots.fresh_id().await?;
            let (dirs, fill) = (Arc::clone(&self.dirs), fill.clone());
            let filled = move || dirs.create(id)?.map(fill).transpose();
            let filled = pool::apart(THREAD, filled).await;
            match filled {
                Ok(Some(filled)) => return Ok((id, filled)),
                // A leftover has this number, or a cleanup has taken the directory; try the next.
                Ok(None) => {}
                Err(error) => {
                    self.remove_dir(id).await;
                    return Err(error);
                }
            }
        }
    }

    /// Creates a snapshot. Returns its mounts. A snapshot that cannot be mounted is removed again.
    async fn make(&self, new: &New<'_>) -> Result<Vec<Mount>> {
        let record = self.create(new, NewTree::Snapshot).await?;
        let info = record.info(new.key);
        let below = self.ids_from(record.clone()).await?.split_off(1);
        let (layout, dirs) = (Arc::clone(&self.layout), Arc::clone(&self.dirs));
        let mounts = pool::run(move || layout.mounts(&dirs, &record, &below)).await;
        if mounts.is_err() {
            // Only the first error is returned. If the removal fails, the snapshot stays.
            let _ = self.remove_seen(&info).await;
        }
        mounts
    }
}

/// The name of the threads that may wait for the lock of a directory. On the pool, they would occupy
/// the threads that the owner of the lock needs.
const THREAD: &str = "cas-snapshot";

/// Returns whether it is certain after this error that no record was written.
fn is_certain(error: &Error) -> bool {
    use ErrorKind::{AlreadyExists, Conflict, Full, InvalidArgument, NotFound};
    matches!(
        error.kind(),
        AlreadyExists | Conflict | Full | InvalidArgument | NotFound
    )
}

#[async_trait]
impl<L: SnapshotLayout> Snapshotter for DirSnapshotter<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn rebases(&self) -> bool {
        L::REBASES
    }

    fn keeps_tars(&self) -> bool {
        L::TARS
    }

    fn os_features(&self) -> &'static [&'static str] {
        self.layout.os_features()
    }

    async fn open_tar(&self, key: &str) -> Result<Option<File>> {
        self.check_open()?;
        let record = self.snapshots.load(key).await?;
        let committed = record.filter(|one| L::TARS && one.kind == SnapshotKind::Committed);
        let Some(record) = committed else {
            return Ok(None);
        };
        let path = self.layout.tar(&self.dirs, record.id);
        pool::run(move || match undisturbed(|| path.symlink_metadata()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => open_file(&path).during("open", path.display()).map(Some),
        })
        .await
    }

    async fn use_ready_layer(
        &self,
        key: &str,
        layer: &Descriptor,
        diff_id: &Digest,
    ) -> Result<bool> {
        self.check_open()?;
        let record = self.snapshots.find(key).await?;
        record.must_be_active(key)?;
        let (layout, dirs) = (Arc::clone(&self.layout), Arc::clone(&self.dirs));
        let (layer, diff_id) = (layer.clone(), *diff_id);
        let used = move || layout.use_ready_layer(&dirs, record.id, &layer, &diff_id);
        pool::run(used).await.during("prepare snapshot", key)
    }

    async fn has_ready_layer(&self, key: &str) -> Result<bool> {
        self.check_open()?;
        if !L::TARS {
            return Ok(false);
        }
        let record = self.snapshots.find(key).await?;
        let (layout, dirs) = (Arc::clone(&self.layout), Arc::clone(&self.dirs));
        let is_committed = record.kind == SnapshotKind::Committed;
        pool::run(move || Ok(is_committed && layout.has_ready_layer(&dirs, record.id))).await
    }

    async fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        let new = New {
            key,
            kind: SnapshotKind::Active,
            parent,
            labels: &labels,
        };
        self.make(&new).await.during("prepare snapshot", key)
    }

    async fn prepare_layer(
        &self,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
    ) -> Result<LayerTarget> {
        if !L::TARS {
            return self
                .prepare(key, parent, labels)
                .await
                .map(LayerTarget::Tree);
        }
        let new = New {
            key,
            kind: SnapshotKind::Active,
            parent,
            labels: &labels,
        };
        let made = self.create(&new, NewTree::Tar).await;
        let id = made.during("prepare snapshot", key)?.id;
        Ok(LayerTarget::Tar(self.dirs.path(id).join(TREE)))
    }

    async fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        let new = New {
            key,
            kind: SnapshotKind::View,
            parent,
            labels: &labels,
        };
        self.make(&new).await.during("view snapshot", key)
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        self.check_open()?;
        let record = self.snapshots.find(key).await?;
        if record.kind == SnapshotKind::Committed {
            let message =
                "a committed snapshot cannot be mounted; prepare or view a snapshot on it";
            return Err(Error::precondition(message).subject(key));
        }
        let below = self.ids_from(record.clone()).await?.split_off(1);
        let (layout, dirs) = (Arc::clone(&self.layout), Arc::clone(&self.dirs));
        let mounts = pool::run(move || {
            layout.ready(&dirs, &below)?;
            layout.mounts(&dirs, &record, &below)
        });
        mounts.await.during("mount snapshot", key)
    }

    async fn commit(&self, name: &str, key: &str, options: Commit) -> Result<()> {
        self.check_open()?;
        let record = self.snapshots.find(key).await?;
        record.must_be_active(key)?;
        if record.new_parent(key, &options)?.is_some() && !L::REBASES {
            let message = "this snapshotter cannot add a parent to a snapshot; prepare the \
                           snapshot on that parent";
            return Err(Error::unsupported(message).operation("commit").subject(key));
        }
        let sealed = self.seal(&record, &options).await;
        let (dirs, content) = sealed.during("commit snapshot", key)?;
        // So what a kill after the commit leaves of a packed snapshot is a leftover.
        if content.id.is_some() || is_of_job(&options.labels) {
            let (dirs, id) = (Arc::clone(&self.dirs), record.id);
            pool::run(move || dirs.end_keep(id)).await?;
        }
        let committed = self.snapshots.commit(name, key, &options, content).await;
        self.end_pack(record.id, content, &committed).await;
        match &committed {
            Ok(committed) => self.keep(committed.id, &options.labels).await,
            Err(_) => self.keep(record.id, &record.labels).await,
        }
        drop(dirs);
        committed.map(|_| ()).during("commit snapshot", key)
    }

    async fn remove_seen(&self, seen: &Info) -> Result<bool> {
        self.check_open()?;
        let begun = self.begin_removal(&seen.key).await;
        let removed = self.snapshots.remove_seen(seen).await;
        let ended = self.end_removal(begun, removed).await;
        ended.during("remove snapshot", &seen.key)
    }

    async fn remove(&self, key: &str) -> Result<()> {
        self.check_open()?;
        let begun = self.begin_removal(key).await;
        let removed = self.snapshots.remove(key).await.map(Some);
        let ended = self.end_removal(begun, removed).await;
        ended.map(drop).during("remove snapshot", key)
    }

    async fn stat(&self, key: &str) -> Result<Option<Info>> {
        self.check_open()?;
        let record = self.snapshots.load(key).await?;
        Ok(record.map(|record| record.info(key)))
    }

    async fn update(&self, key: &str, labels: Labels, fieldpaths: &[&str]) -> Result<Info> {
        self.check_open()?;
        let updated = self.snapshots.update(key, &labels, fieldpaths).await;
        updated.during("update snapshot", key)
    }

    /// A view on a parent takes no space.
    async fn usage(&self, key: &str) -> Result<Usage> {
        self.check_open()?;
        let record = self.snapshots.find(key).await?;
        if let Some(mut usage) = record.usage {
            let (layout, dirs) = (Arc::clone(&self.layout), Arc::clone(&self.dirs));
            usage += pool::run(move || layout.added(&dirs, record.id)).await?;
            return Ok(usage);
        }
        if record.kind == SnapshotKind::View && record.parent.is_some() {
            return Ok(Usage::default());
        }
        let dirs = Arc::clone(&self.dirs);
        pool::run(move || dirs.measure(record.id)).await
    }

    async fn on_demand(&self, key: &str) -> Result<Option<OnDemandBytes>> {
        self.check_open()?;
        let record = self.snapshots.find(key).await?;
        let (layout, dirs) = (Arc::clone(&self.layout), Arc::clone(&self.dirs));
        pool::run(move || layout.on_demand(&dirs, record.id)).await
    }

    async fn measure(&self, key: &str) -> Result<Usage> {
        self.check_open()?;
        let record = self.snapshots.find(key).await?;
        record.must_be_active(key)?;
        self.describe(record.id).await
    }

    async fn walk(&self, after: Option<&str>, limit: usize) -> Result<Vec<Info>> {
        self.check_open()?;
        self.snapshots.walk(after, limit).await
    }

    /// A view on a parent has no directory.
    async fn check(&self, key: &str, depth: Depth) -> Result<Condition> {
        self.check_open()?;
        let record = self.snapshots.find(key).await?;
        if record.kind == SnapshotKind::View && record.parent.is_some() {
            return Ok(Condition::Sound);
        }
        let (layout, dirs) = (Arc::clone(&self.layout), Arc::clone(&self.dirs));
        let key = key.to_owned();
        pool::run(move || layout.check(&dirs, &key, &record, depth)).await
    }

    async fn is_unlisted(&self, key: &str) -> Result<bool> {
        self.check_open()?;
        let record = self.snapshots.find(key).await?;
        let (dirs, is_committed) = (
            Arc::clone(&self.dirs),
            record.kind == SnapshotKind::Committed,
        );
        pool::run(move || Ok(is_committed && !dirs.has_manifest(record.id)?)).await
    }

    async fn repair(&self, key: &str, per_second: Option<u64>) -> Result<bool> {
        self.check_open()?;
        let record = self.snapshots.find(key).await?;
        let (layout, dirs) = (Arc::clone(&self.layout), Arc::clone(&self.dirs));
        let (name, is_committed) = (key.to_owned(), record.kind == SnapshotKind::Committed);
        let repair = move || Ok(is_committed && layout.repair(&dirs, &name, &record, per_second)?);
        pool::run(repair).await.during("repair snapshot", key)
    }

    async fn replace(&self, key: &str, by: &str) -> Result<()> {
        self.check_open()?;
        let new = self.snapshots.find(by).await?;
        new.must_be_active(by)?;
        let sealed = self.seal(&new, &Commit::default()).await;
        let (_dirs, content) = sealed.during("replace snapshot", key)?;
        let old = self.snapshots.find(key).await?.id;
        let _old = self.lock_dir_to_remove(old).await;
        let (dirs, name) = (Arc::clone(&self.dirs), key.to_owned());
        let noted = move || {
            dirs.note_replaced(old, &name)?;
            dirs.end_keep(old)
        };
        pool::run(noted).await?;
        let replaced = self.snapshots.replace(key, by, content).await;
        self.end_pack(new.id, content, &replaced).await;
        let old = replaced.during("replace snapshot", key)?;
        if !self.is_in_use(old, &MountedDirs::read()).await? {
            self.remove_dir(old).await;
        }
        Ok(())
    }

    async fn damaged_records(&self, remove: bool) -> Result<Vec<String>> {
        self.check_open()?;
        self.snapshots.damaged(remove).await
    }

    async fn leftovers(&self) -> Result<Vec<Usage>> {
        self.check_open()?;
        self.measure_leftovers().await
    }

    async fn cleanup(&self) -> Result<Usage> {
        self.check_open()?;
        self.remove_leftovers().await
    }

    async fn lost(&self) -> Result<Vec<PathBuf>> {
        self.check_open()?;
        let lost = self.find_lost().await?;
        Ok(lost.into_iter().map(|id| self.dirs.path(id)).collect())
    }

    async fn unnamed_tars(&self) -> Result<Vec<PathBuf>> {
        self.check_open()?;
        let found = self.find_unnamed_tars().await?;
        Ok(found.into_values().collect())
    }

    async fn keep_tars(&self, needed: &BTreeSet<Digest>) -> Result<BTreeMap<Digest, PathBuf>> {
        self.check_open()?;
        self.keep_needed_tars(needed).await
    }

    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        Ok(())
    }
}
