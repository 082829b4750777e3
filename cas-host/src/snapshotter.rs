//! A snapshotter of numbered directories; a [`Form`] says what is in them.
//!
//! ```text
//! ROOT/                 0700
//!   snapshots/          0700
//!     7/                0700, the directory of snapshot 7, locked while it is built
//! ```
//! Which key has which number, kind and parent is in the records, and only there. A directory
//! that no record names is nothing; [`Snapshotter::cleanup`] removes it.
//!
//! - A directory is complete before its record is written.
//! - A view on a parent has no directory of its own.
//! - A commit makes the content durable, then changes the record; nothing moves on disk.
//! - A removal deletes the record, then the directory. Numbers are never used again, so that a
//!   leftover stands in nobody's way.
//!
//! What an active snapshot holds is durable once it is committed; after a loss of power before
//! that, remove it and prepare it again.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use cas_core::error::{Context, Error, ErrorKind, Result};
use cas_core::records::{New, SnapshotRecord, Snapshots};
use cas_core::snapshot::{Commit, Info, Mount, SnapshotKind, Usage};
use cas_core::{Labels, Records, Snapshotter, pool};

use crate::{Held, SnapshotDirs, measure};

/// Leftovers that are held at once while they are looked up again.
const CLAIMS: usize = 64;

/// What the directories of a snapshotter hold, and how they are shown.
pub trait Form: Sized + Send + Sync + 'static {
    /// The scheme of the snapshotter.
    const NAME: &'static str;

    /// See [`Snapshotter::rebases`].
    const REBASES: bool;

    /// The form as this system has it.
    ///
    /// # Errors
    /// Those of the system.
    fn open() -> Result<Self>;

    /// Fills the new directory of a snapshot on `parent`.
    ///
    /// # Errors
    /// Those of the file system; the directory is then removed.
    fn fill(&self, dirs: &SnapshotDirs, new: &Held, parent: Option<u64>) -> Result<()>;

    /// How an active snapshot or a view is mounted; `below` are those it stands on, nearest first.
    fn mount(&self, dirs: &SnapshotDirs, snapshot: &SnapshotRecord, below: &[u64]) -> Mount;
}

/// Snapshots as numbered directories.
pub struct DirSnapshotter<F> {
    form: Arc<F>,
    snapshots: Snapshots,
    dirs: Arc<SnapshotDirs>,
    closed: AtomicBool,
}

impl<F: Form> DirSnapshotter<F> {
    /// Opens the snapshots below `root`, made where it is new; several processes may.
    ///
    /// # Errors
    /// `Unsupported` when `records` is not atomic; those of the system.
    pub fn open(root: impl AsRef<Path>, records: Arc<dyn Records>) -> Result<Self> {
        let snapshots = Snapshots::new(records, F::NAME)?;
        Ok(DirSnapshotter {
            form: Arc::new(F::open().during("open snapshotter", F::NAME)?),
            snapshots,
            dirs: Arc::new(SnapshotDirs::open(root)?),
            closed: AtomicBool::new(false),
        })
    }

    fn usable(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::precondition(
                "the snapshotter is closed; open it again",
            ));
        }
        Ok(())
    }

    /// Makes a snapshot: first its directory, then its record.
    async fn make(
        &self,
        key: &str,
        kind: SnapshotKind,
        parent: Option<&str>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        self.usable()?;
        let new = New {
            key,
            kind,
            parent,
            labels,
        };
        let parent = self.snapshots.admit(&new).await?;
        let below = parent.as_ref().map(|parent| parent.id);
        let (id, held) = match (new.kind, below) {
            (SnapshotKind::View, Some(_)) => (self.snapshots.fresh_id().await?, None),
            _ => {
                let (id, held) = self.build(below, &new).await?;
                (id, Some(held))
            }
        };
        let outcome = self.snapshots.create(&new, id).await;
        match outcome {
            Ok(record) => self.shown(&record).await,
            Err(error) => {
                // Any other error may have come after the record was written.
                if held.is_some() && is_final(&error) {
                    self.discard(id).await;
                }
                Err(error)
            }
        }
    }

    /// A new directory.
    async fn build(&self, parent: Option<u64>, new: &New<'_>) -> Result<(u64, Held)> {
        loop {
            let id = self.snapshots.fresh_id().await?;
            let (form, dirs) = (Arc::clone(&self.form), Arc::clone(&self.dirs));
            let built = pool::run(move || build(&*form, &dirs, id, parent)).await;
            match built {
                Ok(Some(held)) => return Ok((id, held)),
                // The number is taken by a leftover; the next one may not be.
                Ok(None) => {}
                Err(error) => {
                    self.discard(id).await;
                    // A parent that was removed meanwhile is the better answer.
                    self.snapshots.admit(new).await?;
                    return Err(error);
                }
            }
        }
    }

    /// Removes a directory that no record names; what cannot be removed is left to `cleanup`.
    async fn discard(&self, id: u64) {
        let dirs = Arc::clone(&self.dirs);
        if let Err(error) = pool::run(move || dirs.remove(id)).await {
            tracing::warn!(id, %error, "a snapshot's directory is left to cleanup");
        }
    }

    async fn shown(&self, record: &SnapshotRecord) -> Result<Vec<Mount>> {
        let below = self.snapshots.ancestors(record).await?;
        let below: Vec<u64> = below.iter().map(|record| record.id).collect();
        Ok(vec![self.form.mount(&self.dirs, record, &below)])
    }

    /// Which of these directories no record names, each held so that nobody builds or commits it.
    async fn leftovers(&self, candidates: &[u64]) -> Result<Vec<(u64, Held)>> {
        let mut held = Vec::new();
        for id in candidates {
            held.extend(self.dirs.claim(*id)?.map(|claim| (*id, claim)));
        }
        let named = self.snapshots.named_ids().await?;
        held.retain(|(id, _)| !named.contains(id));
        Ok(held)
    }
}

