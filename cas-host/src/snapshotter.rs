//! A snapshotter of numbered directories. A [`SnapshotLayout`] defines what is in them.
//!
//! ```text
//! ROOT/                 0700
//!   snapshots/          0700
//!     7/                0700, the directory of snapshot 7, locked while it is built
//!   manifests/          0700
//!     7                 attributes and checksums of all files of the committed snapshot 7
//! ```
//! Only the records have the number, kind and parent of a snapshot, by its key. A directory whose
//! number is in no record has no meaning, and [`Snapshotter::cleanup`] removes it.
//!
//! - A directory is complete before its record is written.
//! - A view on a parent has no directory.
//! - A commit makes the content durable, then changes the record. It moves nothing on disk.
//! - A removal deletes the record, then the directory. Numbers are never reused, so a leftover
//!   directory does no harm.
//!
//! The content of an active snapshot becomes durable when it is committed. After a power loss
//! before the commit, remove the snapshot and prepare it again.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use cas_core::error::{Context, Error, ErrorKind, Result};
use cas_core::records::{New, SnapshotRecord, Snapshots};
use cas_core::snapshot::{Commit, Condition, Depth, Info, Mount, SnapshotKind, Usage};
use cas_core::{Labels, Records, Snapshotter, pool};

use crate::in_use::MountedDirs;
use crate::{LockedDir, SnapshotDirs, measure};

/// Maximum number of leftovers that `cleanup` and `leftovers` lock at a time.
const LOCKED_LEFTOVERS: usize = 64;

/// The content of a snapshotter's directories, and how it is mounted.
pub trait SnapshotLayout: Sized + Send + Sync + 'static {
    /// The name of the snapshotter.
    const NAME: &'static str;

    /// Whether a commit may add a parent to a snapshot without one: the result of
    /// [`Snapshotter::rebases`].
    const REBASES: bool;

    /// Finds out what this system supports. Returns the layout for it.
    ///
    /// # Errors
    /// Errors of the system.
    fn open() -> Result<Self>;

    /// Fills the new directory of a snapshot. `parent` is the number of its parent, if it has one.
    ///
    /// # Errors
    /// Errors of the file system. The directory is then removed.
    fn fill(&self, dirs: &SnapshotDirs, new: &LockedDir, parent: Option<u64>) -> Result<()>;

    /// Returns the mount of an active snapshot or a view. `below` has the numbers of its ancestors,
    /// nearest first.
    fn mount(&self, dirs: &SnapshotDirs, snapshot: &SnapshotRecord, below: &[u64]) -> Mount;
}

/// Snapshots as numbered directories.
pub struct DirSnapshotter<L> {
    layout: Arc<L>,
    snapshots: Snapshots,
    dirs: Arc<SnapshotDirs>,
    closed: AtomicBool,
}

