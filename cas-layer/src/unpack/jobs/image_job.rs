//! The job of one image, locked by the process that works on it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use cas_core::sync::lock;
use cas_core::{Context, Digest, Error, ErrorKind, Result, limit};
use cas_host::{Dir, Lock, make_private_dir};

use super::record::{JobRecord, LayerJob, LayerState};
use super::{JobProblem, JobStorage};
use crate::apply::DeferredEffects;

/// The name of the file that is locked.
const LOCK: &str = "lock";
/// The name of the tree in the directory of a layer.
const TREE: &str = "fs";
/// The name of the file with the effects of a layer on the layers below it.
const EFFECTS: &str = "effects";

/// The job of one image: a directory and a state for each layer. The job is locked against all
/// other uses, in this process and others, until this value is dropped.
pub struct ImageJob {
    storage: Arc<dyn JobStorage>,
    id: String,
    path: PathBuf,
    dir: Dir,
    record: Mutex<JobRecord>,
    _lock: Lock,
}

impl ImageJob {
    /// Opens a job. Returns `None` if the job is in use, in this process or another one, or if it
    /// does not exist.
    pub(super) fn open(storage: &Arc<dyn JobStorage>, id: &str) -> Result<Option<Self>> {
        let Some((path, dir, _lock)) = lock_job(&**storage, id)? else {
            return Ok(None);
        };
        let record = JobRecord::read(&dir).map_err(|error| error.within(path.display()))?;
        let record = record.ok_or_else(|| {
            Error::corrupt("the unpack job has no record; a garbage collection will remove the job")
                .subject(path.display())
        })?;
        Ok(Some(Self::of(storage, id, path, dir, _lock, record)))
    }

    /// Creates a job with a record, and without directories of layers.
    pub(super) fn create(storage: &Arc<dyn JobStorage>, record: JobRecord) -> Result<Self> {
        loop {
            let id = storage.create()?;
            // A collection may have removed the directory, because it had no record yet.
            if let Some((path, dir, _lock)) = lock_job(&**storage, &id)? {
                record.write(&dir)?;
                return Ok(Self::of(storage, &id, path, dir, _lock, record));
            }
        }
    }

    fn of(
        storage: &Arc<dyn JobStorage>,
        id: &str,
        path: PathBuf,
        dir: Dir,
        lock: Lock,
        record: JobRecord,
    ) -> Self {
        ImageJob {
            storage: Arc::clone(storage),
            id: id.to_owned(),
            path,
            dir,
            record: Mutex::new(record),
            _lock: lock,
        }
    }

    /// Returns the identifier of the job in its storage.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the layers, in the order in which they were added.
    pub fn layers(&self) -> Vec<LayerJob> {
        lock(&self.record).layers.clone()
    }

    pub(super) fn image(&self) -> Digest {
        lock(&self.record).image
    }

    pub(super) fn is_expired(&self, now: SystemTime, boot: &str) -> bool {
        lock(&self.record).is_expired(now, boot)
    }