/// Whether nothing was recorded for certain.
fn is_final(error: &Error) -> bool {
    use ErrorKind::{AlreadyExists, Conflict, Full, InvalidArgument, NotFound};
    matches!(
        error.kind(),
        AlreadyExists | Conflict | Full | InvalidArgument | NotFound
    )
}

/// Makes the directory of a snapshot; nothing where its number is taken.
fn build<F: Form>(
    form: &F,
    dirs: &SnapshotDirs,
    id: u64,
    parent: Option<u64>,
) -> Result<Option<Held>> {
    let Some(held) = dirs.create(id)? else {
        return Ok(None);
    };
    form.fill(dirs, &held, parent)?;
    dirs.sync(&held)?;
    Ok(Some(held))
}

/// Makes the content of a snapshot durable and measures it, as far as that is not done; held until
/// its record has changed.
fn settle(dirs: &SnapshotDirs, id: u64, options: &Commit) -> Result<(Held, Usage)> {
    let held = dirs.hold(id)?;
    if !options.synced {
        dirs.sync_content(&held)?;
    }
    let usage = options.usage.map_or_else(|| measure(&held), Ok)?;
    Ok((held, usage))
}

#[async_trait]
impl<F: Form> Snapshotter for DirSnapshotter<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn rebases(&self) -> bool {
        F::REBASES
    }

    async fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        let made = self.make(key, SnapshotKind::Active, parent, &labels).await;
        made.during("prepare snapshot", key)
    }

    async fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        let made = self.make(key, SnapshotKind::View, parent, &labels).await;
        made.during("view snapshot", key)
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        self.usable()?;
        let record = self.snapshots.find(key).await?;
        if record.kind == SnapshotKind::Committed {
            let message = "a committed snapshot is not mounted; prepare or view one on it";
            return Err(Error::precondition(message).subject(key));
        }
        self.shown(&record).await
    }

    async fn commit(&self, name: &str, key: &str, options: Commit) -> Result<()> {
        self.usable()?;
        let record = self.snapshots.find(key).await?;
        record.must_be_active(key)?;
        if record.new_parent(key, &options)?.is_some() && !F::REBASES {
            let message = "a tree holds its parent's content; prepare it on the parent instead";
            return Err(Error::unsupported(message).operation("commit").subject(key));
        }
        let (dirs, id, how) = (Arc::clone(&self.dirs), record.id, options.clone());
        let (_held, usage) = pool::run(move || settle(&dirs, id, &how)).await?;
        let committed = self.snapshots.commit(name, key, &options, usage).await;
        committed.map(|_| ()).during("commit snapshot", key)
    }

    async fn remove_seen(&self, seen: &Info) -> Result<bool> {
        self.usable()?;
        let removed = self.snapshots.remove_seen(seen).await;
        let Some(record) = removed.during("remove snapshot", &seen.key)? else {
            return Ok(false);
        };
        self.discard(record.id).await;
        Ok(true)
    }

    async fn remove(&self, key: &str) -> Result<()> {
        self.usable()?;
        let removed = self.snapshots.remove(key).await;
        let record = removed.during("remove snapshot", key)?;
        self.discard(record.id).await;
        Ok(())
    }

    async fn stat(&self, key: &str) -> Result<Option<Info>> {
        self.usable()?;
        let record = self.snapshots.load(key).await?;
        Ok(record.map(|record| record.info(key)))
    }

    async fn update(&self, key: &str, labels: Labels, fieldpaths: &[&str]) -> Result<Info> {
        self.usable()?;
        let updated = self.snapshots.update(key, &labels, fieldpaths).await;
        updated.during("update snapshot", key)
    }

    /// A view on a parent takes nothing.
    async fn usage(&self, key: &str) -> Result<Usage> {
        self.usable()?;
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

    async fn walk(&self, after: Option<&str>, limit: usize) -> Result<Vec<Info>> {
        self.usable()?;
        self.snapshots.walk(after, limit).await
    }

    /// A record may change its key while they are listed, so that candidates are held and looked
    /// up again: what is held is neither built nor committed.
    async fn cleanup(&self) -> Result<Usage> {
        self.usable()?;
        let there: BTreeSet<u64> = self.dirs.ids()?.into_iter().collect();
        let named = self.snapshots.named_ids().await?;
        let candidates: Vec<u64> = there.difference(&named).copied().collect();
        let mut freed = Usage::default();
        for some in candidates.chunks(CLAIMS) {
            let leftovers = self.leftovers(some).await?;
            let dirs = Arc::clone(&self.dirs);
            freed += pool::run(move || {
                let mut freed = Usage::default();
                for (id, _held) in &leftovers {
                    freed += dirs.remove(*id)?;
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