impl<L: SnapshotLayout> DirSnapshotter<L> {
    /// Opens the snapshots below `root`, which is created if it is absent. Several processes may
    /// open the same snapshots.
    ///
    /// # Errors
    /// `Unsupported` if batches of `records` are not atomic; errors of the system.
    pub fn open(root: impl AsRef<Path>, records: Arc<dyn Records>) -> Result<Self> {
        let snapshots = Snapshots::new(records, L::NAME)?;
        Ok(DirSnapshotter {
            layout: Arc::new(L::open().during("open snapshotter", L::NAME)?),
            snapshots,
            dirs: Arc::new(SnapshotDirs::open(root)?),
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

    /// Creates a snapshot: first its directory, then its record. Returns its mounts.
    async fn create(
        &self,
        key: &str,
        kind: SnapshotKind,
        parent: Option<&str>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        self.check_open()?;
        let new = New {
            key,
            kind,
            parent,
            labels,
        };
        let parent = self.snapshots.admit(&new).await?;
        let below = parent.as_ref().map(|parent| parent.id);
        let (id, dir) = match (new.kind, below) {
            (SnapshotKind::View, Some(_)) => (self.snapshots.fresh_id().await?, None),
            _ => {
                let (id, dir) = self.build(below, &new).await?;
                (id, Some(dir))
            }
        };
        let outcome = self.snapshots.create(&new, id).await;
        match outcome {
            Ok(record) => self.mounts_of(&record).await,
            Err(error) => {
                // After other errors, the record may have been written, and needs the directory.
                if dir.is_some() && is_certain(&error) {
                    self.remove_dir(id).await;
                }
                Err(error)
            }
        }
    }

    /// Creates and fills a new directory. Returns its number and the locked directory.
    async fn build(&self, parent: Option<u64>, new: &New<'_>) -> Result<(u64, LockedDir)> {
        loop {
            let id = self.snapshots.fresh_id().await?;
            let (layout, dirs) = (Arc::clone(&self.layout), Arc::clone(&self.dirs));
            let built = pool::run(move || build(&*layout, &dirs, id, parent)).await;
            match built {
                Ok(Some(dir)) => return Ok((id, dir)),
                // A leftover has this number; try the next.
                Ok(None) => {}
                Err(error) => {
                    self.remove_dir(id).await;
                    // If the parent was removed meanwhile, this call returns the better error.
                    self.snapshots.admit(new).await?;
                    return Err(error);
                }
            }
        }
    }

    /// Removes a directory that no record names. If that fails, it is left to `cleanup`.
    async fn remove_dir(&self, id: u64) {
        let dirs = Arc::clone(&self.dirs);
        if let Err(error) = pool::run(move || dirs.remove(id)).await {
            tracing::warn!(id, %error, "cannot remove a snapshot directory; cleanup will do it");
        }
    }

    async fn mounts_of(&self, record: &SnapshotRecord) -> Result<Vec<Mount>> {
        let below = self.snapshots.ancestors(record).await?;
        let below: Vec<u64> = below.iter().map(|record| record.id).collect();
        Ok(vec![self.layout.mount(&self.dirs, record, &below)])
    }

    /// Removes the manifests that have neither a directory nor a record. Returns the freed space.
    async fn remove_manifests(&self) -> Result<Usage> {
        let dirs = Arc::clone(&self.dirs);
        let found = pool::run(move || dirs.without_directory()).await?;
        let mut freed = Usage::default();
        if found.is_empty() {
            return Ok(freed);
        }
        let named = self.snapshots.named_ids().await?;
        for id in found.difference(&named) {
            freed.inodes += self.dirs.remove_manifest(*id)?;
        }
        Ok(freed)
    }

    /// Returns the numbers of the directories that no record names.
    async fn unnamed(&self) -> Result<Vec<u64>> {
        let found: BTreeSet<u64> = self.dirs.ids()?.into_iter().collect();
        let named = self.snapshots.named_ids().await?;
        Ok(found.difference(&named).copied().collect())
    }

    /// Returns whether a directory that no record names may be mounted: a mount shows its path, or
    /// it was replaced and snapshots that used it still exist.
    async fn is_in_use(&self, id: u64, mounted: &MountedDirs) -> Result<bool> {
        if mounted.may_use(&self.dirs.path(id)) {
            return Ok(true);
        }
        match self.dirs.replaced_key(id)? {
            Some((key, time)) => self.snapshots.has_users(&key, time).await,
            None => Ok(false),
        }
    }

    /// Returns the candidates that no record names and no mount uses, locked so that no process
    /// builds or commits them.
    async fn lock_leftovers(
        &self,
        candidates: &[u64],
        mounted: &MountedDirs,
    ) -> Result<Vec<(u64, LockedDir)>> {
        let mut locked = Vec::new();
        for id in candidates {
            let dir = self.dirs.try_lock_exclusive(*id)?;
            locked.extend(dir.map(|dir| (*id, dir)));
        }
        let named = self.snapshots.named_ids().await?;
        let mut leftovers = Vec::new();
        for (id, dir) in locked {
            if !named.contains(&id) && !self.is_in_use(id, mounted).await? {
                leftovers.push((id, dir));
            }
        }
        Ok(leftovers)
    }
}

/// Returns whether it is certain after this error that no record was written.
fn is_certain(error: &Error) -> bool {
    use ErrorKind::{AlreadyExists, Conflict, Full, InvalidArgument, NotFound};
    matches!(
        error.kind(),
        AlreadyExists | Conflict | Full | InvalidArgument | NotFound
    )
}

/// Creates and fills the directory of a snapshot. Returns `None` if its number is taken.
fn build<L: SnapshotLayout>(
    layout: &L,
    dirs: &SnapshotDirs,
    id: u64,
    parent: Option<u64>,
) -> Result<Option<LockedDir>> {
    let Some(dir) = dirs.create(id)? else {
        return Ok(None);
    };
    layout.fill(dirs, &dir, parent)?;
    dirs.sync(&dir)?;
    Ok(Some(dir))
}

/// Makes the content of a snapshot durable, measures it and writes its manifest, unless the caller
/// has done so. Returns the usage and the directory, which the caller keeps locked until the record
/// is changed.
fn seal(dirs: &SnapshotDirs, id: u64, options: &Commit) -> Result<(LockedDir, Usage)> {
    let dir = dirs.lock_shared(id)?;
    if !options.synced {
        dirs.sync_content(&dir)?;
    }
    let usage = match options.usage {
        Some(usage) => usage,
        None => describe(dirs, id, &dir)?,
    };
    Ok((dir, usage))
}

/// Measures a snapshot and writes its manifest.
fn describe(dirs: &SnapshotDirs, id: u64, dir: &LockedDir) -> Result<Usage> {
    dirs.write_manifest(id, dir)?;
    measure(dir)
}

#[async_trait]
impl<L: SnapshotLayout> Snapshotter for DirSnapshotter<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn rebases(&self) -> bool {
        L::REBASES
    }

    async fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        let made = self
            .create(key, SnapshotKind::Active, parent, &labels)
            .await;
        made.during("prepare snapshot", key)
    }

    async fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        let made = self.create(key, SnapshotKind::View, parent, &labels).await;
        made.during("view snapshot", key)
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        self.check_open()?;
        let record = self.snapshots.find(key).await?;
        if record.kind == SnapshotKind::Committed {
            let message =
                "a committed snapshot cannot be mounted; prepare or view a snapshot on it";
            return Err(Error::precondition(message).subject(key));
        }
        self.mounts_of(&record).await
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
        let (dirs, id, how) = (Arc::clone(&self.dirs), record.id, options.clone());
        let (_dir, usage) = pool::run(move || seal(&dirs, id, &how)).await?;
        let committed = self.snapshots.commit(name, key, &options, usage).await;
        committed.map(|_| ()).during("commit snapshot", key)
    }