    /// Changes the record, and writes it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut JobRecord) -> Result<T>) -> Result<T> {
        let mut record = lock(&self.record);
        let mut changed = record.clone();
        let result = change(&mut changed)?;
        changed.write(&self.dir)?;
        *record = changed;
        Ok(result)
    }

    /// Adds a layer in progress. Returns its number.
    ///
    /// # Errors
    /// `OutOfRange` if the job has [`limit::LAYERS`] layers already; errors of the file system.
    pub fn add(&self, layer: Digest, diff_id: Digest) -> Result<u64> {
        self.change(|record| {
            if record.layers.len() >= limit::LAYERS {
                let most = limit::LAYERS;
                return Err(Error::out_of_range(format!(
                    "an unpack job has at most {most} layers; remove one before adding another"
                )));
            }
            let number = record.next_number;
            record.next_number += 1;
            record.layers.push(LayerJob {
                layer,
                diff_id,
                state: LayerState::InProgress,
                error: None,
                number,
            });
            Ok(number)
        })
    }

    fn layer_path(&self, number: u64) -> PathBuf {
        self.path.join(number.to_string())
    }

    /// Returns the directory that the layer `number` is unpacked into. It does not exist before
    /// [`ImageJob::make_tree`], or after it was moved to a snapshot.
    pub fn tree(&self, number: u64) -> PathBuf {
        self.layer_path(number).join(TREE)
    }

    /// Creates the empty directory that the layer `number` is unpacked into. First removes all
    /// files of the layer that an earlier attempt has left. Returns the path of the directory.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn make_tree(&self, number: u64) -> Result<PathBuf> {
        self.clear(number)?;
        let tree = self.tree(number);
        make_private_dir(&tree).during("make directory", tree.display())?;
        Ok(tree)
    }

    fn clear(&self, number: u64) -> Result<()> {
        let path = self.layer_path(number);
        match cas_host::remove_all(&path, true) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.during("remove", path.display()),
        }
    }

    /// Marks a layer in progress as done. The caller has completed and verified the tree of the
    /// layer. Saves `effects`, the effects that the layer has on the layers below it.
    ///
    /// # Errors
    /// [`JobProblem::UnknownLayerJob`]; `FailedPrecondition` if the layer is not in progress;
    /// errors of the file system.
    pub fn finish(&self, number: u64, effects: &DeferredEffects) -> Result<()> {
        let path = self.layer_path(number).join(EFFECTS);
        self.change(|record| {
            end(record, number, LayerState::Done, None)?;
            std::fs::write(&path, effects.to_bytes()).during("write", path.display())
        })
    }

    /// Marks a layer in progress as failed, and records the error.
    ///
    /// # Errors
    /// As [`ImageJob::finish`].
    pub fn fail(&self, number: u64, error: &Error) -> Result<()> {
        let failed = Some(error.to_string());
        self.change(|record| end(record, number, LayerState::Failed, failed))
    }

    /// Returns the effects that a layer has on the layers below it. The layer must be done.
    ///
    /// # Errors
    /// `NotFound` if the effects were not saved; `OutOfRange` if their file is too large; `Corrupt`
    /// if their file is damaged; errors of the file system.
    pub fn effects(&self, number: u64) -> Result<DeferredEffects> {
        let path = self.layer_path(number);
        let read = || {
            let bytes = Dir::open(&path)?.read(EFFECTS, limit::UNPACK_EFFECTS)?;
            let missing = || Error::not_found("the layer has no saved effects; unpack it again");
            DeferredEffects::from_bytes(&bytes.ok_or_else(missing)?)
        };
        read().during("read effects of", path.display())
    }

    /// Claims the first layer that has this digest and is done. The tree of the layer then belongs
    /// to the caller. Returns the number of the layer.
    ///
    /// # Errors
    /// [`JobProblem::NoLayers`], [`JobProblem::NoLayerJob`], [`JobProblem::NoneClaimable`]; errors
    /// of the file system.
    pub fn claim(&self, layer: &Digest) -> Result<u64> {
        self.change(|record| {
            if record.layers.is_empty() {
                return Err(JobProblem::NoLayers.into());
            }
            let mut same = record.layers.iter_mut().filter(|job| job.layer == *layer);
            let mut problem = JobProblem::NoLayerJob;
            loop {
                match same.next() {
                    None => return Err(Error::from(problem).subject(layer)),
                    Some(job) if job.state == LayerState::Done => {
                        job.state = LayerState::Claimed;
                        return Ok(job.number);
                    }
                    Some(_) => problem = JobProblem::NoneClaimable,
                }
            }
        })
    }

    /// Cancels the layer `number`, in any state.
    ///
    /// # Errors
    /// [`JobProblem::UnknownLayerJob`]; errors of the file system.
    pub fn cancel(&self, number: u64) -> Result<()> {
        self.change(|record| {
            let layer = record.layer(number).ok_or(JobProblem::UnknownLayerJob)?;
            layer.state = LayerState::Cancelled;
            Ok(())
        })
    }

    /// Removes the layer `number` from the job, and deletes the directory of the layer. The layer
    /// must be claimed or cancelled. If no layer is left, deletes the job. Returns whether the job
    /// was deleted.
    ///
    /// # Errors
    /// [`JobProblem::UnknownLayerJob`], [`JobProblem::CannotBeRemoved`]; errors of the storage and
    /// of the file system.
    pub fn remove(&self, number: u64) -> Result<bool> {
        let is_last = self.change(|record| {
            let layer = record.layer(number).ok_or(JobProblem::UnknownLayerJob)?;
            if !matches!(layer.state, LayerState::Claimed | LayerState::Cancelled) {
                return Err(Error::from(JobProblem::CannotBeRemoved).subject(layer.layer));
            }
            record.layers.retain(|layer| layer.number != number);
            Ok(record.layers.is_empty())
        })?;
        self.clear(number)?;
        if is_last {
            self.delete()?;
        }
        Ok(is_last)
    }

    /// Deletes the job and everything in it.
    ///
    /// # Errors
    /// Errors of the storage.
    pub fn delete(&self) -> Result<()> {
        self.storage.delete(&self.id)
    }
}

/// Ends a layer in progress with this state.
fn end(
    record: &mut JobRecord,
    number: u64,
    state: LayerState,
    error: Option<String>,
) -> Result<()> {
    let layer = record.layer(number).ok_or(JobProblem::UnknownLayerJob)?;
    if layer.state != LayerState::InProgress {
        return Err(Error::precondition(format!(
            "expected a layer in progress, found one in the state {:?}; begin a new job",
            layer.state
        ))
        .subject(layer.layer));
    }
    layer.state = state;
    layer.error = error;
    Ok(())
}

/// Opens and locks the directory of a job. Returns `None` if the job is locked already, by this
/// process or another one, or if it does not exist.
pub(super) fn lock_job(storage: &dyn JobStorage, id: &str) -> Result<Option<(PathBuf, Dir, Lock)>> {
    let lock = || -> Result<_> {
        let path = storage.path(id)?;
        let dir = Dir::open(&path).during("open directory", path.display())?;
        let lock = Lock::try_exclusive(&dir, LOCK).during("lock", path.display())?;
        Ok(lock.map(|lock| (path, dir, lock)))
    };
    match lock() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        locked => locked,
    }
}
