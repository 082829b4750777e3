//! The directories of the runs of `cas run`, including those that killed runs have left.
//!
//! ```text
//! ROOT/run/      0700
//!   ID.lock      locked until the run and all programs that it has started have ended
//!   ID/          the bundle of the run
//! ```
//! The lock file is made before the bundle, and removed after the bundle. So if an ended run has
//! left files, its lock file is one of them, and is not locked.

use std::fs::File;
use std::path::{Path, PathBuf};

use cas_core::gc::Leftover;
use cas_core::records::Resource;
use cas_core::snapshot::Usage;
use cas_core::{Context, Result, pool, unique};
use cas_host::calls::{is_file, make_dirs, undisturbed};
use cas_host::{Dir, Lock, resolved};

use super::leftovers::with_size;
use super::{Cas, mounted};

/// The directory of all runs in a root.
const RUNS: &str = "run";
/// The end of the name of a lock file. The rest is the id of the run.
const LOCK: &str = ".lock";

/// The lock file of a run, and the path of its bundle. The file is locked while this value exists.
pub struct Run {
    runs: Dir,
    id: String,
    bundle: PathBuf,
    lock: Lock,
}

impl Run {
    /// Returns the id of the run, which is also the id of its container.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the path of the bundle, without symbolic links, because runtimes require this. A new
    /// run has no bundle yet.
    pub fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// Returns the open lock file. A process that inherits its descriptor keeps the run locked.
    pub fn lock(&self) -> &File {
        self.lock.file()
    }

    /// Removes the lock file. The caller must remove the bundle first.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn end(self) -> Result<()> {
        let removed = self.runs.remove(&*lock_file(&self.id));
        removed.during("remove", self.bundle.display()).map(drop)
    }
}

/// A run that has ended, and whose files are still there because its process was killed. Another
/// process may remove these files at any time.
pub struct EndedRun {
    id: String,
    bundle: PathBuf,
    /// The disk usage of the run's lock file and bundle, without directories that this process
    /// cannot read.
    pub usage: Usage,
    /// The snapshot that was made for the root file system of the run, and the disk usage of the
    /// snapshot in bytes. `None` if the snapshot does not exist.
    pub snapshot: Option<(Resource, u64)>,
}

impl EndedRun {
    /// Returns the files of the run as a leftover.
    pub fn leftover(&self) -> Leftover {
        Leftover {
            place: format!("{RUNS}/{}", self.id),
            usage: self.usage,
        }
    }

    /// Locks the run, so that no other process removes its files. Returns `None` if another process
    /// removes them now or has removed them.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn lock(self) -> Result<Option<Run>> {
        let EndedRun { id, bundle, .. } = self;
        let place = bundle.parent().unwrap_or(Path::new("/"));
        let runs = Dir::open(place).during("open", place.display())?;
        let lock = Lock::try_existing(&runs, &lock_file(&id));
        let lock = lock.during("lock", bundle.display())?;
        Ok(lock.map(|lock| Run {
            runs,
            id,
            bundle,
            lock,
        }))
    }
}

impl Cas {
    /// Makes and locks the lock file of a new run, but does not make the bundle. Returns the run.
    ///
    /// # Errors
    /// `FailedPrecondition` if the root has no snapshotter; errors of the file system.
    pub async fn begin_run(&self) -> Result<Run> {
        let (place, prefix) = (self.root.path().join(RUNS), self.run_prefix()?);
        pool::run(move || {
            make_dirs(&place).during("create directory", place.display())?;
            let (runs, place) = open(&place)?;
            let id = unique::key(&prefix);
            let lock = Lock::exclusive(&runs, &lock_file(&id));
            let lock = lock.during("lock", place.display())?;
            let bundle = place.join(&id);
            Ok(Run {
                runs,
                id,
                bundle,
                lock,
            })
        })
        .await
    }

    /// Returns the runs that have ended, that used the snapshotter of this handle, and whose files
    /// are still there. Runs with another snapshotter can only be removed with that snapshotter
    /// (see [`Cas::with_each_snapshotter`]). Returns an empty list if the root has no snapshotter,
    /// or if the root cannot be written and runs can therefore not be locked.
    ///
    /// # Errors
    /// Errors of the file system and of the snapshotter.
    pub async fn ended_runs(&self) -> Result<Vec<EndedRun>> {
        // A root without a snapshotter has no runs.
        let (Ok(prefix), Ok(snapshotter)) = (self.run_prefix(), self.snapshotter()) else {
            return Ok(Vec::new());
        };
        if !self.root.is_writable() {
            return Ok(Vec::new());
        }
        let place = self.root.path().join(RUNS);
        let mut found = pool::run(move || ended(&place, &prefix)).await?;
        for ended in &mut found {
            let key = mounted::key(&ended.bundle.join("rootfs"))?;
            if snapshotter.stat(&key).await?.is_some() {
                ended.snapshot = Some(with_size(&**snapshotter, key).await);
            }
        }
        Ok(found)
    }

    /// Returns whether `bundle` is the path of [`Run::bundle`] of a run that has not ended.
    pub(super) fn is_of_run(&self, bundle: &Path) -> bool {
        let (Some(place), Some(id)) = (bundle.parent(), bundle.file_name()) else {
            return false;
        };
        let lock = id.to_str().map(|id| place.join(lock_file(id)));
        lock.is_some_and(|lock| is_file(&lock))
            && resolved(place) == resolved(&self.root.path().join(RUNS))
    }

    /// Returns the beginning of the ids of runs that use the snapshotter of this handle.
    fn run_prefix(&self) -> Result<String> {
        Ok(format!("cas-{}", self.snapshotter()?.name()))
    }
}

/// Opens the directory of all runs. Returns the open directory and its path without symbolic links.
fn open(place: &Path) -> Result<(Dir, PathBuf)> {
    let path = undisturbed(|| place.canonicalize()).during("open", place.display())?;
    let dir = Dir::open(&path).during("open", path.display())?;
    Ok((dir, path))
}

/// Returns the runs whose ids begin with `prefix` and a dash, and whose locks are free. There may
/// be more of them than a process may have files open, so none stays locked.
fn ended(place: &Path, prefix: &str) -> Result<Vec<EndedRun>> {
    let prefix = format!("{prefix}-");
    // The directory is not made here, because there may be no space for it.
    if !undisturbed(|| place.try_exists()).during("open", place.display())? {
        return Ok(Vec::new());
    }
    let (dir, place) = open(place)?;
    let mut found = Vec::new();
    for entry in dir.entries().during("list", place.display())? {
        let id = entry.name.strip_suffix(LOCK);
        let Some(id) = id.filter(|id| id.starts_with(&prefix)) else {
            continue;
        };
        let lock = Lock::try_existing(&dir, &entry.name);
        let Some(_lock) = lock.during("lock", place.join(&entry.name).display())? else {
            continue;
        };
        let bundle = place.join(id);
        let mut usage = cas_host::measure_readable(&bundle);
        // The lock file, which is empty.
        usage.inodes += 1;
        found.push(EndedRun {
            id: id.to_owned(),
            bundle,
            usage,
            snapshot: None,
        });
    }
    Ok(found)
}

fn lock_file(id: &str) -> String {
    format!("{id}{LOCK}")
}