    async fn remove_seen(&self, seen: &Info) -> Result<bool> {
        self.check_open()?;
        let removed = self.snapshots.remove_seen(seen).await;
        let Some(record) = removed.during("remove snapshot", &seen.key)? else {
            return Ok(false);
        };
        self.remove_dir(record.id).await;
        Ok(true)
    }

    async fn remove(&self, key: &str) -> Result<()> {
        self.check_open()?;
        let removed = self.snapshots.remove(key).await;
        let record = removed.during("remove snapshot", key)?;
        self.remove_dir(record.id).await;
        Ok(())
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
        if let Some(usage) = record.usage {
            return Ok(usage);
        }
        if record.kind == SnapshotKind::View && record.parent.is_some() {
            return Ok(Usage::default());
        }
        let path = self.dirs.path(record.id);
        pool::run(move || {
            let dir = File::open(&path).during("measure", path.display())?;
            measure(&dir)
        })
        .await
    }

    async fn measure(&self, key: &str) -> Result<Usage> {
        self.check_open()?;
        let record = self.snapshots.find(key).await?;
        record.must_be_active(key)?;
        let (dirs, id) = (Arc::clone(&self.dirs), record.id);
        pool::run(move || describe(&dirs, id, &dirs.lock_shared(id)?)).await
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
        let dirs = Arc::clone(&self.dirs);
        pool::run(move || dirs.check(record.id, depth)).await
    }

    async fn replace(&self, key: &str, by: &str) -> Result<()> {
        self.check_open()?;
        let new = self.snapshots.find(by).await?;
        new.must_be_active(by)?;
        let dirs = Arc::clone(&self.dirs);
        let (_dir, usage) = pool::run(move || seal(&dirs, new.id, &Commit::default())).await?;
        let old = self.snapshots.find(key).await?.id;
        self.dirs.note_replaced(old, key)?;
        let replaced = self.snapshots.replace(key, by, usage).await;
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
        let (mut found, candidates) = (Vec::new(), self.unnamed().await?);
        if candidates.is_empty() {
            return Ok(found);
        }
        let mounted = MountedDirs::read();
        for some in candidates.chunks(LOCKED_LEFTOVERS) {
            let leftovers = self.lock_leftovers(some, &mounted).await?;
            let measured = pool::run(move || {
                let measured = leftovers.iter().map(|(_, dir)| dir.usage());
                measured.collect::<Result<Vec<Usage>>>()
            });
            found.extend(measured.await?);
        }
        Ok(found)
    }

    /// A record may change its key while the records are listed, so the candidates are locked and
    /// looked up again. A locked directory is neither built nor committed.
    async fn cleanup(&self) -> Result<Usage> {
        self.check_open()?;
        let mut freed = self.remove_manifests().await?;
        let candidates = self.unnamed().await?;
        if candidates.is_empty() {
            return Ok(freed);
        }
        let mounted = MountedDirs::read();
        for some in candidates.chunks(LOCKED_LEFTOVERS) {
            let leftovers = self.lock_leftovers(some, &mounted).await?;
            let dirs = Arc::clone(&self.dirs);
            freed += pool::run(move || {
                let mut freed = Usage::default();
                for (id, _dir) in &leftovers {
                    match dirs.remove(*id) {
                        Err(error) if error.kind() == ErrorKind::Busy => {
                            tracing::debug!(id, %error, "a leftover is in use");
                        }
                        removed => freed += removed?,
                    }
                }
                Ok(freed)
            })
            .await?;
        }
        Ok(freed)
    }

    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        Ok(())
    }
}
